"""The study of a pretrained language model: what its arms share, what is measured beyond the levels, its tables."""

from __future__ import annotations

import importlib.util
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pilotage.backbones.load import load_backbone
from pilotage.errors import PilotageError
from pilotage.pictures import read_rgb
from pilotage.runs.measurement import examples_of
from pilotage.runs.recipe import Recipe
from pilotage.studies import smolvl as study_smolvl
from pilotage.studies.retention import QUESTIONS, SENTENCES, retention
from pilotage.studies.runs import run_part, run_study, write_tables
from pilotage.studies.smolvl import (
    BASE_RUN,
    LARGER,
    RETENTION,
    SMOLVL,
    STYLE,
    in_gymnasiums_pictures,
    measure_beyond,
    retention_table,
)
from pilotage.studies.study import Study
from pilotage.train.distill_config import AdapterOff, DistillConfig
from pilotage.train.sft_config import SftConfig

pytestmark = pytest.mark.usefixtures("one_thread")
gymnasium = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("gymnasium", "pygame")),
    reason="needs the extra gym",
)


def test_the_teacher_and_the_reference_answers_have_one_budget_adapter_and_rate() -> None:
    *_, distilled = SMOLVL.base_run(3).stages
    (cloning,) = [variant for variant in SMOLVL.variants if variant.make is not None]
    assert cloning.make is not None
    recipe = cloning.make(3, Path("base_run"))
    (copied,) = recipe.stages
    assert isinstance(distilled, DistillConfig) and isinstance(copied, SftConfig)
    assert recipe.backbone == "base_run/stage1/model" and recipe.seed == copied.seed == 3
    assert (copied.steps, copied.batch_size) == (distilled.steps, distilled.prompts_per_step)
    assert (copied.lora, copied.lr, copied.betas) == (distilled.lora, distilled.lr, distilled.betas)
    assert copied.lora is not None and distilled.all_weights == (AdapterOff(),)
    assert copied.image_view == "student" and copied.retention_share == 0


def test_without_its_base_the_study_tells_what_makes_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(PilotageError, match="pilotage models make smolvl runs/smolvl-base"):
        run_study(SMOLVL, tmp_path / "out", (0,), jobs=1, report=print)
    assert not (tmp_path / "out").exists()


@gymnasium
def test_gymnasiums_pictures_are_of_the_same_level_and_size() -> None:
    recipe = replace(SMOLVL.base_run(0), num_test=4)
    for example in examples_of(recipe, "test"):
        other = in_gymnasiums_pictures(example, cell_px=32)
        assert (other.id, other.state) == (example.id, example.state)
        ours, theirs = (np.asarray(read_rgb(each.image)) for each in (example, other))
        assert ours.shape == theirs.shape and not np.array_equal(ours, theirs)
        # A hole is drawn alike wherever it is, and as nothing else is (ice has cracks here and there).
        tiles: dict[str, set[bytes]] = {}
        for row, line in enumerate(example.state["map"]):
            for column, kind in enumerate(line):
                tile = theirs[32 * row + 8 : 32 * row + 24, 32 * column + 8 : 32 * column + 24]
                tiles.setdefault(kind, set()).add(tile.tobytes())
        assert all(len(tiles[kind]) == 1 for kind in "SGH" if kind in tiles)
        assert len(set().union(*tiles.values())) == sum(map(len, tiles.values()))


def test_language_that_is_left_is_the_likelihood_of_each_sentence() -> None:
    """By hand for one sentence; another model has another."""
    backbone = load_backbone("nano")
    found = retention(backbone, SENTENCES[:2])
    ids = backbone.tokenizer(SENTENCES[0], add_special_tokens=False, return_tensors="pt")["input_ids"]
    loss = backbone.model(input_ids=ids, labels=ids).loss
    assert found.log_likelihoods[0] == pytest.approx(-float(loss.detach()), rel=1e-5)
    assert len(found.answers) == len(QUESTIONS) and len(set(found.log_likelihoods)) == 2


def small(study: Study, monkeypatch: pytest.MonkeyPatch) -> Study:
    """The study on the nano model, some steps and levels long."""
    monkeypatch.setattr(study_smolvl, "NUM_LARGER", 2)

    def base_run(seed: int) -> Recipe:
        return shortened(study.base_run(seed), backbone="nano")

    def shortened(recipe: Recipe, **changes: Any) -> Recipe:
        stages = tuple(shortened_stage(stage) for stage in recipe.stages)
        return replace(recipe, stages=stages, num_train=8, num_test=2, max_new_tokens=4, **changes)

    def shortened_stage(stage: Any) -> Any:
        if isinstance(stage, SftConfig):
            return replace(stage, steps=1, batch_size=4, micro_batch_size=4)
        return replace(stage, steps=1, prompts_per_step=4, max_new_tokens=4, warmup_share=0.0)

    def variant(each: Any) -> Any:
        make = each.make
        return each if make is None else replace(each, make=lambda seed, run: shortened(make(seed, run)))

    return replace(study, base_run=base_run, variants=tuple(map(variant, study.variants)))


@gymnasium
def test_the_study_measures_every_stage_and_tells_what_is_not_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = small(SMOLVL, monkeypatch)
    run_part(study, tmp_path, 0, BASE_RUN)
    tables = write_tables(study, tmp_path, (0,))
    lines = tables.splitlines()
    (cloning,) = [line for line in lines if line.startswith("| reference answers in its place | not run")][:1]
    assert cloning.count("not run") == 6
    home = tmp_path / "seed0" / BASE_RUN
    for stage in ("base", "text", "stage1", "stage2"):
        for part in (LARGER, STYLE):
            assert (home / part / f"{stage}.done").exists()
        kept = json.loads((home / RETENTION / f"{stage}.json").read_text())
        assert len(kept["log_likelihoods"]) == len(SENTENCES) and len(kept["answers"]) == len(QUESTIONS)
    run_part(study, tmp_path, 0, "sft_answers")
    table = retention_table(study, tmp_path, (0,))
    assert [line[0] for line in table.rows] == [variant.title for variant in study.variants]
    assert table.rows[0][2] == "" and all("(" in line[2] for line in table.rows[1:])
    assert not any("|" in cell for line in table.rows for cell in line)
    # Again, nothing is loaded and nothing asked.
    monkeypatch.setattr(study_smolvl, "load", lambda *_: pytest.fail("everything was measured"))
    measure_beyond(study.base_run(0), home)
    assert "not run" not in write_tables(study, tmp_path, (0,))
    assert (tmp_path / "smolvl.html").exists()

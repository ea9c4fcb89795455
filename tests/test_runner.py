"""A whole recipe in miniature: what a run leaves behind, validation on the way, a run that is broken off."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pilotage.cli.main import main
from pilotage.errors import PilotageError
from pilotage.recipes import Recipe, run_recipe
from pilotage.recipes.nano import nano_mgsd
from pilotage.recipes.runner import examples_of

pytest.importorskip("torch")


def small_recipe(**changes: Any) -> Recipe:
    whole = nano_mgsd(seed=3)
    stage1, stage2 = whole.stages
    changes = {"num_train": 24, "num_test": 4, "num_val": 3, "validate_every": 2, "num_threads": 1} | changes
    return replace(
        whole,
        levels=(("frozenlake", (3,)), ("minibehaviour", (5,))),
        stages=(
            replace(stage1, steps=3, batch_size=6, micro_batch_size=6, checkpoint_every=1),
            replace(
                stage2, steps=3, warmup_steps=1, prompts_per_step=4, micro_batch_size=4, checkpoint_every=1
            ),
        ),
        **changes,
    )


def rows_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def trained(run: Path) -> list[dict[str, Any]]:
    """The figures of every step, times apart."""
    return [
        {name: value for name, value in row.items() if not name.startswith("time")}
        for row in rows_of(run / "metrics.jsonl")
    ]


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("plain")
    run_recipe(small_recipe(validate_every=0), run)
    return run


def test_a_run_measures_every_stage_and_leaves_its_models_and_page(plain: Path) -> None:
    summary = json.loads((plain / "summary.json").read_text())
    assert list(summary["stages"]) == ["base", "stage1", "stage2"]
    assert all("tasks" in entry for entry in summary["stages"].values())
    assert (plain / "report.html").stat().st_size > 10_000
    assert (plain / "stage2" / "model" / "model.safetensors").exists()
    assert not (plain / "validation.jsonl").exists()


def test_validation_is_on_unseen_states_and_does_not_disturb_training(plain: Path, tmp_path: Path) -> None:
    recipe = small_recipe()
    run_recipe(recipe, tmp_path)
    rows = rows_of(tmp_path / "validation.jsonl")
    assert [(row["stage"], row["step"]) for row in rows] == [
        (stage, step) for stage in ("stage1", "stage2") for step in (0, 2)
    ]
    for row in rows:
        assert set(row["success"]) == {"frozenlake", "minibehaviour"}
        assert row["macro"] == pytest.approx(sum(row["success"].values()) / 2)
        assert row["validation_s"] > 0 and (row["train_s"] > 0) == (row["step"] > 0)
    assert trained(tmp_path) == trained(plain)
    val = {json.dumps(example.state) for example in examples_of(recipe, "val")}
    assert len(val) == 6
    assert not val & {
        json.dumps(example.state) for split in ("train", "test") for example in examples_of(recipe, split)
    }


def test_a_run_that_is_broken_off_goes_on_and_validates_each_step_once(plain: Path, tmp_path: Path) -> None:
    class Killer:
        def stage_begins(self, stage: str, num_steps: int) -> None: ...

        def trained(self, stage: str, done: int, total: int, figures: dict[str, float]) -> None:
            if stage == "stage2" and done == 2:
                raise KeyboardInterrupt

        def measured(self, stage: str, progress: Any) -> None: ...

        def stage_ends(self, stage: str, entry: dict[str, Any]) -> None: ...

    with pytest.raises(KeyboardInterrupt):
        run_recipe(small_recipe(), tmp_path, Killer())
    run_recipe(small_recipe(), tmp_path)
    rows = rows_of(tmp_path / "validation.jsonl")
    assert [(row["stage"], row["step"]) for row in rows] == [
        (stage, step) for stage in ("stage1", "stage2") for step in (0, 2)
    ]
    assert trained(tmp_path) == trained(plain)


def test_a_folder_of_another_run_is_refused(plain: Path) -> None:
    with pytest.raises(PilotageError, match="holds another run"):
        run_recipe(small_recipe(validate_every=1), plain)


def test_palr_of_a_finished_run_is_told_and_kept(plain: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["palr", str(plain), "--num", "4", "--wrong-answers", "2", "--threads", "1"]) == 0
    kept = json.loads((plain / "stage2" / "palr.json").read_text())
    assert kept["palr/num_wrong_answers"] == 2.0 and kept["palr/num_valid"] + kept["palr/num_invalid"] == 4.0
    assert "K = 2 wrong answers" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--stage", "stage1"], "the stage 'stage1' of .* has no teacher"),
        (["--stage", "tea"], "no finished stage 'tea'"),
        (["--wrong-answers", "0"], "num_wrong 0 must be at least 1"),
    ],
)
def test_palr_says_in_one_line_what_cannot_be_measured(
    plain: Path, capsys: pytest.CaptureFixture[str], options: list[str], says: str
) -> None:
    assert main(["palr", str(plain), *options]) == 2
    assert re.search(says, capsys.readouterr().err)

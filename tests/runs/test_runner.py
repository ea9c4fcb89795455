"""A whole recipe in miniature: what a run leaves behind, validation on the way, a run that is broken off."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pilotage.backbones.load import load_shape
from pilotage.cli.main import main
from pilotage.errors import PilotageError
from pilotage.recipes.methods import with_teacher
from pilotage.recipes.nano import nano_mgsd
from pilotage.runs import Recipe, run_recipe
from pilotage.runs.measurement import examples_of
from pilotage.runs.record import begin_run
from pilotage.train.checkpoints import claim
from pilotage.train.disk import added, evaluation_disk
from pilotage.train.distill_config import DistillConfig, FrozenCopy
from pilotage.train.fit import Plan
from pilotage.train.sft import SftConfig

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
                stage2,
                steps=3,
                warmup_share=1 / 3,
                prompts_per_step=4,
                micro_batch_size=4,
                checkpoint_every=1,
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


def test_what_a_run_takes_on_disk_is_what_was_told(plain: Path) -> None:
    recipe = small_recipe(validate_every=0)
    # Two tasks of four levels, three conditions.
    measured = evaluation_disk(num_rows=2 * 4 * 3, max_new_tokens=recipe.max_new_tokens)
    parts = [measured]
    for stage in recipe.stages:
        plan = Plan(
            config=stage,
            engine=recipe.engine,
            start="nano",
            load=load_shape,
            attention=recipe.attention,
            examples=(),
        )
        parts += [plan.disk(), measured]
    message = added(parts)
    found = {path: path.stat().st_size for path in plain.rglob("*") if path.is_file()}
    assert message.together == pytest.approx(sum(found.values()), rel=0.15)
    of_checkpoints = sum(size for path, size in found.items() if "checkpoint-" in str(path))
    assert message.checkpoints == pytest.approx(of_checkpoints, rel=0.15)
    rows = sum(size for path, size in found.items() if path.suffix == ".jsonl")
    assert message.rows == pytest.approx(rows, rel=0.5)


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


def test_a_stage_that_is_trained_alone_is_validated_as_in_a_whole_run(
    tmp_path: Path,
) -> None:
    recipe = small_recipe(num_val=1)
    begin_run(recipe, tmp_path / "run")
    data = tmp_path / "levels"
    sizes = [
        "--tasks",
        "frozenlake",
        "--num-train",
        "12",
        "--num-val",
        "5",
        "--num-test",
        "1",
        "--workers",
        "1",
    ]
    assert main(["data", "build", "--out", str(data), "--levels", "frozenlake", "3", *sizes]) == 0
    assert main(["train", str(tmp_path / "run"), "--stage", "stage1", "--data", str(data)]) == 0
    rows = rows_of(tmp_path / "run" / "validation.jsonl")
    assert [(row["stage"], row["step"], row["success"].keys()) for row in rows] == [
        ("stage1", step, {"frozenlake"}) for step in (0, 2)
    ]
    # Of the five levels that the data set has, as many as the recipe says.
    assert all(row["macro"] in (0.0, 1.0) for row in rows)


def test_a_folder_of_another_run_is_refused(plain: Path) -> None:
    with pytest.raises(PilotageError, match=r"holds another run \(recipe.validate_every 0, now 1\)"):
        run_recipe(small_recipe(validate_every=1), plain)


@pytest.mark.parametrize("validate_every", [0, 1])
def test_a_whole_recipe_over_several_processes_is_refused_with_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, validate_every: int
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(PilotageError, match=r"one of 2 \(WORLD_SIZE\): train its stages one by one"):
        run_recipe(small_recipe(validate_every=validate_every), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_base_that_is_none_is_refused_before_the_folder_is_its_runs(tmp_path: Path) -> None:
    with pytest.raises(PilotageError, match="is not a model directory"):
        run_recipe(small_recipe(backbone="./nowhere"), tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "damage",
    [
        b'{"stages": {"base": {"train',
        b"[]",
        b'{"stages": 3}',
        b'{"stages": {"base": {"train_s": "long"}}}',
        b'{"stages": {"base": {"tasks": {"maze": {"image": 3}}}}}',
    ],
)
def test_a_damaged_summary_is_one_line_with_its_remedy(plain: Path, tmp_path: Path, damage: bytes) -> None:
    run = tmp_path / "run"
    shutil.copytree(plain, run)
    (run / "summary.json").write_bytes(damage)
    with pytest.raises(PilotageError, match=r"summary.json is damaged .*: remove it"):
        run_recipe(small_recipe(validate_every=0), run)
    (run / "summary.json").unlink()
    summary = run_recipe(small_recipe(validate_every=0), run)
    whole = json.loads((plain / "summary.json").read_text())
    assert {stage: entry["tasks"] for stage, entry in summary["stages"].items()} == {
        stage: entry["tasks"] for stage, entry in whole["stages"].items()
    }


def test_a_stages_own_settings_are_named_where_they_differ_and_where_they_are_damaged(
    plain: Path, tmp_path: Path
) -> None:
    settings = json.loads((plain / "stage2" / "settings.json").read_text())
    shutil.copytree(plain / "stage2", tmp_path / "stage2")
    message = (
        r"stage2 holds a run with other settings \(lr 0.0005, now 0.5; steps 3, now 4\): give another folder"
    )
    with pytest.raises(PilotageError, match=message):
        claim(tmp_path / "stage2", settings | {"lr": 0.5, "steps": 4})
    for damage in (b"{", b"[]", b"\xff"):
        (tmp_path / "stage2" / "settings.json").write_bytes(damage)
        with pytest.raises(PilotageError, match=r"settings.json is damaged .*: remove .*stage2 to train"):
            claim(tmp_path / "stage2", settings)


def test_a_trainer_that_refuses_has_not_touched_the_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stage1, stage2 = small_recipe().stages
    assert isinstance(stage1, SftConfig) and isinstance(stage2, DistillConfig)
    stages = (
        replace(stage1, max_length=5),
        with_teacher(stage2, weights=FrozenCopy(source="./nowhere")),
    )
    begin_run(replace(small_recipe(), stages=stages), tmp_path)
    before = (tmp_path / "config.json").read_bytes()
    for stage, message in (("stage1", "27 tokens, more than 5"), ("stage2", "./nowhere is not a model")):
        assert main(["train", str(tmp_path), "--stage", stage, "--from", "nano"]) == 2
        assert message in capsys.readouterr().err.splitlines()[-1]
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["config.json"]
    assert (tmp_path / "config.json").read_bytes() == before


def test_palr_of_a_finished_run_is_told_and_kept(plain: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["diagnose", str(plain), "palr", "--num", "4", "--wrong-answers", "2", "--threads", "1"]) == 0
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
    assert main(["diagnose", str(plain), "palr", *options]) == 2
    assert re.search(says, capsys.readouterr().err)

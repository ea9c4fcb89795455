"""A run remembers what it is: one record, written by its first command, read by every other."""

from __future__ import annotations

import json
import os
import shlex
import shutil
from pathlib import Path
from typing import Any

import pytest

from pilotage.cli.choose import REAL_RECIPE, RecipeOptions, choose_model, own_recipe
from pilotage.cli.main import main
from pilotage.errors import PilotageError
from pilotage.recipes import RECIPES
from pilotage.runs.measurement import NANO_LEVELS
from pilotage.runs.record import RECORD_FILE, RunRecord, begin_run, read_record
from pilotage.train.distill_config import FrozenCopy

pytestmark = pytest.mark.usefixtures("same_threads")

Capture = pytest.CaptureFixture[str]


def command(line: str) -> int:
    return main(shlex.split(line))


def refused(line: str, capsys: Capture) -> str:
    """The one line on standard error of a command that is refused."""
    assert command(line) == 2
    err = capsys.readouterr().err
    assert err.startswith("pilotage: error: ") and err.count("\n") == 1
    return err


def record_of(run: Path) -> RunRecord:
    record = read_record(run)
    assert record is not None
    return record


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """What looks like a model of ordinary size."""
    model = tmp_path / "base"
    model.mkdir()
    config = {"model_type": "qwen3_vl", "text_config": {"vocab_size": 151_936}}
    (model / "config.json").write_text(json.dumps(config))
    return model


@pytest.mark.parametrize("recipe", [None, *RECIPES])
def test_every_command_that_a_stage_names_as_the_next_one_runs_as_written(
    recipe: str | None, base: Path, tmp_path: Path, trained: dict[str, Any], capsys: Capture
) -> None:
    run = tmp_path / "a run"
    made = RECIPES[recipe or "nano"](0, backbone="nano")
    line = f"pilotage train '{run}'" + (f" --recipe {recipe}" if recipe else "")
    own = RECIPES.entries[recipe or "nano"].backbone
    if own is None:
        line += f" --backbone {base}"
    stages = []
    while "pilotage eval" not in line:
        assert command(line.removeprefix("pilotage ")) == 0
        line = capsys.readouterr().out.split("next: ")[1].strip()
        stages.append(trained["config"])
        assert trained["recipe"].name == made.name
    assert tuple(stages) == RECIPES[recipe or "nano"](0, backbone=own or str(base)).stages
    assert line == f"pilotage eval '{run}'"
    stage, weights, measured = choose_model(str(run), None, RecipeOptions())
    assert (stage, weights) == (stages[-1].stage, str(run / stages[-1].stage / "model"))
    assert measured.prompts == made.prompts and measured.levels == made.levels


def test_the_second_stage_of_mgsd_keeps_recipe_base_teacher_and_prompts(
    base: Path, tmp_path: Path, trained: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert command("train run --recipe mgsd --backbone base --seed 4") == 0
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert command("train ../run") == 0
    config = trained["config"]
    assert (config.lr, config.prompts, config.seed) == (1e-6, "full", 4)
    assert config.router.routes[0].weights == FrozenCopy(source=str(base))
    assert Path(trained["backbone"]) == Path("../run/stage1/model")
    assert choose_model("../run", None, RecipeOptions())[2].dtype == "bfloat16"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("train RUN --recipe mgsd_full", "--recipe mgsd_full: RUN was begun with mgsd"),
        ("train RUN --recipe nano --steps 3", "--recipe nano: RUN was begun with mgsd"),
        ("train RUN --recipe nothing", "--recipe nothing: RUN was begun with mgsd"),
        ("train RUN --backbone nano", "--backbone nano: RUN was begun with BASE"),
        ("train RUN --seed 1", "--seed 1: RUN was begun with 0"),
        ("train RUN --stage grpo", "the recipe mgsd has no stage 'grpo'; it has stage1, stage2"),
        ("train RUN --recipe grpo", "--recipe grpo: RUN was begun with mgsd"),
        ("eval RUN --recipe nano", "--recipe nano: RUN was begun with mgsd"),
        ("diagnose RUN gap --recipe nano", "--recipe nano: RUN was begun with mgsd"),
        ("serve RUN --recipe nano", "--recipe nano: RUN was begun with mgsd"),
        ("play --model RUN --recipe nano", "--recipe nano: RUN was begun with mgsd"),
        ("diagnose RUN palr --recipe nano", "--recipe nano: RUN was begun with mgsd"),
    ],
)
def test_what_contradicts_the_record_is_refused_with_both_values_and_writes_nothing(
    base: Path, tmp_path: Path, trained: dict[str, Any], capsys: Capture, options: str, message: str
) -> None:
    run = tmp_path / "run"
    assert command(f"train {run} --recipe mgsd --backbone {base}") == 0
    capsys.readouterr()
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    err = refused(options.replace("RUN", str(run)), capsys)
    assert message.replace("RUN", str(run)).replace("BASE", str(base)) in err
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before


def test_a_command_that_is_refused_leaves_no_record(
    tmp_path: Path, trained: dict[str, Any], capsys: Capture
) -> None:
    trained["refuses"] = PilotageError("a row is too long")
    refused(f"train {tmp_path / 'run'}", capsys)
    assert not (tmp_path / "run").exists()
    del trained["refuses"]
    assert command(f"train {tmp_path / 'run'} --recipe nano_vigos") == 0


def test_a_second_stage_that_is_refused_leaves_the_record_as_it_was(
    tmp_path: Path, trained: dict[str, Any], capsys: Capture
) -> None:
    assert command(f"train {tmp_path}") == 0
    before = (tmp_path / RECORD_FILE).read_bytes()
    capsys.readouterr()
    trained["refuses"] = PilotageError("the teacher cannot be loaded")
    refused(f"train {tmp_path} --teacher nowhere --set stage2.lr=0.5", capsys)
    assert (tmp_path / RECORD_FILE).read_bytes() == before


def test_a_stage_that_was_killed_goes_on_with_its_own_options(
    tmp_path: Path, trained: dict[str, Any], capsys: Capture
) -> None:
    trained["killed"] = KeyboardInterrupt()
    assert command(f"train {tmp_path} --steps 7 --threads 2") == 130
    assert record_of(tmp_path).finished(tmp_path) == []
    before = (tmp_path / RECORD_FILE).read_bytes()
    capsys.readouterr()
    message = refused(f"train {tmp_path} --stage stage2", capsys)
    assert f"let pilotage train {tmp_path} --stage stage1 end first" in message
    assert "neither a model nor a finished stage" in refused(f"eval {tmp_path}", capsys)
    del trained["killed"]
    assert command(f"train {tmp_path} --threads 1") == 0
    assert trained["config"].steps == 7
    assert (tmp_path / RECORD_FILE).read_bytes() == before


def test_a_stages_options_stand_in_the_record_and_bind_what_goes_on_with_it(
    tmp_path: Path, trained: dict[str, Any], capsys: Capture
) -> None:
    other = tmp_path / "other" / "model"
    other.mkdir(parents=True)
    run = tmp_path / "run"
    own = f"train {run} --stage stage2"
    assert command(f"{own} --set stage2.lr=0.25 --from {other}") == 0
    assert command(own) == 0
    assert (trained["config"].lr, trained["backbone"]) == (0.25, str(other))
    capsys.readouterr()
    message = refused(f"{own} --from nano", capsys)
    assert "--from nano" in message and str(other) in message
    assert record_of(run).first_weights("stage2", run) == str(other)
    shutil.rmtree(run / "stage2")
    assert command(f"{own} --from nano --set stage2.lr=0.5") == 0
    assert record_of(run).first_weights("stage2", run) == "nano"


def test_a_run_that_is_moved_finds_its_own_stages(tmp_path: Path, trained: dict[str, Any]) -> None:
    assert command(f"train {tmp_path / 'before'}") == 0
    assert command(f"train {tmp_path / 'before'}") == 0
    moved = tmp_path / "after"
    (tmp_path / "before").rename(moved)
    assert record_of(moved).first_weights("stage2", moved) == str(moved / "stage1" / "model")


def test_the_last_finished_stage_is_the_records_whatever_the_files_times(
    tmp_path: Path, trained: dict[str, Any]
) -> None:
    assert command(f"train {tmp_path}") == 0
    assert choose_model(str(tmp_path), None, RecipeOptions())[0] == "stage1"
    assert command(f"train {tmp_path}") == 0
    for age, stage in enumerate(("stage1", "stage2")):
        os.utime(tmp_path / stage / "model", (1000 - age, 1000 - age))
    assert choose_model(str(tmp_path), None, RecipeOptions())[0] == "stage2"
    assert choose_model(str(tmp_path), "stage1", RecipeOptions())[:2] == (
        "stage1",
        str(tmp_path / "stage1" / "model"),
    )


def test_of_stages_without_a_record_one_is_taken_and_several_are_asked_for(
    tmp_path: Path, trained: dict[str, Any], capsys: Capture
) -> None:
    assert command(f"train {tmp_path}") == 0
    (tmp_path / RECORD_FILE).unlink()
    stage, _, recipe = choose_model(str(tmp_path), None, RecipeOptions(recipe="nano"))
    assert (stage, recipe.name) == ("stage1", "nano_mgsd")
    assert command(f"train {tmp_path} --recipe nano") == 0
    (tmp_path / RECORD_FILE).unlink()
    capsys.readouterr()
    assert "no record of which stage was the last of stage1, stage2" in refused(f"eval {tmp_path}", capsys)
    assert choose_model(str(tmp_path), "stage1", RecipeOptions(recipe="nano"))[0] == "stage1"


def test_the_folder_of_a_whole_run_is_gone_on_with(tmp_path: Path, trained: dict[str, Any]) -> None:
    begin_run(RECIPES["nano"](5, backbone="nano"), tmp_path)
    assert command(f"train {tmp_path}") == 0
    assert trained["config"] == RECIPES["nano"](5, backbone="nano").stages[0]
    assert command(f"train {tmp_path} --recipe nano") == 0


DAMAGES = {
    "cut": b'{"version": "0.1.0", "recipe": {',
    "a list": b"[1]",
    "empty": b"",
    "bytes": b"\xff\xfe\x00",
    "no recipe": b'{"version": "0.1.0"}',
    "another class": b'{"recipe": {"class": "Popen"}}',
    "half a recipe": b'{"recipe": {"class": "Recipe", "name": "nano"}}',
    "earlier": b'{"recipe": {"name": "nano_mgsd"}, "stages": {"stage1": {}}}',
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize(
    "line",
    [
        *("train RUN", "train RUN --stage stage2", "train RUN --all", "train RUN --dry-run", "demo RUN"),
        *("eval RUN", "diagnose RUN gap", "diagnose RUN prior", "diagnose RUN palr"),
        *("serve RUN", "play --model RUN --no-browser"),
    ],
)
def test_a_damaged_record_is_one_line_that_names_the_file_and_the_remedy(
    tmp_path: Path, trained: dict[str, Any], capsys: Capture, line: str, damage: str
) -> None:
    (tmp_path / "stage1" / "model").mkdir(parents=True)
    (tmp_path / "stage1" / "model" / "config.json").write_text("{}")
    (tmp_path / RECORD_FILE).write_bytes(DAMAGES[damage])
    message = refused(line.replace("RUN", str(tmp_path)), capsys)
    assert str(tmp_path) in message and "remove it" in message
    assert (tmp_path / RECORD_FILE).read_bytes() == DAMAGES[damage]


@pytest.mark.parametrize(
    ("name", "value"),
    [("levels", 5), ("prompts", "tea"), ("num_test", "7"), ("stages", [3]), ("cell_px", 1.5), ("seed", True)],
)
def test_a_field_of_another_type_is_damage(tmp_path: Path, name: str, value: Any) -> None:
    begin_run(RECIPES["nano"](0, backbone="nano"), tmp_path)
    settings = json.loads((tmp_path / RECORD_FILE).read_text())
    settings["recipe"][name] = value
    (tmp_path / RECORD_FILE).write_text(json.dumps(settings))
    with pytest.raises(
        PilotageError, match=rf"config.json is damaged \(settings give the {name} of a Recipe"
    ):
        read_record(tmp_path)


def test_a_folder_of_a_model_is_no_folder_of_a_run(base: Path, trained: Any, capsys: Capture) -> None:
    assert "is a model, not a run" in refused(f"train {base}", capsys)


@pytest.mark.parametrize("name", RECIPES)
def test_a_record_gives_every_recipe_back_as_it_was(tmp_path: Path, name: str) -> None:
    recipe = RECIPES[name](3, backbone="somewhere")
    begin_run(recipe, tmp_path)
    assert record_of(tmp_path).recipe == recipe


def test_a_model_without_a_recipe_is_measured_for_what_it_is(
    base: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, capsys: Capture
) -> None:
    assert command(f"nano export {tmp_path / 'copy'}") == 0
    caplog.set_level("INFO")
    for nano in ("nano", str(tmp_path / "copy")):
        assert own_recipe(nano) == "nano"
        recipe = RecipeOptions().of_model(nano)
        assert (recipe.levels, recipe.max_new_tokens, recipe.dtype) == (NANO_LEVELS, 144, "float32")
    assert not caplog.records
    for real in (str(base), "Qwen/Qwen3-VL-4B-Instruct"):
        recipe = RecipeOptions().of_model(real)
        assert (recipe.prompts, recipe.max_new_tokens, recipe.dtype) == ("full", 2048, "bfloat16")
        assert dict(recipe.levels)["frozenlake"] == (3, 4, 5, 6, 7, 8)
        assert f"{real} names none: measured as {REAL_RECIPE} says" in caplog.text
    assert RecipeOptions(recipe="nano").of_model(str(base)).levels == NANO_LEVELS


@pytest.mark.parametrize(
    "line", ["train RUN --backbone BASE", "train RUN --backbone Qwen/Qwen3-VL-4B-Instruct"]
)
def test_an_ordinary_model_is_not_trained_as_nano_is(
    base: Path, tmp_path: Path, trained: Any, capsys: Capture, line: str
) -> None:
    message = refused(line.replace("RUN", str(tmp_path / "run")).replace("BASE", str(base)), capsys)
    assert "names no recipe that it is made for: give one" in message
    assert not (tmp_path / "run").exists()

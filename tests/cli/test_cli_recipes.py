"""`train`, `eval` and `study` turn options into configurations and mistakes into one line."""

from __future__ import annotations

import inspect
import io
import subprocess
import sys
from contextlib import redirect_stdout
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from pilotage.backbones.load import LoraSettings, QLoraSettings
from pilotage.cli.evaluate import print_summary
from pilotage.cli.main import main
from pilotage.recipes import RECIPES
from pilotage.recipes.nano import nano_mgsd
from pilotage.train.distill_config import AdapterOff, DistillConfig, FrozenCopy
from pilotage.train.sft import SftConfig

pytestmark = pytest.mark.usefixtures("same_threads")


def finish(run: Path, stage: str = "stage1") -> Path:
    """What a finished stage leaves, as far as the commands look at it."""
    model = run / stage / "model"
    model.mkdir(parents=True)
    (model / "config.json").write_text("{}")
    return model


def test_a_new_run_without_options_begins_with_the_nano_recipes_first_stage(tmp_path, trained, capsys):
    assert main(["train", str(tmp_path)]) == 0
    assert trained["config"] == nano_mgsd(0).stages[0]
    assert (trained["backbone"], trained["examples"]) == ("nano", "train levels")
    assert f"next: pilotage train {tmp_path}" in capsys.readouterr().out


def test_options_and_changes_replace_the_recipes_settings(tmp_path, trained):
    options = "--steps 7 --seed 3 --backbone somewhere --recipe nano --set stage1.batch_size=9"
    changes = ["--set", "stage1.lr=0.5", "--set", "stage1.lora=LoraSettings(rank=4, alpha=8)"]
    assert main(["train", str(tmp_path), *options.split(), *changes]) == 0
    config = trained["config"]
    assert isinstance(config, SftConfig)
    assert (config.steps, config.batch_size, config.lr, config.seed) == (7, 9, 0.5, 3)
    assert config.lora is not None and (config.lora.rank, config.lora.alpha) == (4, 8.0)
    assert trained["backbone"] == "somewhere"


def test_what_a_runs_first_command_changes_in_a_later_stage_holds_when_it_comes(tmp_path, trained):
    assert main(["train", str(tmp_path), "--set", "stage2.lr=1e-6", "--set", "num_train=30"]) == 0
    assert main(["train", str(tmp_path)]) == 0
    assert (trained["config"].stage, trained["config"].lr, trained["recipe"].num_train) == (
        "stage2",
        1e-6,
        30,
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("stage1.lr=0.5", "was begun with stage1.lr 0.001, now 0.5"),
        ("num_train=30", "was begun with num_train 3000, now 30"),
    ],
)
def test_what_a_begun_run_rests_on_cannot_be_changed(tmp_path, trained, capsys, change, message):
    assert main(["train", str(tmp_path)]) == 0
    assert main(["train", str(tmp_path), "--set", change]) == 2
    assert message in capsys.readouterr().err


def test_stage_2_goes_on_from_the_runs_stage_1_and_is_taught_by_the_base(tmp_path, trained):
    model = finish(tmp_path)
    options = "--backbone base --recipe nano --set stage2.router.routes.plan.view=teacher_no_plan --steps 3"
    assert main(["train", str(tmp_path), *options.split()]) == 0
    config = trained["config"]
    assert isinstance(config, DistillConfig)
    assert trained["backbone"] == str(model)
    (route,) = config.router.routes
    assert route.weights == FrozenCopy(source="base")
    assert (route.view, config.steps) == ("teacher_no_plan", 3)


def test_a_stage_without_the_one_before_begins_with_the_weights_that_are_named(tmp_path, trained):
    assert main(["train", str(tmp_path), "--stage", "stage2", "--from", "nano"]) == 0
    assert (trained["config"].stage, trained["backbone"]) == ("stage2", "nano")


@pytest.mark.parametrize("begun", [False, True])
def test_a_stage_is_not_trained_before_the_one_it_begins_with_has_ended(tmp_path, trained, capsys, begun):
    if begun:
        (tmp_path / "stage1").mkdir()
    assert main(["train", str(tmp_path), "--stage", "stage2"]) == 2
    message = capsys.readouterr().err
    assert f"let pilotage train {tmp_path} --stage stage1 end first" in message and "--from nano" in message


def test_a_run_with_every_stage_says_what_is_next(tmp_path, trained, capsys):
    finish(tmp_path, "stage2")
    assert main(["train", str(tmp_path), "--recipe", "nano"]) == 0
    assert capsys.readouterr().out == (
        f"{tmp_path} holds every stage of nano; next: pilotage eval {tmp_path}\n"
    )
    assert "config" not in trained


def test_all_stages_are_trained_and_measured_as_a_whole_run(tmp_path, monkeypatch, capsys):
    from pilotage import runs

    asked = {}

    def run_recipe(recipe: Any, run_dir: Any, watcher: Any) -> None:
        asked.update(recipe=recipe, run_dir=run_dir)

    monkeypatch.setattr(runs, "run_recipe", run_recipe, raising=False)
    words = ["train", str(tmp_path / "run"), "--recipe", "nano_opsd", "--all", "--steps", "2"]
    assert main([*words, "--set", "num_test=5"]) == 0
    recipe = asked["recipe"]
    assert (recipe.name, recipe.num_test) == ("nano_opsd", 5)
    assert [(stage.stage, stage.steps) for stage in recipe.stages] == [("stage1", 2), ("stage2", 2)]
    assert main([*words, "--stage", "stage2"]) == 2
    assert "leave out --stage stage2" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ("train RUN --recipe nope", "unknown recipe 'nope'; there are " + ", ".join(RECIPES)),
        ("train RUN --recipe mgsd", "needs --backbone"),
        ("train RUN --data RUN", "RUN"),
        ("train RUN --steps 0", "steps 0 must be at least 1"),
        ("eval RUN", "holds neither a model nor a finished stage of a run"),
        ("eval RUN --stage stage9", "has no finished stage 'stage9'"),
        ("eval RUN/none", "RUN/none"),
        ("report RUN/none", "RUN/none is no run folder"),
        ("nano export RUN", "exists already"),
        ("study mgsd RUN --jobs 0", "jobs 0"),
        ("study tea RUN", "no study 'tea'; there are mgsd"),
        ("data build --out RUN/d --num-train -1", "num_train is -1"),
        ("eval nano --data RUN --world maze", "--world maze: --data RUN holds its examples as they are"),
        ("eval nano --data RUN --levels 3 4", "--levels 3 4: --data RUN"),
        ("eval nano --data RUN --option fog=2", "--option fog=2: --data RUN"),
        ("eval nano --num -3", "--num -3 must be at least 1"),
        ("eval nano --samples 0", "--samples 0 must be at least 1"),
        ("eval nano --batch-size -2", "--batch-size -2 must be at least 1"),
        ("diagnose nano prior --num -3", "--num -3 must be at least 1"),
        ("diagnose RUN palr --num 0", "--num 0 must be at least 1"),
        ("train RUN --threads -4", "--threads -4 must be at least 1"),
        ("nano pretrain RUN --threads 0", "--threads 0 must be at least 1"),
        ("demo RUN --threads -1", "--threads -1 must be at least 1"),
        ("serve nano --max-new-tokens -1", "--max-new-tokens -1 must be at least 1"),
        ("eval --endpoint http://127.0.0.1:9/v1 --model m --retries -1", "--retries -1 must be at least 0"),
        ("eval --endpoint http://127.0.0.1:9/v1", "--endpoint needs --model NAME"),
    ],
)
def test_a_mistake_is_one_line_with_status_2(tmp_path, capsys, monkeypatch, arguments, complaint):
    from pilotage.backbones import load

    (tmp_path / "nano").mkdir()
    resolve = load.resolve
    monkeypatch.setattr(
        load, "resolve", lambda name, **more: tmp_path / "nano" if name == "nano" else resolve(name, **more)
    )
    arguments, complaint = (text.replace("RUN", str(tmp_path)) for text in (arguments, complaint))
    assert main(arguments.split()) == 2
    err = capsys.readouterr().err
    assert err.startswith("pilotage: error: ") and err.count("\n") == 1
    assert complaint in err


def row(condition: str, number: int, success: bool) -> dict[str, Any]:
    verdict = {"parsed": True, "illegal": False, "success": success, "optimal": success, "num_executed": 3}
    return {
        "id": f"maze-3-{number}",
        "condition": condition,
        "task": "maze",
        "level": 3,
        "outcome": verdict,
        "right": {"Size": True},
        "fields": {},
        "error": None,
        "finished": True,
    }


def test_the_table_of_an_evaluation_has_rates_levels_and_the_gap():
    from pilotage.evaluate import summarise

    rows = [row("image", i, success=i == 0) for i in range(4)] + [
        row("text", i, success=True) for i in range(4)
    ]
    printed = io.StringIO()
    with redirect_stdout(printed):
        print_summary(summarise(rows), by_level=True)
    text = printed.getvalue()
    assert max(map(len, text.splitlines())) <= 100
    image = next(line for line in text.splitlines() if line.split()[:2] == ["image", "maze"])
    assert image.split()[2:4] == ["4", "25.0"]
    assert sum("level 3" in line for line in text.splitlines()) == 2
    assert "modality gap, maze: 75.0" in text


def test_at_80_columns_a_table_of_many_rates_is_in_blocks_and_no_number_is_cut(
    monkeypatch: pytest.MonkeyPatch,
):
    from pilotage.evaluate import summarise

    flags = ("circled", "collided", "off_route", "stalled")
    rows = [row("image", i, success=i == 0) for i in range(4)] + [
        row("teacher_with_picture", i, success=True) for i in range(4)
    ]
    for number, each in enumerate(rows):
        each["outcome"] |= {flag: number % 4 <= place for place, flag in enumerate(flags)}
    printed = io.StringIO()
    monkeypatch.setattr("pilotage.cli.evaluate.table_console", lambda: Console(file=printed, width=80))
    print_summary(summarise(rows), by_level=True)
    lines = printed.getvalue().splitlines()
    assert max(map(len, lines)) <= 80 and "\N{HORIZONTAL ELLIPSIS}" not in printed.getvalue()
    heads = [line.split()[3:] for line in lines if line.split()[:3] == ["condition", "task", "n"]]
    assert len(heads) > 1
    assert [name for head in heads for name in head] == ["success", "optimal", "illegal", "parsed", *flags]
    of_image = [line.split() for line in lines if line.split()[:2] == ["image", "maze"]]
    means = [word for words in of_image for word in words[3:] if "." in word]
    assert means == ["25.0", "25.0", "0.0", "100.0", "25.0", "50.0", "75.0", "100.0"]


def test_recipes_are_listed_and_told(capsys):
    assert main(["recipes"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == list(RECIPES)
    assert all(len(line.split()) > 4 for line in lines)
    assert main(["recipes", "vigos"]) == 0
    assert "Departures" in capsys.readouterr().out
    assert main(["recipes", "nothing"]) == 2
    assert "there are nano" in capsys.readouterr().err


def test_what_is_told_of_a_recipe_is_its_docstring():
    for name, make in RECIPES.items():
        assert RECIPES.about(name) == inspect.getdoc(make)


def test_recipes_are_told_and_names_refused_without_torch_and_worlds(tmp_path):
    code = (
        "import sys\n"
        "from pilotage.cli.main import main\n"
        "assert main(['recipes']) == 0 and main(['recipes', 'mgsd']) == 0\n"
        "assert main(['recipes', 'mgds']) == 2\n"
        "assert not {'torch', 'transformers', 'datasets', 'trl', 'numpy'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path, stdout=subprocess.DEVNULL)


def test_a_dry_run_tells_settings_memory_and_prompts_and_makes_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["train", "nano_opsd", "--dry-run", "--stage", "stage2", "--set", "stage2.lr=0.125"]) == 0
    printed = capsys.readouterr().out
    assert '"lr": 0.125' in printed and '"class": "ElementCap"' in printed
    assert "optimiser" in printed and "GiB" in printed
    assert "route solution, view student_with_plan, teaches all of all rows (with the picture)" in printed
    assert "Keep it to yourself" in printed.split("route solution")[1]
    assert "Keep it to yourself" not in printed.split("route solution")[0]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("recipe", ["gkd", "dense_rl", "nano_gkd", "mgsd"])
def test_a_named_teacher_is_the_one_that_teaches(tmp_path, trained, recipe):
    words = ["train", str(tmp_path), "--recipe", recipe, "--backbone", "base", "--teacher", "large"]
    assert main([*words, "--stage", "stage2", "--from", "base"]) == 0
    assert trained["config"].all_weights == (FrozenCopy(source="large"),)


@pytest.mark.parametrize("recipe", ["vigos", "opsd", "nano_vigos"])
def test_a_named_teacher_takes_the_place_of_the_students_own_first_weights(tmp_path, trained, recipe):
    options = ["--recipe", recipe, "--backbone", "nano", "--teacher", "large"]
    assert main(["train", str(tmp_path), *options, "--stage", "stage2", "--from", "nano"]) == 0
    assert trained["config"].all_weights == (FrozenCopy(source="large"),)


@pytest.mark.parametrize(
    "recipe", ["nano", "mgsd", "gkd", "nano_vigos", "nano_dense_rl", "control_no_privilege"]
)
def test_an_adapter_that_is_off_teaches_in_every_method(tmp_path, trained, recipe):
    options = ["--recipe", recipe, "--backbone", "base", "--teacher", "adapter-off", "--lora", "16"]
    assert main(["train", str(tmp_path), *options, "--stage", "stage2", "--from", "base"]) == 0
    config = trained["config"]
    assert config.all_weights == (AdapterOff(),)
    assert config.lora == LoraSettings(rank=16, alpha=32.0)


def test_an_adapter_that_is_off_needs_one(tmp_path, trained, capsys):
    options = ["--recipe", "nano", "--teacher", "adapter-off", "--stage", "stage2", "--from", "nano"]
    assert main(["train", str(tmp_path), *options]) == 2
    assert "stage2 is taught by the student with its adapter off" in capsys.readouterr().err
    assert main(["train", str(tmp_path), "--recipe", "vigos", "--backbone", "base", "--lora", "0"]) == 2
    assert "give --lora RANK" in capsys.readouterr().err


@pytest.mark.parametrize("recipe", ["nano", "mgsd", "grpo", "visual_sft", "vigos"])
def test_an_adapter_of_any_rank_can_be_trained_in_every_stage(tmp_path, trained, recipe):
    for stage in RECIPES[recipe](0, backbone="base").stages:
        options = ["--recipe", recipe, "--backbone", "base", "--stage", stage.stage, "--from", "base"]
        for flag, settings in (("--lora", LoraSettings), ("--qlora", QLoraSettings)):
            assert main(["train", str(tmp_path / f"{stage.stage}{flag}"), *options, flag, "4"]) == 0
            dropout = 0.05 if recipe == "vigos" else 0.0
            assert trained["config"].lora == settings(rank=4, alpha=8.0, dropout=dropout)
    assert main(["train", str(tmp_path / "two"), "--lora", "4", "--qlora", "4"]) == 2


def test_a_teacher_that_is_no_model_is_refused_before_anything_is_trained(tmp_path, capsys):
    run = tmp_path / "run"
    for options in ([], ["--all"], ["--dry-run"], ["--dry-run", "--all"]):
        words = [
            "train",
            str(run),
            "--recipe",
            "nano",
            "--backbone",
            "nano",
            "--teacher",
            str(tmp_path / "none"),
        ]
        assert main([*words, *options]) == 2 and not run.exists()
        assert "none is not a model directory (no such directory)" in capsys.readouterr().err


def test_a_teacher_on_the_line_and_another_in_a_setting_are_refused(tmp_path, trained, capsys):
    words = [
        "train",
        str(tmp_path),
        "--recipe",
        "nano",
        "--backbone",
        "base",
        "--stage",
        "stage2",
        "--from",
        "base",
    ]
    assert main([*words, "--teacher", "large", "--set", "stage2.router.routes.plan.weights=Live()"]) == 2
    assert "--teacher large and --set name two teachers" in capsys.readouterr().err
    assert main([*words, "--qlora", "0"]) == 2
    assert "--qlora 0 is no adapter: --lora 0 trains all weights" in capsys.readouterr().err


def test_a_teacher_is_refused_where_no_stage_has_one(tmp_path, trained, capsys):
    assert main(["train", str(tmp_path), "--recipe", "nano_grpo", "--teacher", "large"]) == 2
    assert (
        "--teacher large: no stage of nano_grpo that is to be trained has a teacher"
        in capsys.readouterr().err
    )


def test_a_dry_run_of_gkd_takes_its_teacher(capsys):
    options = ["--backbone", "nano", "--teacher", "nano", "--steps", "3"]
    assert main(["train", "gkd", "--dry-run", *options]) == 0
    assert "route teacher, view student" in capsys.readouterr().out


def test_a_dry_run_of_grpo_tells_its_rewards(capsys):
    grpo = ["train", "nano_grpo", "--dry-run", "--stage", "grpo", "--steps", "3"]
    assert main(grpo) == 0
    printed = capsys.readouterr().out
    assert '"steps": 3' in printed and '"warmup_share": 0.0625' in printed and "GiB" in printed
    assert "4 answers to each prompt, rewarded by the judge: EpisodeReturn(parsed=0.1)" in printed


def without_room(out: str) -> str:
    """What a dry run tells, without its last line."""
    told, line, _ = out.rpartition("\ndisk: about ")
    assert line
    return told


def test_a_dry_run_of_supervised_stages_tells_what_rows_teach(capsys):
    assert main(["train", "nano_visual_sft", "--dry-run", "--stage", "sft_answers"]) == 0
    answers = capsys.readouterr().out
    assert "view student, is taught to answer 'Size: 3." in answers and "0 of text alone" in answers
    assert main(["train", "nano_visual_sft", "--dry-run"]) == 0
    first = capsys.readouterr().out
    assert "view perception, is taught" in first and "view teacher, is taught" in first
    assert main(["train", "nano_visual_sft", "--dry-run", "--all"]) == 0
    # The room on disk is of all of them together.
    assert without_room(capsys.readouterr().out) == without_room(first) + without_room(answers)


def test_a_later_supervised_stage_begins_with_the_first_ones_model(tmp_path, capsys, monkeypatch):
    from pilotage.runs import measurement

    examples_of = measurement.examples_of
    monkeypatch.setattr(
        measurement,
        "examples_of",
        lambda measured, split, *where: examples_of(replace(measured, num_train=20), split, *where),
    )
    few = ["--recipe", "nano_visual_sft", "--steps", "1"]
    for stage in ("stage1", "sft_answers"):
        rows = ["--set", f"{stage}.batch_size=6", "--set", f"{stage}.micro_batch_size=3"]
        assert main(["train", str(tmp_path), *few, *rows]) == 0
    assert (tmp_path / "sft_answers" / "model" / "model.safetensors").is_file()
    assert "next: pilotage eval" in capsys.readouterr().out
    assert main(["train", str(tmp_path), *few, "--stage", "stage3"]) == 2
    message = capsys.readouterr().err
    assert (
        "nano_visual_sft has no stage 'stage3'; it has stage1, sft_answers; another recipe is another run"
        in message
    )

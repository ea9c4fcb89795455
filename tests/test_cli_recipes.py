"""`sft`, `distill`, `eval` and `study` turn options into configurations and mistakes into one line."""

from __future__ import annotations

import inspect
import io
import json
import os
import subprocess
import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import pytest
import torch

from pilotage.cli.choose import latest_model, note_settings, recipe_of_run
from pilotage.cli.evaluate import print_summary
from pilotage.cli.main import main
from pilotage.distill.divergences import JSD, ForwardKL
from pilotage.distill.estimators import FullVocabulary, Sampled, TopK
from pilotage.recipes import RECIPES
from pilotage.recipes.nano import nano_mgsd
from pilotage.train.distill_config import DistillConfig, FrozenCopy
from pilotage.train.sft import SftConfig


@pytest.fixture(autouse=True)
def same_threads(monkeypatch) -> None:
    """The commands set the process's thread count; other tests want theirs back."""
    monkeypatch.setattr(torch, "set_num_threads", lambda num_threads: None)


@pytest.fixture
def trained(monkeypatch) -> dict[str, Any]:
    """What `run_sft` or `distill` was asked to do; nothing is loaded, drawn or trained."""
    from pilotage.recipes import runner
    from pilotage.train import distill, sft

    asked: dict[str, Any] = {}

    def run_sft(config: Any, backbone: Any, examples: Any, run_dir: Path, on_step: Any) -> Path:
        on_step(1, 2, {"loss": 0.5})
        asked.update(config=config, backbone=backbone, examples=examples)
        return run_dir / config.stage / "model"

    def run_distill(config: Any, *, student: Any, examples: Any, run_dir: Path, on_step: Any) -> Path:
        on_step({"step": 1, "loss": 0.5})
        asked.update(config=config, backbone=student, examples=examples)
        return run_dir / config.stage / "model"

    def examples_of(recipe: Any, split: str) -> str:
        asked["recipe"] = recipe
        return f"{split} levels"

    monkeypatch.setattr(sft, "run_sft", run_sft)
    monkeypatch.setattr(distill, "distill", run_distill)
    monkeypatch.setattr(runner, "examples_of", examples_of)
    monkeypatch.setattr(runner, "load", lambda recipe, weights: weights)
    return asked


def test_sft_without_options_is_the_recipes_stage_1(tmp_path, trained, capsys):
    assert main(["sft", str(tmp_path)]) == 0
    assert trained["config"] == nano_mgsd(0).stages[0]
    assert (trained["backbone"], trained["examples"]) == ("nano", "train levels")
    assert f"next: pilotage distill {tmp_path}" in capsys.readouterr().out


def test_options_of_sft_replace_the_recipes_settings(tmp_path, trained):
    options = "--steps 7 --batch-size 9 --peak-lr 0.5 --lora-rank 4 --seed 3 --model somewhere"
    assert main(["sft", str(tmp_path), *options.split()]) == 0
    config = trained["config"]
    assert isinstance(config, SftConfig)
    assert (config.steps, config.batch_size, config.peak_lr, config.seed) == (7, 9, 0.5, 3)
    assert config.lora is not None and (config.lora.rank, config.lora.alpha) == (4, 8.0)
    assert trained["backbone"] == "somewhere"


@pytest.mark.parametrize(
    ("options", "estimator"),
    [
        ("--estimator sampled", Sampled(as_="advantage")),
        ("--estimator full --divergence forward", FullVocabulary(divergence=ForwardKL())),
        (
            "--estimator topk --k 5 --divergence jsd --beta 0.1",
            TopK(k=5, divergence=JSD(beta=0.1)),
        ),
    ],
)
def test_the_estimator_is_what_the_options_say(tmp_path, trained, options, estimator):
    assert main(["distill", str(tmp_path), *options.split()]) == 0
    assert trained["config"].estimator == estimator


def test_distill_goes_on_from_the_runs_stage_1_and_is_taught_by_the_base(tmp_path, trained):
    (tmp_path / "stage1" / "model").mkdir(parents=True)
    options = "--model base --teacher-view teacher_no_plan --steps 3"
    assert main(["distill", str(tmp_path), *options.split()]) == 0
    config = trained["config"]
    assert isinstance(config, DistillConfig)
    assert trained["backbone"] == str(tmp_path / "stage1" / "model")
    assert config.teacher_weights == FrozenCopy(source="base")
    assert (config.teacher_view, config.steps) == ("teacher_no_plan", 3)


def test_distill_begins_with_the_base_where_no_stage_1_was_run(tmp_path, trained):
    assert main(["distill", str(tmp_path)]) == 0
    assert trained["backbone"] == "nano"


def test_distill_does_not_skip_a_stage_1_that_has_not_ended(tmp_path, trained, capsys):
    (tmp_path / "stage1").mkdir()
    assert main(["distill", str(tmp_path)]) == 2
    assert "let pilotage sft end first" in capsys.readouterr().err


def test_both_stages_keep_their_settings_in_the_runs_config(tmp_path, trained):
    main(["sft", str(tmp_path), "--steps", "7"])
    (tmp_path / "stage1" / "model").mkdir(parents=True)
    main(["distill", str(tmp_path), "--steps", "8"])
    main(["distill", str(tmp_path), "--steps", "9"])
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["stages"]["stage1"]["config"]["steps"] == 7
    assert config["stages"]["stage2"]["config"]["steps"] == 8
    assert config["recipe"]["prompts"] == "brief"


def test_the_config_of_a_whole_recipe_is_left_alone(tmp_path):
    (tmp_path / "config.json").write_text('{"recipe": {"name": "whole"}}')
    note_settings(tmp_path, "stage1", nano_mgsd(0), {})
    assert json.loads((tmp_path / "config.json").read_text()) == {"recipe": {"name": "whole"}}


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ("sft RUN --recipe nope", "unknown recipe 'nope'; there are " + ", ".join(RECIPES)),
        ("sft RUN --recipe mgsd", "needs --model"),
        ("sft RUN --data RUN", "RUN"),
        ("distill RUN --divergence jsd", "--divergence jsd needs --estimator full or topk"),
        ("distill RUN --estimator full --divergence jsd --beta 2", "--beta 2.0 must lie between 0 and 1"),
        ("distill RUN --estimator topk --k 0", "--k 0 must be at least 1"),
        ("distill RUN --steps 0", "steps 0 must be at least 1"),
        ("eval RUN", "holds neither a model nor a finished stage of a run"),
        ("eval RUN --stage stage9", "has no finished stage 'stage9'"),
        ("eval RUN/none", "RUN/none"),
        ("report RUN/none", "RUN/none is no run folder"),
        ("nano export RUN", "exists already"),
        ("study mgsd RUN --jobs 0", "jobs 0"),
        ("study tea RUN", "no study 'tea'; there are mgsd"),
        ("data build --out RUN/d --num-train -1", "num_train is -1"),
    ],
)
def test_a_mistake_is_one_line_with_status_2(tmp_path, capsys, monkeypatch, arguments, complaint):
    from pilotage.backbones import load

    (tmp_path / "nano").mkdir()
    monkeypatch.setattr(load, "resolve", lambda name: str(tmp_path / "nano") if name == "nano" else name)
    arguments, complaint = (text.replace("RUN", str(tmp_path)) for text in (arguments, complaint))
    assert main(arguments.split()) == 2
    err = capsys.readouterr().err
    assert err.startswith("pilotage: error: ") and err.count("\n") == 1
    assert complaint in err


def test_the_latest_model_of_a_run_is_the_one_written_last(tmp_path):
    assert latest_model(tmp_path) is None
    for age, stage in enumerate(("stage2", "stage1", "unfinished")):
        model = tmp_path / stage / "model"
        model.mkdir(parents=True)
        if stage != "unfinished":
            (model / "config.json").write_text("{}")
        os.utime(model, (1000 - age, 1000 - age))
    assert latest_model(tmp_path) == ("stage2", tmp_path / "stage2" / "model")


def test_a_run_is_measured_as_its_own_recipe_says(tmp_path):
    assert recipe_of_run(tmp_path, nano_mgsd(0)) == nano_mgsd(0)
    own = {"prompts": "full", "num_test": 7, "levels": [["maze", [3]]], "cell_px": None}
    (tmp_path / "config.json").write_text(json.dumps({"recipe": own}))
    recipe = recipe_of_run(tmp_path, nano_mgsd(0))
    assert (recipe.prompts, recipe.num_test, recipe.levels) == ("full", 7, (("maze", (3,)),))
    assert recipe.cell_px is None


def row(kind: str, number: int, success: bool) -> dict[str, Any]:
    verdict = {"parsed": True, "legal": True, "success": success, "optimal": success, "num_executed": 3}
    return {
        "id": f"maze-3-{number}",
        "kind": kind,
        "task": "maze",
        "level": 3,
        "verdict": verdict,
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
        print_summary(summarise(rows, num_resamples=200), by_level=True)
    text = printed.getvalue()
    assert max(map(len, text.splitlines())) <= 100
    image = next(line for line in text.splitlines() if line.split()[:2] == ["image", "maze"])
    assert image.split()[2:4] == ["4", "25.0"]
    assert sum("level 3" in line for line in text.splitlines()) == 2
    assert "modality gap, maze: 75.0" in text


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


def test_recipes_are_told_and_names_refused_without_torch(tmp_path):
    code = (
        "import sys\n"
        "from pilotage.cli.main import main\n"
        "assert main(['recipes']) == 0 and main(['recipes', 'mgsd']) == 0\n"
        "assert main(['recipes', 'mgds']) == 2\n"
        "assert not {'torch', 'transformers', 'datasets', 'trl'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path, stdout=subprocess.DEVNULL)


def test_a_dry_run_tells_settings_memory_and_prompts_and_makes_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["distill", "nano_opsd", "--dry-run", "--lr", "0.125"]) == 0
    told = capsys.readouterr().out
    assert '"lr": 0.125' in told and '"class": "ElementCap"' in told
    assert "optimiser" in told and "GiB" in told
    assert "route solution, view student_with_plan, teaches all of all rows (with the picture)" in told
    assert "Keep it to yourself" in told.split("route solution")[1]
    assert "Keep it to yourself" not in told.split("route solution")[0]
    assert list(tmp_path.iterdir()) == []


def test_options_for_one_teacher_are_refused_where_routes_say_who_teaches(tmp_path, trained, capsys):
    assert main(["distill", str(tmp_path), "--recipe", "nano_vigos", "--teacher-view", "student"]) == 2
    assert "teacher_view 'student' has no effect" in capsys.readouterr().err


def test_a_recipe_without_distillation_says_which_command_trains_it(tmp_path, capsys):
    assert main(["distill", str(tmp_path), "--recipe", "nano_visual_sft"]) == 2
    told = capsys.readouterr().err
    assert "no stage for pilotage distill" in told
    assert "stage1 (pilotage sft), sft_answers (pilotage sft)" in told


def test_a_dry_run_of_grpo_tells_its_rewards(capsys):
    assert main(["distill", "nano_grpo", "--dry-run", "--steps", "3"]) == 0
    told = capsys.readouterr().out
    assert '"steps": 3' in told and '"warmup_steps": 3' in told and "GiB" in told
    assert "no teacher: 4 answers to each prompt" in told and "0.1 more" in told
    assert main(["grpo", "nano_grpo", "--dry-run", "--kl-coef", "0.1"]) == 0
    assert "first weights" in capsys.readouterr().out
    assert "first weights" not in told


def test_a_dry_run_of_supervised_stages_tells_what_rows_teach(capsys):
    assert main(["distill", "nano_visual_sft", "--dry-run"]) == 0
    answers = capsys.readouterr().out
    assert "view student, is taught to answer 'Size: 3." in answers and "0 of text alone" in answers
    assert main(["sft", "nano_visual_sft", "--dry-run", "--stage", "sft_answers"]) == 0
    assert capsys.readouterr().out == answers
    assert main(["sft", "nano_visual_sft", "--dry-run"]) == 0
    first = capsys.readouterr().out
    assert "view perception, is taught" in first and "view teacher, is taught" in first


def test_a_dry_run_refuses_options_that_the_stage_has_not(capsys):
    assert main(["distill", "nano_grpo", "--dry-run", "--perception-share", "0.5"]) == 2
    assert "the last stage of the recipe nano_grpo has no perception_share" in capsys.readouterr().err


def test_a_later_supervised_stage_begins_with_the_first_ones_model(tmp_path, capsys):
    few = ["--recipe", "nano_visual_sft", "--steps", "1", "--batch-size", "6", "--micro-batch-size", "3"]
    assert main(["sft", str(tmp_path), *few]) == 0
    assert main(["sft", str(tmp_path), *few, "--stage", "sft_answers"]) == 0
    assert (tmp_path / "sft_answers" / "model" / "model.safetensors").is_file()
    assert "next: pilotage eval" in capsys.readouterr().out
    assert main(["sft", str(tmp_path), *few, "--stage", "stage3"]) == 2
    assert "no stage 'stage3' for pilotage sft" in capsys.readouterr().err

"""`sft`, `distill`, `eval` and `study` turn options into configurations and mistakes into one line."""

from __future__ import annotations

import inspect
import io
import subprocess
import sys
from contextlib import redirect_stdout
from typing import Any

import pytest

from pilotage.cli.evaluate import print_summary
from pilotage.cli.main import main
from pilotage.distill.divergences import JSD, ForwardKL
from pilotage.distill.estimators import FullVocabulary, Sampled, TopK
from pilotage.recipes import RECIPES
from pilotage.recipes.nano import nano_mgsd
from pilotage.train.distill_config import DistillConfig, FrozenCopy
from pilotage.train.sft import SftConfig

pytestmark = pytest.mark.usefixtures("same_threads")


def test_sft_without_options_is_the_recipes_stage_1(tmp_path, trained, capsys):
    assert main(["sft", str(tmp_path)]) == 0
    assert trained["config"] == nano_mgsd(0).stages[0]
    assert (trained["backbone"], trained["examples"]) == ("nano", "train levels")
    assert f"next: pilotage distill {tmp_path}" in capsys.readouterr().out


def test_options_of_sft_replace_the_recipes_settings(tmp_path, trained):
    options = "--steps 7 --batch-size 9 --peak-lr 0.5 --lora-rank 4 --seed 3 --model somewhere --recipe nano"
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
    (tmp_path / "stage1" / "model" / "config.json").write_text("{}")
    options = "--model base --recipe nano --teacher-view teacher_no_plan --steps 3"
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
    assert f"let pilotage sft {tmp_path} end first" in capsys.readouterr().err


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
        ("eval nano --num -3", "--num -3 must be at least 1"),
        ("eval nano --samples 0", "--samples 0 must be at least 1"),
        ("eval nano --batch-size -2", "--batch-size -2 must be at least 1"),
        ("probe nano --num -3", "--num -3 must be at least 1"),
        ("palr RUN --num 0", "--num 0 must be at least 1"),
        ("sft RUN --threads -4", "--threads -4 must be at least 1"),
        ("grpo RUN --samples-per-prompt -2", "--samples-per-prompt -2 must be at least 1"),
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


def row(kind: str, number: int, success: bool) -> dict[str, Any]:
    verdict = {"parsed": True, "illegal": False, "success": success, "optimal": success, "num_executed": 3}
    return {
        "id": f"maze-3-{number}",
        "kind": kind,
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


@pytest.mark.parametrize("recipe", ["gkd", "dense_rl", "nano_gkd", "mgsd"])
def test_a_named_teacher_is_the_one_that_teaches(tmp_path, trained, recipe):
    assert main(["distill", str(tmp_path), "--recipe", recipe, "--model", "base", "--teacher", "large"]) == 0
    assert trained["config"].all_weights == (FrozenCopy(source="large"),)


@pytest.mark.parametrize("recipe", ["vigos", "opsd", "nano_vigos"])
def test_a_named_teacher_is_refused_where_the_student_teaches_itself(tmp_path, trained, capsys, recipe):
    options = ["--recipe", recipe, "--model", "nano", "--teacher", "large"]
    assert main(["distill", str(tmp_path), *options]) == 2
    assert "teacher 'large' has no effect here" in capsys.readouterr().err


def test_a_dry_run_of_gkd_takes_its_teacher(capsys):
    options = ["--model", "nano", "--teacher", "nano", "--steps", "3"]
    assert main(["distill", "gkd", "--dry-run", *options]) == 0
    assert "route teacher, view student" in capsys.readouterr().out


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

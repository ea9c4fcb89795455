"""A run has one trainer, its checkpoints are what was written, and weights that do not move are not passed over."""

from __future__ import annotations

import logging
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import sft_run
from distill_run import replay, rows_of, tiny_config, tiny_examples
from pilotage.backbones.load import LoraSettings, with_lora
from pilotage.cli.main import main
from pilotage.errors import PilotageError
from pilotage.nano.pretrain import PretrainConfig, pretrain
from pilotage.train import checkpoints
from pilotage.train.distill import distill
from pilotage.train.movement import MovementWatch, expects_rounding
from pilotage.train.optimisers import AdamW, AdamWKahan
from pilotage.train.sft import run_sft
from tiny import tiny_backbone

pytestmark = pytest.mark.usefixtures("one_thread")


def distilled(run_dir: Path, **more: Any) -> Path:
    settings = {"steps": 4, "checkpoint_every": 1, "num_checkpoints": 3} | more
    return distill(
        tiny_config(**settings), student=tiny_backbone(), examples=tiny_examples(), run_dir=run_dir
    )


def tuned(run_dir: Path, **more: Any) -> Path:
    return run_sft(replace(sft_run.CONFIG, **more), sft_run.fresh(), sft_run.EXAMPLES, run_dir)


def pretrained(run_dir: Path) -> None:
    pretrain(PretrainConfig(out=run_dir, steps=1))


def files_in(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


# -- one trainer --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("train", [distilled, tuned, pretrained])
def test_a_second_trainer_in_a_run_is_refused_before_it_writes(
    tmp_path: Path, train: Callable[[Path], Any]
) -> None:
    (tmp_path / "metrics.jsonl").write_text("{}\n")
    with checkpoints.training_in(tmp_path, is_first=True):
        before = files_in(tmp_path)
        with pytest.raises(PilotageError, match=f"another command is training in {tmp_path}: wait"):
            train(tmp_path)
        assert files_in(tmp_path) == before
        assert (tmp_path / "metrics.jsonl").read_text() == "{}\n"


def test_a_whole_recipe_is_run_once_at_a_time(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from pilotage.files import locked
    from pilotage.runs.runner import LOCK

    with locked(tmp_path / LOCK, busy=""):
        assert main(["demo", str(tmp_path)]) == 2
    assert "another command is running the recipe in" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == [LOCK]


PARENT = """
import subprocess, sys, time
child = subprocess.Popen(
    [sys.executable, "-c", "from pilotage.studies.runs import _end_with_parent as end; end(); "
     "print('ready', flush=True); import time; time.sleep(600)"],
    stdin=subprocess.PIPE, stdout=subprocess.PIPE,
)
child.stdout.readline()
print(child.pid, flush=True)
time.sleep(600)
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_part_of_a_study_ends_with_the_study(number: signal.Signals) -> None:
    parent = subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    os.kill(parent.pid, number)
    parent.wait()
    for _ in range(500):
        if not Path(f"/proc/{child}").exists() or "State:\tZ" in Path(f"/proc/{child}/status").read_text():
            return
        time.sleep(0.02)
    os.kill(child, signal.SIGKILL)
    pytest.fail("the part goes on without its study")


# -- checkpoints --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("whole")
    distilled(run)
    return run


@pytest.fixture
def stopped(whole: Path, tmp_path: Path) -> Path:
    """A run that was killed after its third step, with checkpoints of steps 2 and 3."""
    run = Path(shutil.copytree(whole, tmp_path / "run"))
    shutil.rmtree(run / "stage2" / "model")
    shutil.rmtree(run / "stage2" / "checkpoint-4")
    return run


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:100])


def empty(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.mkdir()


DAMAGES: dict[str, Callable[[Path], object]] = {
    "a flipped bit in the weights": lambda at: flip(at / "model.safetensors"),
    "a flipped bit in the optimiser": lambda at: flip(at / "optimizer.pt"),
    "no optimiser": lambda at: (at / "optimizer.pt").unlink(),
    "no schedule": lambda at: (at / "scheduler.pt").unlink(),
    "no generators": lambda at: (at / "rng_state.pth").unlink(),
    "a cut state": lambda at: cut(at / "trainer_state.json"),
    "an empty file": lambda at: (at / "optimizer.pt").write_bytes(b""),
    "no checksums": lambda at: (at / checkpoints.CHECKSUMS).unlink(),
    "damaged checksums": lambda at: cut(at / checkpoints.CHECKSUMS),
    "nothing": lambda at: empty(at),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_is_passed_over_with_one_line(
    stopped: Path, whole: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    DAMAGES[damage](stopped / "stage2" / "checkpoint-3")
    assert [step for step, _ in checkpoints.checkpoints(stopped / "stage2")] == [2, 3]
    with caplog.at_level(logging.INFO):
        model = distilled(stopped)
    messages = [record.message for record in caplog.records if "is passed over" in record.message]
    assert len(messages) == 1 and "checkpoint-3" in messages[0]
    assert "going on from step 2" in caplog.text
    assert rows_of(stopped) == rows_of(whole)
    ours, theirs = (load_file(at / "model.safetensors") for at in (model, whole / "stage2" / "model"))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_without_a_whole_checkpoint_a_run_begins_again(stopped: Path, whole: Path) -> None:
    for step in (2, 3):
        flip(stopped / "stage2" / f"checkpoint-{step}" / "optimizer.pt")
    distilled(stopped)
    assert rows_of(stopped) == rows_of(whole)


def test_nothing_half_written_is_left_at_the_end(stopped: Path) -> None:
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    (stopped / "stage2" / "writing.partial" / "checkpoint-4").mkdir(parents=True)
    (stopped / "stage2" / "model.partial").mkdir()
    (stopped / f".metrics.jsonl.{dead.pid}-0a0b0c0d.partial").write_text("half")
    distilled(stopped)
    assert not list(stopped.rglob("*.partial"))


def test_lines_that_are_no_rows_go_and_others_stay(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    own, other = b'{"stage": "s", "step": 1, "x": 2}\n', b'{"stage": "t", "step": 9}\n'
    path.write_bytes(
        b'[1]\n"x"\n\xff\xfe\n'
        + own
        + b'{"stage": "s"}\n{"stage": "s", "step": "one"}\n'
        + other
        + b'{"stage": "s", '
    )
    assert checkpoints.trim_rows(path, stage="s", last_step=1) == [{"stage": "s", "step": 1, "x": 2}]
    assert path.read_bytes() == own + other


# -- numbers ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", ["1e30", "-1", "0", "nan", "inf"])
@pytest.mark.parametrize(("stage", "field"), [("stage1", "lr"), ("stage2", "lr"), ("grpo", "lr")])
def test_a_rate_that_cannot_be_one_is_one_line_and_nothing_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], stage: str, field: str, value: str
) -> None:
    recipe = "nano_grpo" if stage == "grpo" else "nano"
    assert (
        main(["train", str(tmp_path / "run"), "--recipe", recipe, "--set", f"{stage}.{field}={value}"]) == 2
    )
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and value.removesuffix("30") in err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("engine", "message"),
    [
        (None, "tiny gives probabilities that are not numbers"),
        (
            replay({example.id: (40, 41) for example in tiny_examples()}),
            "not a number at step 1; lower the learning",
        ),
    ],
)
def test_what_is_no_number_ends_the_run_before_its_checkpoint(
    tmp_path: Path, engine: Any, message: str
) -> None:
    student = tiny_backbone()
    with torch.no_grad():
        student.model.lm_head.weight[5] = torch.nan
    with pytest.raises(PilotageError, match=message):
        distill(
            tiny_config(checkpoint_every=1),
            student=student,
            examples=tiny_examples(),
            run_dir=tmp_path,
            engine=engine,
        )
    assert not checkpoints.checkpoints(tmp_path / "stage2")


# -- movement -----------------------------------------------------------------------------------------------------


def in_bfloat16() -> Any:
    backbone = tiny_backbone()
    backbone.model.to(torch.bfloat16)
    return backbone


def warnings_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.message for record in caplog.records if record.levelno == logging.WARNING]


def test_training_in_float32_or_with_an_adapter_says_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = tiny_config(steps=2, lr=1e-6)
    distill(config, student=tiny_backbone(), examples=tiny_examples(), run_dir=tmp_path / "float32")
    adapted = with_lora(in_bfloat16(), LoraSettings(rank=2, alpha=4.0))
    distill(replace(config, lr=1e-3), student=adapted, examples=tiny_examples(), run_dir=tmp_path / "adapter")
    assert not [message for message in warnings_of(caplog) if "trained weights" in message]


def test_an_adapter_that_does_not_move_is_told_too(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    adapted = with_lora(tiny_backbone(), LoraSettings(rank=2, alpha=4.0))
    config = tiny_config(steps=2)
    for parameter in adapted.model.parameters():
        if parameter.requires_grad:
            parameter.register_hook(torch.zeros_like)
    distill(replace(config, weight_decay=0.0), student=adapted, examples=tiny_examples(), run_dir=tmp_path)
    (message,) = warnings_of(caplog)
    assert "after 2 steps 0.0 % of the trained weights have changed" in message


@pytest.mark.parametrize(
    ("begun", "to_come", "warned_at"), [(0, 2, 2), (15, 15, 30), (6, 6, 12), (0, 40, 20)]
)
def test_weights_that_stand_still_are_told_of_in_runs_that_go_on_too(
    begun: int, to_come: int, warned_at: int, caplog: pytest.LogCaptureFixture
) -> None:
    model = torch.nn.Linear(4, 1)
    watch = MovementWatch(model, AdamW())
    state = SimpleNamespace(global_step=begun, max_steps=begun + to_come)
    watch.on_train_begin(None, state, None)
    warned_steps = []
    for _ in range(to_come):
        state.global_step += 1
        watch.on_step_end(None, state, None, optimizer=SimpleNamespace(state={}))
        warned_steps += [state.global_step] * len(warnings_of(caplog))
        caplog.clear()
    assert warned_steps == [warned_at]


def test_what_is_rounded_away_is_counted_by_the_weights_own_sizes() -> None:
    model = torch.nn.Linear(4, 1, bias=False, dtype=torch.bfloat16)
    with torch.no_grad():
        # 1 moves by 2**-8 at least, half of which is rounded to even; 2**-10 by a thousandth of that.
        model.weight.copy_(torch.tensor([[1.0, 1.0, 1.0, 2.0**-10]]))
    assert expects_rounding(model, 1e-4, AdamWKahan()) is None
    assert "75 %" in str(expects_rounding(model, 1e-4, AdamW()))
    assert expects_rounding(model, 1e-2, AdamW()) is None
    assert expects_rounding(model.float(), 1e-12, AdamW()) is None

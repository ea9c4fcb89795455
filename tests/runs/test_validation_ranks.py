"""Validation while several ranks train: the rows of one process, with whole and with sharded parameters."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

import sft_run
from counted_world import Counted, counted, known
from distill_run import rows_of, tiny_config
from pilotage.backbones.load import Backbone
from pilotage.errors import PilotageError
from pilotage.records import Condition, Example
from pilotage.rollouts.play import Start, open_in_process
from pilotage.runs.validation import VALIDATION, Validator
from pilotage.train.distill import DistillTrainer, distill
from pilotage.train.distill_config import DistillConfig
from pilotage.train.sft import run_sft
from pilotage.worlds.world import Session
from ranks import on_ranks, shard
from tiny import tiny_backbone

STEPS, EVERY = 4, 2
LAYOUTS = ("layers", "root")
BAD = "counted-13"
"""An example from which no session can be begun, where that is tried: the second rank's first."""


class Measured(Counted):
    conditions = (Condition(name="image", title="from the picture", views={"act": "student"}),)


def student() -> Backbone:
    """Many ids end a turn, so that answers differ in length."""
    backbone = tiny_backbone()
    ends = range(0, len(backbone.tokenizer), 12)
    return replace(backbone, eos_ids=tuple(token for token in ends if token not in backbone.vision_token_ids))


def learnt() -> list[Example]:
    return [counted(number, turns=1) for number in range(4)]


def unseen() -> list[Example]:
    """Seven episodes for two ranks: the first has four, of two turns, the second three, of one, two without a
    picture; a world breaks off one."""
    shown = ("all", "all", "some", "none", "all", "none", "all")
    return [
        counted(12 + n, turns=1 if n % 2 else 2, pictures=shown[n], fails=n == 4) for n in range(len(shown))
    ]


def refusing(start: Start) -> Session:
    if start.example.id == BAD:
        raise PilotageError(f"{BAD}: there is nothing to begin")
    return open_in_process(start)


def validator(stage: str, run_dir: Path, **changes: Any) -> Validator:
    settings: dict[str, Any] = {"every": EVERY, "max_new_tokens": 8, "prompts": "brief"}
    return Validator(stage, unseen(), run_dir, **settings | changes)


def config() -> DistillConfig:
    return tiny_config(steps=STEPS, prompts_per_step=4, max_new_tokens=8, seed=0, checkpoint_every=1)


class Stopped(Exception):
    """A run is broken off, on every rank."""


def interrupted(ask: Callable[..., None], student: Backbone, step: int, time_s: float) -> None:
    ask(student, step, time_s)
    if step == 3:
        raise Stopped


def trained(run_dir: Path, *, stops: bool = False) -> None:
    """A stage of each condition in one folder; of one that stops and goes on, the second alone."""
    if not stops:
        once = replace(sft_run.CONFIG, steps=STEPS)
        first = validator("stage1", run_dir)
        run_sft(once, sft_run.fresh(), sft_run.EXAMPLES, run_dir, validate=first)
    settings = config()
    second = validator(settings.stage, run_dir)
    run = partial(distill, settings, examples=learnt(), run_dir=run_dir)
    if stops:
        with pytest.raises(Stopped):
            run(student=student(), validate=partial(interrupted, second))
    run(student=student(), validate=second)


def validated(run_dir: Path, layout: str | None) -> None:
    """Validations before and after a step, without the trainer's loop: accelerate would not shard on a CPU."""
    ask = validator("steps", run_dir)
    trainer = DistillTrainer(config(), student=student(), examples=learnt(), run_dir=run_dir)
    model = trainer.student.model
    if layout is not None:
        shard(model, layout)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    ask(trainer.student, 0, 0.0)
    trainer.training_step(trainer.model, {"step": 0})
    optimizer.step()
    optimizer.zero_grad()
    ask(trainer.student, EVERY, 1.0)


def told_of_failure(run_dir: Path, layout: str | None) -> str:
    trainer = DistillTrainer(config(), student=student(), examples=learnt(), run_dir=run_dir)
    if layout is not None:
        shard(trainer.student.model, layout)
    with pytest.raises(PilotageError) as refused:
        validator("steps", run_dir, open_session=refusing)(trainer.student, 0, 0.0)
    return str(refused.value)


def on_a_rank(rank: int, folder: str) -> None:
    with known(Measured()):
        trained(Path(folder) / "plain")
        trained(Path(folder) / "stopped", stops=True)
        for layout in LAYOUTS:
            validated(Path(folder) / layout, layout)
        message = [told_of_failure(Path(folder) / "failing", layout) for layout in (None, *LAYOUTS)]
    (Path(folder) / f"told-{rank}.json").write_text(json.dumps(message))


def timeless(run_dir: Path) -> list[dict[str, Any]]:
    rows = [json.loads(line) for line in (run_dir / VALIDATION).read_text().splitlines()]
    return [{name: value for name, value in row.items() if not name.endswith("_s")} for row in rows]


def steps_of(rows: Sequence[dict[str, Any]]) -> list[tuple[str, int]]:
    return [(row["stage"], row["step"]) for row in rows]


@pytest.fixture(scope="module")
def two_ranks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("two")
    on_ranks(on_a_rank, folder)
    return folder


@pytest.fixture(scope="module")
def one_process(tmp_path_factory: pytest.TempPathFactory, one_thread: None) -> Path:
    folder = tmp_path_factory.mktemp("one")
    with known(Measured()):
        trained(folder / "plain")
        validated(folder / "steps", None)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize(("run", "stages"), [("plain", ("stage1", "stage2")), ("stopped", ("stage2",))])
def test_two_ranks_write_the_rows_of_one_process_and_each_once(two_ranks, one_process, run, stages):
    rows = timeless(two_ranks / run)
    assert rows == [row for row in timeless(one_process / "plain") if row["stage"] in stages]
    assert steps_of(rows) == [(stage, step) for stage in stages for step in (0, 2, 4)]
    # Shares of seven episodes.
    assert all(7 * row["success"]["counted"] % 1 == pytest.approx(0.0) for row in rows)
    metrics, expected = rows_of(two_ranks / run), rows_of(one_process / "plain")
    expected = [row for row in expected if row["stage"] in stages]
    assert steps_of(metrics) == [(stage, step) for stage in stages for step in (1, 2, 3, 4)]
    # Adam makes much of what ranks add up in another order: the first steps alone are near.
    for one, other in zip(metrics, expected, strict=True):
        if one["step"] < 3:
            assert one.pop("stage") == other.pop("stage")
            assert one == pytest.approx(other, rel=1e-2, abs=1e-4)


@pytest.mark.slow
def test_what_is_compared_changes_with_the_weights(one_process):
    rows = [*timeless(one_process / "plain"), *timeless(one_process / "steps")]
    assert len({row["success"]["counted"] for row in rows}) > 1


@pytest.mark.slow
@pytest.mark.parametrize("layout", LAYOUTS)
def test_so_they_do_with_sharded_parameters(two_ranks, one_process, layout):
    rows = timeless(two_ranks / layout)
    assert rows == timeless(one_process / "steps")
    assert steps_of(rows) == [("steps", 0), ("steps", 2)]


@pytest.mark.slow
def test_an_episode_that_one_rank_cannot_play_ends_all_with_one_line(two_ranks):
    line = f"validation on rank 1: {BAD}: there is nothing to begin"
    for rank in (0, 1):
        assert json.loads((two_ranks / f"told-{rank}.json").read_text()) == [line] * 3
    assert not (two_ranks / "failing" / VALIDATION).exists()


def test_seconds_of_validation_are_no_training(tmp_path, monkeypatch):
    ask = validator("stage1", tmp_path)
    monkeypatch.setattr(ask, "_success", lambda student: {"counted": 0.5})
    for step, time_s in ((0, 0.0), (1, 5.0), (2, 10.0), (3, 11.0), (4, 20.0)):
        ask(tiny_backbone(), step, time_s)
    rows = [json.loads(line) for line in (tmp_path / VALIDATION).read_text().splitlines()]
    assert [row["step"] for row in rows] == [0, 2, 4]
    lost_s = [row["validation_s"] for row in rows]
    assert rows[2]["train_s"] == pytest.approx(20.0 - lost_s[0] - lost_s[1])
    # A run that went back to step 1 measures what came after it again.
    ask(tiny_backbone(), 2, 10.0)
    assert [json.loads(line)["step"] for line in (tmp_path / VALIDATION).read_text().splitlines()] == [0, 2]

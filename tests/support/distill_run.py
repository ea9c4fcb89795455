"""One small distillation run, for tests and for the processes that they start (and kill).

python tests/support/distill_run.py RUN_DIR [--kill-after STEP | --kill-before-publishing STEP] [--routed]
python tests/support/distill_run.py RUN_DIR --then-routed RUN_DIR
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parent))

from pilotage.backbones.load import Backbone
from pilotage.data.examples import make_example
from pilotage.distill.divergences import ForwardKL, ReverseKL
from pilotage.distill.estimators import FullVocabulary
from pilotage.distill.routes import Route, Router, one_teacher
from pilotage.distill.spans import MgsdLayout
from pilotage.records import Example, Rollout
from pilotage.rollouts import ReplayEngine
from pilotage.rollouts.sources import FromDataSet, FromStudent, on_policy_share
from pilotage.train import checkpoints
from pilotage.train.distill import distill
from pilotage.train.distill_config import EMA, DistillConfig, FrozenCopy
from pilotage.views import reference_of_view
from pilotage.worlds import get_task
from tiny import tiny_backbone, written

TASKS = ("frozenlake", "maze")


@cache
def tiny_examples(num_each: int = 5, tasks: Sequence[str] = TASKS, level: int = 3) -> tuple[Example, ...]:
    """Distinct examples of each task."""
    rng = np.random.default_rng(0)
    found: dict[str, Example] = {}
    for name in tasks:
        task = get_task(name)
        while sum(example.task == name for example in found.values()) < num_each:
            example = make_example(task, task.generate(level, rng))
            found[example.id] = example
    return tuple(found.values())


def tiny_config(**changes: Any) -> DistillConfig:
    """One step of one teacher, of which `view`, `weights` and `estimator` can be said, besides the stage's fields."""
    settings: dict[str, Any] = {
        "steps": 1,
        "prompts_per_step": 4,
        "max_new_tokens": 6,
        "prompts": "brief",
        "lr": 1e-2,
        "micro_batch_size": 2,
        "rollouts_every": 1,
    }
    teacher: dict[str, Any] = {
        "view": changes.pop("view", "teacher"),
        "weights": changes.pop("weights", FrozenCopy()),
        "estimator": changes.pop("estimator", FullVocabulary(divergence=ReverseKL())),
    }
    settings["router"] = one_teacher(**teacher)
    if changes.get("perception_share") and "description" not in changes:
        described: dict[str, Any] = teacher | {
            "view": "perception" if teacher["view"] == "student" else "description"
        }
        settings["description"] = Route(name="description", **described)
    return DistillConfig(**(settings | changes))


RESUMED = {
    "steps": 6,
    "checkpoint_every": 2,
    "schedule": "cosine",
    "warmup_share": 1 / 3,
    "pixel_noise": 0.05,
}


def routed_config() -> DistillConfig:
    """Three routes, two sources and a teacher that moves."""
    forward = FullVocabulary(divergence=ForwardKL())

    def route(name: str, **changes: Any) -> Route:
        settings: dict[str, Any] = {
            "view": "student_with_plan",
            "weights": EMA(rate=0.3),
            "estimator": forward,
        }
        return Route(name=name, **(settings | changes))

    routes = (
        route("seen", view="picture", spans=("state",), rows="valid", append="upto_span"),
        route("told", spans=("route", "answer"), rows="valid"),
        route("broken", rows="invalid", scale=2.0),
    )
    changes: dict[str, Any] = {"max_new_tokens": 120, "means": "apart"}
    return tiny_config(
        **(RESUMED | {"steps": 3} | changes),
        router=Router(layout=MgsdLayout(), routes=routes),
        sources=on_policy_share(0.5, FromStudent(), FromDataSet()),
    )


def rows_of(run_dir: Path) -> list[dict[str, Any]]:
    """The rows of `metrics.jsonl` without what the clock says."""
    rows = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in row.items() if "time" not in name} for row in rows]


def other_weights() -> Backbone:
    backbone = tiny_backbone()
    torch.manual_seed(7)
    with torch.no_grad():
        for parameter in backbone.model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return backbone


def references(backbone: Backbone, *, break_first: bool = False) -> ReplayEngine:
    """The reference answers, the first without its last four tokens where that is asked for."""
    return ReplayEngine(
        [
            written(
                backbone,
                example.id,
                reference_of_view(example, "student"),
                keep=-4 if break_first and number == 0 else None,
            )
            for number, example in enumerate(tiny_examples())
        ],
        off_policy=True,
    )


def replay(texts: dict[str, tuple[int, ...]], *, finished: bool = True) -> ReplayEngine:
    backbone = tiny_backbone()
    return ReplayEngine(
        (
            Rollout(example_id=name, token_ids=ids, text=backbone.decode(ids), finished=finished)
            for name, ids in texts.items()
        ),
        off_policy=True,
    )


def kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def main(options: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("run_dir", type=Path)
    parser.add_argument("--kill-after", type=int)
    parser.add_argument("--kill-before-publishing", type=int)
    parser.add_argument("--routed", action="store_true")
    parser.add_argument("--then-routed", type=Path, help="the folder of a second run, which is routed")
    arguments = parser.parse_args(options)
    torch.set_num_threads(1)

    def on_step(row: dict[str, Any]) -> None:
        if row["step"] == arguments.kill_after:
            kill()

    publish = checkpoints.publish

    def publish_or_die(written: Path, target: Path) -> None:
        if target.name == f"checkpoint-{arguments.kill_before_publishing}":
            kill()
        publish(written, target)

    checkpoints.publish = publish_or_die
    runs = [(arguments.run_dir, arguments.routed)]
    if arguments.then_routed:
        runs.append((arguments.then_routed, True))
    for run_dir, is_routed in runs:
        distill(
            routed_config() if is_routed else tiny_config(**RESUMED),
            student=tiny_backbone(),
            examples=tiny_examples(),
            run_dir=run_dir,
            on_step=on_step,
        )
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()

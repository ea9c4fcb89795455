"""One small GRPO run on answers that are given."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from distill_run import rows_of, tiny_examples
from pilotage.records import Rollout
from pilotage.rollouts import ReplayEngine
from pilotage.train.grpo import run_grpo
from pilotage.train.grpo_config import GrpoConfig
from pilotage.worlds.grids.views import reference_answer
from tiny import tiny_backbone, written


def tiny(**changes: Any) -> GrpoConfig:
    settings: dict[str, Any] = {
        "steps": 2,
        "prompts_per_step": 2,
        "samples_per_prompt": 2,
        "max_new_tokens": 120,
        "prompts": "brief",
        "lr": 1e-3,
        "micro_batch_size": 2,
        "format_reward": 0.1,
        "checkpoint_every": 1,
    }
    return GrpoConfig(**(settings | changes))


def answer(example: Any, text: str) -> Rollout:
    return written(tiny_backbone(), example.id, text)


def right_and_wrong() -> ReplayEngine:
    """Of each example in turn the reference answer, and one that cannot be read."""
    return ReplayEngine(
        rollout
        for example in tiny_examples()
        for rollout in (answer(example, reference_answer(example, "student")), answer(example, "<answer>?"))
    )


def run(config: GrpoConfig, run_dir: Path, engine: Any = None, on_step: Any = None) -> list[dict[str, Any]]:
    backbone = tiny_backbone()
    run_grpo(config, backbone, tiny_examples(), run_dir, engine=engine, on_step=on_step)
    return rows_of(run_dir)

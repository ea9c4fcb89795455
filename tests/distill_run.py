"""One small distillation run, for tests and for the processes that they start (and kill).

python tests/distill_run.py RUN_DIR [--kill-after STEP | --kill-before-publishing STEP] [--fully-shard]
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

from pilotage.data.examples import make_example
from pilotage.distill.divergences import ReverseKL
from pilotage.distill.estimators import FullVocabulary
from pilotage.records import Example
from pilotage.tasks import get_task
from pilotage.train import checkpoints
from pilotage.train.distill import distill
from pilotage.train.distill_config import DistillConfig, FrozenCopy
from tiny import tiny_backbone

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
    settings: dict[str, Any] = {
        "steps": 1,
        "prompts_per_step": 4,
        "max_new_tokens": 6,
        "prompts": "brief",
        "lr": 1e-2,
        "estimator": FullVocabulary(divergence=ReverseKL()),
        "teacher_weights": FrozenCopy(),
        "micro_batch_size": 2,
        "rollouts_every": 1,
    }
    return DistillConfig(**(settings | changes))


RESUMED = {"steps": 6, "checkpoint_every": 2, "schedule": "cosine", "warmup_steps": 2, "pixel_noise": 0.05}


def rows_of(run_dir: Path) -> list[dict[str, Any]]:
    """The rows of `metrics.jsonl` without what the clock says."""
    rows = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in row.items() if "time" not in name} for row in rows]


def kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def fully_sharded_gradients() -> float:
    """The largest difference between gradients through `fully_shard` on two ranks and those of one whole model."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    from pilotage.distill.align import response_tokens
    from pilotage.distill.chunked import Head
    from pilotage.records import Rollout
    from pilotage.train.distill_scoring import encode_rollouts, head_of, predicting_states
    from pilotage.views import VIEWS

    rank, num_ranks = torch.distributed.get_rank(), torch.distributed.get_world_size()
    examples = tiny_examples()[:4]
    whole, shards = tiny_backbone(), tiny_backbone()
    rollouts = [
        Rollout(example_id=example.id, token_ids=tuple(range(20, 24 + place)), text="", finished=True)
        for place, example in enumerate(examples)
    ]
    num_tokens = sum(len(rollout.token_ids) for rollout in rollouts)

    def loss_of(backbone: Any, rows: slice, scale: float) -> torch.Tensor:
        views = [VIEWS["student"](example, "brief") for example in examples[rows]]
        batch = encode_rollouts(backbone, views, rollouts[rows], max_prompt_tokens=None, pad_to_multiple=16)
        hidden_MH = predicting_states(backbone.model, backbone.model, batch)
        student = head_of(backbone.model, hidden_MH)
        generator = torch.Generator().manual_seed(1)
        weight_VH = torch.randn(student.weight_VH.shape, generator=generator)
        ids_M = response_tokens(batch["inputs"]["input_ids"], batch["response_mask"])
        teacher = Head(hidden_MH=torch.nn.functional.one_hot(ids_M % 32, 32).float(), weight_VH=weight_VH)
        weight_M = torch.full(ids_M.shape, scale / num_tokens)
        estimator = FullVocabulary(divergence=ReverseKL())
        return estimator(student=student, teacher=teacher, token_ids_M=ids_M, weight_M=weight_M).value_M.sum()

    loss_of(whole, slice(0, 4), 1.0).backward()
    mesh = init_device_mesh("cpu", (num_ranks,))
    for layer in shards.model.model.language_model.layers:
        fully_shard(layer, mesh=mesh)
    fully_shard(shards.model, mesh=mesh)
    share = 4 // num_ranks
    loss_of(shards, slice(rank * share, (rank + 1) * share), num_ranks).backward()
    gradients = {name: p.grad for name, p in whole.model.named_parameters()}
    differences = [
        float((p.grad.full_tensor() - gradients[name]).abs().max())
        for name, p in shards.model.named_parameters()
        if gradients[name] is not None
    ]
    assert len(differences) > 20
    return max(differences)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("run_dir", type=Path)
    parser.add_argument("--kill-after", type=int)
    parser.add_argument("--kill-before-publishing", type=int)
    parser.add_argument("--fully-shard", action="store_true")
    arguments = parser.parse_args()
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
    distill(
        tiny_config(**RESUMED),
        student=tiny_backbone(),
        examples=tiny_examples(),
        run_dir=arguments.run_dir,
        on_step=on_step,
    )
    if arguments.fully_shard:
        difference = fully_sharded_gradients()
        if torch.distributed.get_rank() == 0:
            (arguments.run_dir / "sharded.json").write_text(json.dumps(difference))


if __name__ == "__main__":
    main()

"""GRPO on the one trainer: a route without a reader, rewarded by the judge, on answers that are right and wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from distill_run import rows_of, tiny_config, tiny_examples
from pilotage.recipes.methods import grpo_stage
from pilotage.records import Example, Rollout
from pilotage.rollouts.replay import ReplayEngine
from pilotage.train.distill import DistillTrainer
from pilotage.worlds.grids.views import reference_answer
from tiny import tiny_backbone

WRONG = "no plan at all"


def answers(examples: list[Example], *, num_right: int) -> ReplayEngine:
    """Four answers to each example, the first ones right."""
    backbone = tiny_backbone()
    rollouts = []
    for example in examples:
        for sample in range(4):
            text = reference_answer(example, "student") if sample < num_right else WRONG
            ids = tuple(
                backbone.tokenizer(text + str(backbone.tokenizer.eos_token), add_special_tokens=False)[
                    "input_ids"
                ]
            )
            rollouts.append(
                Rollout(
                    example_id=example.id,
                    token_ids=ids,  # pyright: ignore[reportArgumentType]
                    text=backbone.decode(ids),  # pyright: ignore[reportArgumentType]
                    finished=True,
                    logprobs=(-1.0,) * len(ids),
                )
            )
    return ReplayEngine(rollouts)


def trained(tmp_path: Path, *, num_right: int, **settings: Any) -> tuple[DistillTrainer, dict[str, Any]]:
    examples = list(tiny_examples(num_each=1))
    config = grpo_stage(
        tiny_config(prompts_per_step=len(examples), steps=1, max_new_tokens=400), num_samples=4, **settings
    )
    trainer = DistillTrainer(
        config,
        student=tiny_backbone(),
        examples=examples,
        run_dir=tmp_path,
        engine=answers(examples, num_right=num_right),
    )
    trainer.run()
    [row] = rows_of(tmp_path)
    return trainer, row


def test_it_learns_from_right_and_wrong_answers_without_any_reader(tmp_path: Path) -> None:
    trainer, row = trained(tmp_path, num_right=1, format_reward=0.1)
    assert trainer.readers.backbones == []
    assert row["rollout/success"] == 0.25 and row["rollout/same_reward"] == 0.0
    assert row["rollout/reward"] == pytest.approx(0.25 * 1.1)
    assert row["grad_norm"] > 0


@pytest.mark.parametrize("num_right", [0, 4])
def test_a_group_of_equal_rewards_teaches_nothing(tmp_path: Path, num_right: int) -> None:
    _, row = trained(tmp_path, num_right=num_right)
    assert row["rollout/same_reward"] == 1.0 and row["rollout/success"] == num_right / 4
    assert row["grad_norm"] == 0


def test_beside_the_reward_a_route_may_hold_it_to_where_it_began(tmp_path: Path) -> None:
    trainer, row = trained(tmp_path, num_right=1, kl_coef=0.1)
    assert len(trainer.readers.backbones) == 1
    assert row["route/start/kl"] == pytest.approx(0.0, abs=1e-5)

"""GRPO on the one trainer: a route without a teacher, rewarded by the judge, on answers that are right and wrong."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from distill_run import rows_of, tiny_config, tiny_examples
from pilotage.backbones.load import Backbone, LoraSettings
from pilotage.recipes import RECIPES
from pilotage.recipes.methods import grpo_stage
from pilotage.records import Example, Rollout, View
from pilotage.rollouts.engine import Decoding, Request
from pilotage.rollouts.replay import ReplayEngine
from pilotage.train.distill import DistillTrainer, distill
from pilotage.train.distill_config import DistillConfig
from pilotage.train.step.scoring import encode_rollouts, head_of, predicting_states, sampled_logprobs
from pilotage.views import reference_of_view
from pilotage.worlds import get_task
from pilotage.worlds.grids.data.steps import make_step_example, map_hash
from pilotage.worlds.grids.views import VIEWS
from pilotage.worlds.questions.asked import QUESTION_KINDS
from pilotage.worlds.questions.data.build import iter_questions
from pilotage.worlds.questions.recipes import for_world
from pilotage.worlds.questions.views import vqa_reference_response
from tiny import tiny_backbone, written

WRONG = "no plan at all"
SAMPLES = 4


pytestmark = pytest.mark.usefixtures("one_thread")


def answers(examples: list[Example], *, num_right: int) -> ReplayEngine:
    """Four answers to each example, the first ones right."""
    backbone = tiny_backbone()
    return ReplayEngine(
        (
            written(
                backbone,
                example.id,
                reference_of_view(example, "student") if sample < num_right else WRONG,
            )
            for example in examples
            for sample in range(SAMPLES)
        ),
        off_policy=True,
    )


def config_of(num_examples: int, **settings: Any) -> DistillConfig:
    changes = {name: settings.pop(name) for name in [*settings] if name in _OF_STAGE}
    return grpo_stage(
        tiny_config(**{"prompts_per_step": num_examples, "steps": 1, "max_new_tokens": 400} | changes),
        num_samples=SAMPLES,
        **settings,
    )


_OF_STAGE = {field.name for field in fields(DistillConfig)} - {"stage"}


def trained(tmp_path: Path, *, num_right: int, **settings: Any) -> tuple[DistillTrainer, dict[str, Any]]:
    examples = list(tiny_examples(num_each=1))
    config = config_of(len(examples), **settings)
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


def test_it_learns_from_right_and_wrong_answers_without_any_teacher(tmp_path: Path) -> None:
    trainer, row = trained(tmp_path, num_right=1, format_reward=0.1)
    assert trainer.teachers.backbones == []
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
    assert len(trainer.teachers.backbones) == 1
    assert row["route/start/kl"] == pytest.approx(0.0, abs=1e-5)


class Says:
    """Answers with words of the test's own, at the log-probabilities that the model has for them now."""

    def __init__(self, backbone: Backbone, words: Callable[[Request], str]) -> None:
        self.backbone, self.words = backbone, words

    def generate(self, requests: Sequence[Request], decoding: Decoding) -> list[Rollout]:
        rollouts = [written(self.backbone, request.example_id, self.words(request)) for request in requests]
        scored = logprobs(self.backbone, [request.view for request in requests], rollouts)
        return [
            replace(rollout, logprobs=tuple(of_tokens.tolist()))
            for rollout, of_tokens in zip(rollouts, scored, strict=True)
        ]

    def sync(self, model: Any) -> None:
        """Nothing: it is the trainer's own model."""


def logprobs(
    backbone: Backbone, views: Sequence[View], rollouts: Sequence[Rollout]
) -> tuple[torch.Tensor, ...]:
    """Of each rollout's tokens, nats."""
    encoded = encode_rollouts(backbone, views, rollouts, max_prompt_tokens=None, pad_to_multiple=16)
    with torch.no_grad():
        states_MH = predicting_states(backbone.model, backbone.model, encoded)
        ids_M = torch.tensor([token for rollout in rollouts for token in rollout.token_ids])
        scored_M = sampled_logprobs(head_of(backbone.model, states_MH), ids_M, temperature=1.0)
    return scored_M.split([len(rollout.token_ids) for rollout in rollouts])


def test_right_answers_gain_on_wrong_ones(tmp_path: Path) -> None:
    [example] = tiny_examples(num_each=1, tasks=("maze",))
    student = tiny_backbone()
    texts = (reference_of_view(example, "student"), "<answer>L L</answer>")

    def likely() -> float:
        """How much likelier a token of the right answer is."""
        rollouts = [written(student, example.id, text) for text in texts]
        right, wrong = logprobs(student, [VIEWS["student"](example, "brief")] * 2, rollouts)
        return float(right.mean() - wrong.mean())

    before = likely()
    distill(
        config_of(1, steps=4, lr=1e-3),
        student=student,
        examples=[example],
        run_dir=tmp_path,
        engine=Says(student, lambda request: texts[request.sample % 2]),
    )
    assert likely() > before + 0.5


@pytest.mark.parametrize("lora", [None, LoraSettings(rank=2, alpha=4)], ids=["whole", "adapter"])
def test_a_stopped_run_goes_on_bit_for_bit(tmp_path: Path, lora: LoraSettings | None) -> None:
    examples = list(tiny_examples(num_each=1))
    config = config_of(len(examples), steps=3, checkpoint_every=1, lora=lora, kl_coef=0.1)

    class Stopped(Exception):
        pass

    def stop(row: dict[str, Any]) -> None:
        if row["step"] == 2:
            raise Stopped

    def run(name: str, on_step: Any = None) -> list[dict[str, Any]]:
        distill(
            config,
            student=tiny_backbone(),
            examples=examples,
            run_dir=tmp_path / name,
            engine=answers(examples, num_right=1),
            on_step=on_step,
        )
        return rows_of(tmp_path / name)

    whole = run("whole")
    assert whole[0]["route/start/kl"] == pytest.approx(0, abs=1e-5) and whole[2]["route/start/kl"] > 0
    with pytest.raises(Stopped):
        run("stopped", stop)
    assert run("stopped") == whole
    ours, theirs = (
        load_file(tmp_path / name / "grpo" / "model" / "model.safetensors") for name in ("stopped", "whole")
    )
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_questions_are_rewarded_by_their_grader(tmp_path: Path) -> None:
    asked = list(iter_questions([(get_task("frozenlake"), 3)], QUESTION_KINDS, 4, "train", 0))
    backbone = tiny_backbone()
    texts = {
        question.id: vqa_reference_response(question).removeprefix("<description>") for question in asked
    }
    engine = ReplayEngine(
        (
            written(backbone, question.id, texts[question.id] if sample == 0 else WRONG)
            for question in asked
            for sample in range(SAMPLES)
        ),
        off_policy=True,
    )
    stage = for_world(RECIPES["nano_grpo"](0, backbone="nano"), config_of(len(asked), kl_coef=0.1))
    assert isinstance(stage, DistillConfig)
    distill(
        stage,
        student=backbone,
        examples=asked,
        run_dir=tmp_path,
        engine=engine,
    )
    [row] = rows_of(tmp_path)
    assert row["rollout/success"] == 1 / SAMPLES and row["rollout/same_reward"] == 0.0
    assert row["grad_norm"] > 0


def test_an_episode_is_rewarded_as_a_whole_and_each_of_its_turns_is_taught(tmp_path: Path) -> None:
    # The goal lies two cells to the right. Two samples go right in every turn and arrive, two go left and stay.
    task = get_task("frozenlake")
    state = task.parse_state({"map": ["SFG", "FFF", "FFF"]})
    example = make_step_example(
        "frozenlake_steps", state, map_=map_hash({"map": ["SFG", "FFF", "FFF"]}, task.name), starts="corner"
    )
    backbone = tiny_backbone()
    words = ("<answer>R</answer>", "<answer>L</answer>")
    engine = Says(backbone, lambda request: words[request.sample % 2])
    distill(
        config_of(1, max_turns=5),
        student=backbone,
        examples=[example],
        run_dir=tmp_path,
        engine=engine,
    )
    [row] = rows_of(tmp_path)
    assert row["rollout/success"] == 0.5 and row["rollout/reward"] == 0.5
    # Two moves where it arrives, five turns where it stays where it is.
    assert row["episode/turns"] == (2 + 5 + 2 + 5) / 4
    assert row["grad_norm"] > 0

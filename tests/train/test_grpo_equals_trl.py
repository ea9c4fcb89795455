"""GRPO on the one trainer has the gradients of TRL's GRPOTrainer on the same answers, to 1e-5."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from transformers import PrinterCallback, TrainerCallback
from trl.trainer.grpo_config import GRPOConfig
from trl.trainer.grpo_trainer import GRPOTrainer

from distill_run import tiny_config, tiny_examples
from pilotage.backbones.load import Backbone
from pilotage.pictures import read_rgb
from pilotage.recipes.methods import grpo_stage
from pilotage.records import Example, Rollout
from pilotage.rollouts.replay import ReplayEngine
from pilotage.train.distill import DistillTrainer
from pilotage.train.step.scoring import encode_rollouts, head_of, predicting_states, sampled_logprobs
from pilotage.views import reference_of_view
from pilotage.worlds.grids.views import VIEWS
from pilotage.worlds.registry import get_world
from tiny import tiny_backbone, written

SAMPLES = 4
FORMAT_REWARD = 0.1
SUCCESS, READABLE, NEITHER = 1.0 + FORMAT_REWARD, FORMAT_REWARD, 0.0


class _Gradients(TrainerCallback):
    """Keeps what the first update is made of."""

    def __init__(self) -> None:
        self.of: dict[str, torch.Tensor] = {}

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.of = {
            name: parameter.grad.detach().clone()
            for name, parameter in kwargs["model"].named_parameters()
            if parameter.grad is not None
        }


pytestmark = pytest.mark.usefixtures("one_thread")


def answered(backbone: Backbone, examples: list[Example]) -> dict[str, list[tuple[Rollout, float]]]:
    """Example -> its answers with their log-probabilities as sampled, and their rewards by hand; groups differ."""
    found: dict[str, list[tuple[Rollout, float]]] = {}
    for place, example in enumerate(examples):
        right = reference_of_view(example, "student")
        lost = "<answer>UP UP</answer>" if example.task == "maze" else "<answer></answer>"
        texts = [(right, SUCCESS), ("no plan at all", NEITHER), (lost, _lost_reward(example, lost))]
        texts += [(right, SUCCESS)] if place % 2 else [("nor here, in more words than before", NEITHER)]
        rollouts = [written(backbone, example.id, text) for text, _ in texts]
        encoded = encode_rollouts(
            backbone,
            [VIEWS["student"](example, "brief")] * SAMPLES,
            rollouts,
            max_prompt_tokens=None,
            pad_to_multiple=16,
        )
        with torch.no_grad():
            states_MH = predicting_states(backbone.model, backbone.model, encoded)
            ids_M = torch.tensor([token for rollout in rollouts for token in rollout.token_ids])
            logp_M = sampled_logprobs(head_of(backbone.model, states_MH), ids_M, temperature=1.0)
        parts = logp_M.split([len(rollout.token_ids) for rollout in rollouts])
        found[example.id] = [
            (_with_logprobs(rollout, part), reward)
            for rollout, part, (_, reward) in zip(rollouts, parts, texts, strict=True)
        ]
    return found


def _lost_reward(example: Example, text: str) -> float:
    session = get_world(example.world).open(example)
    session.act(text)
    outcome = session.outcome()
    assert not outcome.success
    return READABLE if outcome.is_("parsed") else NEITHER


def _with_logprobs(rollout: Rollout, logp_T: torch.Tensor) -> Rollout:
    return replace(rollout, logprobs=tuple(logp_T.tolist()))


def by_trl(examples: list[Example], loss: str, scaled: bool, folder: Path) -> dict[str, torch.Tensor]:
    backbone = tiny_backbone()
    answers = answered(backbone, examples)
    rows: dict[str, list[Any]] = {"prompt": [], "image": [], "example": []}
    for example in examples:
        view = VIEWS["student"](example, "brief")
        rows["prompt"].append([dict(message) | {"example": example.id} for message in view.messages])
        rows["image"].append(read_rgb(view.images[0]))
        rows["example"].append(example.id)

    def rollouts(prompts: list[Any], trainer: Any) -> dict[str, list[Any]]:
        names = [prompt[0]["example"] for prompt in prompts]
        waiting = {name: list(answers[name]) for name in set(names)}
        chosen = [waiting[name].pop(0)[0] for name in names]
        prompt_ids, _, _ = trainer._tokenize_prompts(prompts)
        return {
            "prompt_ids": prompt_ids,
            "completion_ids": [list(rollout.token_ids) for rollout in chosen],
            "logprobs": [list(rollout.logprobs) for rollout in chosen],
        }

    def reward(completion_ids: Any, example: Any, **_: Any) -> list[float | None]:
        found = {
            (name, rollout.token_ids): value
            for name, of_name in answers.items()
            for rollout, value in of_name
        }
        return [found[name, tuple(ids)] for name, ids in zip(example, completion_ids, strict=True)]

    num_answers = SAMPLES * len(examples)
    trainer = GRPOTrainer(
        model=backbone.model,
        args=GRPOConfig(
            output_dir=str(folder),
            max_steps=1,
            per_device_train_batch_size=4,
            gradient_accumulation_steps=num_answers // 4,
            steps_per_generation=num_answers // 4,
            num_generations=SAMPLES,
            max_completion_length=400,
            loss_type=loss,
            scale_rewards="group" if scaled else "none",
            shuffle_dataset=False,
            learning_rate=1e-6,
            max_grad_norm=0.0,
            bf16=False,
            use_cpu=True,
            report_to="none",
            save_strategy="no",
            disable_tqdm=True,
            remove_unused_columns=False,
            dataloader_pin_memory=False,
            gradient_checkpointing=False,
        ),
        reward_funcs=[reward],
        train_dataset=Dataset.from_dict({"place": list(range(len(examples)))}).with_transform(
            lambda batch: {name: [column[place] for place in batch["place"]] for name, column in rows.items()}
        ),
        processing_class=backbone.processor,
        rollout_func=rollouts,
    )
    trainer.remove_callback(PrinterCallback)
    kept = _Gradients()
    trainer.add_callback(kept)
    trainer.train()
    return kept.of


def by_us(examples: list[Example], reduction: Any, scaled: bool, folder: Path) -> dict[str, torch.Tensor]:
    backbone = tiny_backbone()
    answers = answered(backbone, examples)
    stage = tiny_config(
        prompts_per_step=len(examples),
        max_new_tokens=400,
        lr=1e-6,
        max_grad_norm=0.0,
        micro_batch_size=3,
    )
    config = grpo_stage(stage, num_samples=SAMPLES, scale_by_spread=scaled, format_reward=FORMAT_REWARD)
    config = replace(config, reduction=reduction)
    trainer = DistillTrainer(
        config,
        student=backbone,
        examples=examples,
        run_dir=folder,
        engine=ReplayEngine(
            (rollout for of_name in answers.values() for rollout, _ in of_name), off_policy=True
        ),
    )
    kept = _Gradients()
    trainer.add_callback(kept)
    trainer.run()
    return kept.of


@pytest.mark.parametrize("scaled", [True, False], ids=["over the spread", "plain"])
@pytest.mark.parametrize(("loss", "reduction"), [("grpo", "sequence"), ("dapo", "token")])
@pytest.mark.filterwarnings("ignore:You are using 'rollout_func'")
def test_gradients_are_those_of_trl(loss: str, reduction: str, scaled: bool, tmp_path: Path) -> None:
    examples = list(tiny_examples(num_each=2))
    theirs = by_trl(examples, loss, scaled, tmp_path / "trl")
    ours = by_us(examples, reduction, scaled, tmp_path / "ours")
    assert theirs.keys() == ours.keys() and theirs
    largest = max(float(gradient.abs().max()) for gradient in theirs.values())
    assert largest > 1e-3
    for name, gradient in theirs.items():
        assert torch.allclose(ours[name], gradient, rtol=0, atol=1e-5 * largest), name

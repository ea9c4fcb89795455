"""What a run of GRPO is: its settings, checked before anything heavy begins."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

from pilotage.backbones.load import LoraSettings
from pilotage.errors import PilotageError
from pilotage.train.distill_config import Schedule
from pilotage.train.settings import check_lr, check_not_negative
from pilotage.views import PROMPT_SETS, PromptSet

GrpoLoss = Literal["grpo", "dapo", "dr_grpo", "bnpo"]
"""How token losses are averaged, by TRL's names: per sequence, over the batch's tokens, by the longest length, or over
a micro-batch's tokens."""


@dataclass(frozen=True, kw_only=True)
class GrpoConfig:
    """One run of GRPO (arXiv 2402.03300) whose reward is the judge's verdict. What shapes the result has no default."""

    steps: int
    """Optimiser steps; each samples new answers with the weights as they are."""
    prompts_per_step: int
    """Groups in a step, over all ranks; the tasks take turns."""
    samples_per_prompt: int
    """Answers in a group, whose mean reward is the baseline."""
    max_new_tokens: int
    prompts: PromptSet
    lr: float
    """The highest learning rate of the schedule."""
    loss: GrpoLoss = "grpo"
    scale_by_spread: bool = True
    """Whether advantages are divided by the group's standard deviation, as in the paper."""
    kl_coef: float = 0.0
    """Weight of the KL divergence from the weights at the start; above 0 they are kept as a second model."""
    clip: float = 0.2
    """Half width of PPO's range for the ratio. With one update per batch, as here, the ratio is 1 and it never acts."""
    format_reward: float = 0.0
    """Reward of an answer that could be read, on top of 1 for one that succeeds."""
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    """0 keeps the whole vocabulary."""
    max_prompt_tokens: int | None = None
    """A longer prompt is an error that names its example; nothing is ever cut."""
    lora: LoraSettings | None = None
    """Trains an adapter, which the saved model has merged in. None trains all parameters."""
    micro_batch_size: int = 16
    """Answers that go through the model forward and backward at once."""
    schedule: Schedule = "constant"
    """After the warm-up: constant, or down to zero along a line or half a cosine."""
    warmup_steps: int = 0
    weight_decay: float = 0.01
    betas: tuple[float, float] = (0.9, 0.999)
    max_grad_norm: float = 1.0
    seed: int = 0
    bf16: bool = False
    """Matrix products in bfloat16 under autocast, in the update; weights and optimiser keep the model's precision."""
    checkpoint_every: int = 50
    """Steps between checkpoints; the last step always has one."""
    num_checkpoints: int = 2
    stage: str = "grpo"
    """Name of the run's part: in `metrics.jsonl`, and of the folder with checkpoints and the model."""

    def __post_init__(self) -> None:
        for name in ("steps", "prompts_per_step", "max_new_tokens", "micro_batch_size", "checkpoint_every"):
            if getattr(self, name) < 1:
                raise PilotageError(f"{name} {getattr(self, name)} must be at least 1")
        if self.samples_per_prompt < 2:
            raise PilotageError(
                f"samples_per_prompt {self.samples_per_prompt} must be at least 2: an answer's baseline is its group"
            )
        if self.num_answers % self.micro_batch_size:
            raise PilotageError(
                f"micro_batch_size {self.micro_batch_size} must divide the step's {self.num_answers} answers "
                f"({self.prompts_per_step} prompts of {self.samples_per_prompt})"
            )
        for name, legal in (
            ("prompts", PROMPT_SETS),
            ("loss", get_args(GrpoLoss)),
            ("schedule", get_args(Schedule)),
        ):
            if getattr(self, name) not in legal:
                raise PilotageError(f"{name} {getattr(self, name)!r} must be one of {', '.join(legal)}")
        check_lr("lr", self.lr)
        check_not_negative(self, "weight_decay", "max_grad_norm")
        if not self.temperature > 0:
            raise PilotageError(
                f"temperature {self.temperature} must be above 0: greedy answers are all the same"
            )
        for name in ("kl_coef", "format_reward"):
            if not (getattr(self, name) >= 0 and math.isfinite(getattr(self, name))):
                raise PilotageError(f"{name} {getattr(self, name)} must be at least 0")
        if not 0 <= self.warmup_steps <= self.steps:
            raise PilotageError(f"warmup_steps {self.warmup_steps} must lie between 0 and steps {self.steps}")

    @property
    def num_answers(self) -> int:
        """Answers in a step, over all ranks."""
        return self.prompts_per_step * self.samples_per_prompt

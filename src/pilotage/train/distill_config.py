"""What a distillation run is: its settings, checked before anything heavy begins."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, is_dataclass
from typing import Any, Literal, get_args

from pilotage.distill.estimators import Estimator, Sampled
from pilotage.distill.reduce import REDUCTIONS, Reduction
from pilotage.errors import PilotageError
from pilotage.views import PROMPT_SETS, VIEWS, PromptSet

Schedule = Literal["constant", "linear", "cosine"]


@dataclass(frozen=True, kw_only=True)
class FrozenCopy:
    """The teacher has weights of its own that never change."""

    source: str | None = None
    """Model directory, hub id or `nano`; None copies the student as it is when the run begins."""


@dataclass(frozen=True, kw_only=True)
class AdapterOff:
    """The teacher is the student with its LoRA adapter switched off: no second copy in memory."""


TeacherWeights = FrozenCopy | AdapterOff


@dataclass(frozen=True, kw_only=True)
class DistillConfig:
    """One run of on-policy distillation. What shapes the result has no default."""

    steps: int
    """Optimiser steps; each samples new rollouts with the weights as they are."""
    prompts_per_step: int
    """Examples in a step, over all ranks; the tasks take turns, so that each has its share."""
    max_new_tokens: int
    prompts: PromptSet
    lr: float
    """The highest learning rate of the schedule."""
    estimator: Estimator
    """Divergence, its cap, and how it is computed."""
    teacher_weights: TeacherWeights
    teacher_view: str = "teacher"
    """`teacher` (state and reference plan), `teacher_no_plan` (state), or `student` (the no-privilege control)."""
    perception_share: float = 0.0
    """Share of the prompts that ask to describe the picture instead, scored by a teacher that describes the state
    from words. MGSD has none (0); without it a small model forgets to describe while it learns to plan."""
    reduction: Reduction = "token"
    """What counts alike in a step's mean: each token, each rollout, or each task (by its tokens)."""

    samples_per_prompt: int = 1
    temperature: float = 1.0
    """Of sampling; `Sampled` must have the same."""
    top_p: float = 1.0
    top_k: int = 0
    """0 keeps the whole vocabulary."""
    max_prompt_tokens: int | None = None
    """A longer prompt is an error that names its example; nothing is ever cut."""

    micro_batch_size: int = 16
    """Rows that go through the student forward and backward at once, sorted by length; the result is the same."""
    teacher_batch_size: int | None = None
    """Rows that the teacher scores at once; None takes `micro_batch_size`."""
    pad_to_multiple: int = 16

    schedule: Schedule = "constant"
    """After the warm-up: constant, or down to zero along a line or half a cosine (one cycle)."""
    warmup_steps: int = 0
    weight_decay: float = 0.01
    betas: tuple[float, float] = (0.9, 0.999)
    max_grad_norm: float = 1.0
    """Gradients are scaled down to this norm; 0 switches clipping off."""
    seed: int = 0
    bf16: bool = False
    """Matrix products in bfloat16 under autocast; weights, gradients and optimiser keep the model's precision."""
    pixel_noise: float = 0.0
    """Standard deviation of Gaussian noise on the normalised pixels of the training forward."""
    gradient_checkpointing: bool = False

    checkpoint_every: int = 50
    """Steps between checkpoints; the last step always has one."""
    num_checkpoints: int = 2
    """Checkpoints kept."""
    rollouts_every: int = 10
    """Steps between those whose rollouts are written to `rollouts.jsonl`; 0 writes none."""
    num_kept_rollouts: int = 8
    """Rollouts written at such a step."""
    stage: str = "stage2"
    """Name of the run's part: in `metrics.jsonl`, and of the folder with checkpoints and the model."""

    def __post_init__(self) -> None:
        for name in ("steps", "prompts_per_step", "max_new_tokens", "samples_per_prompt", "micro_batch_size"):
            if getattr(self, name) < 1:
                raise PilotageError(f"{name} {getattr(self, name)} must be at least 1")
        if self.teacher_view not in VIEWS:
            raise PilotageError(f"teacher_view {self.teacher_view!r} is not a view: {', '.join(VIEWS)}")
        if not 0 <= self.perception_share < 1:
            raise PilotageError(f"perception_share {self.perception_share} must be at least 0 and below 1")
        for name, legal in (
            ("prompts", PROMPT_SETS),
            ("reduction", REDUCTIONS),
            ("schedule", get_args(Schedule)),
        ):
            if getattr(self, name) not in legal:
                raise PilotageError(f"{name} {getattr(self, name)!r} must be one of {', '.join(legal)}")
        if not self.temperature > 0:
            raise PilotageError(f"temperature {self.temperature} must be above 0: rollouts are samples")
        if isinstance(self.estimator, Sampled) and self.estimator.temperature != self.temperature:
            raise PilotageError(
                f"the estimator's temperature {self.estimator.temperature} is not the rollouts' {self.temperature}: "
                "one-sample estimates hold for the policy that drew the samples"
            )
        if not (self.lr > 0 and math.isfinite(self.lr)):
            raise PilotageError(f"lr {self.lr} must be a positive number")
        if not 0 <= self.warmup_steps <= self.steps:
            raise PilotageError(f"warmup_steps {self.warmup_steps} must lie between 0 and steps {self.steps}")
        if self.checkpoint_every < 1 or self.num_checkpoints < 1:
            raise PilotageError("checkpoint_every and num_checkpoints must be at least 1")


def lr_share(config: DistillConfig, step: int) -> float:
    """Share of the peak learning rate at a step, counted from 0: linear warm-up, then the schedule."""
    if step < config.warmup_steps:
        return (step + 1) / config.warmup_steps
    if config.schedule == "constant":
        return 1.0
    done = (step - config.warmup_steps) / max(1, config.steps - config.warmup_steps)
    done = min(done, 1.0)
    return 1.0 - done if config.schedule == "linear" else 0.5 * (1.0 + math.cos(math.pi * done))


def as_settings(value: Any) -> Any:
    """A configuration as JSON: dataclasses become objects with their class's name."""
    if is_dataclass(value) and not isinstance(value, type):
        own = {field.name: as_settings(getattr(value, field.name)) for field in fields(value)}
        return {"class": type(value).__name__} | own
    if isinstance(value, list | tuple):
        return [as_settings(item) for item in value]
    if isinstance(value, dict):
        return {str(key): as_settings(item) for key, item in value.items()}
    return value if isinstance(value, str | int | float | bool | None) else str(value)

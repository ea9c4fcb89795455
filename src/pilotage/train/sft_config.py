"""What a run of supervised fine-tuning is: its settings, checked before anything heavy begins."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from pilotage.backbones.load import LoraSettings
from pilotage.errors import PilotageError
from pilotage.train.optimisers import AdamW
from pilotage.train.settings import LATER, check_lr, check_not_negative, warmed_cosine
from pilotage.views import PromptSet, shows_picture, view_names

Schedule = Literal["one_cycle", "cosine", "constant"]


@dataclass(frozen=True, kw_only=True)
class SftConfig:
    """One run of supervised fine-tuning."""

    stage: str = "stage1"
    """Name in `metrics.jsonl`, and of the folder in the run that holds checkpoints and the model."""
    image_view: str | tuple[tuple[str, float], ...] = "perception"
    """What image rows ask for, answered by the view's reference: `perception` (stage 1), `student` (the whole response
    to the picture alone), `student_with_plan`, `vqa_student` (questions), or another view with a picture; or several,
    with how often each is drawn."""
    prompts: PromptSet
    steps: int
    """Optimiser steps."""
    batch_size: int = 64
    """Rows in a step, of all ranks and both modalities together."""
    micro_batch_size: int = 32
    """At most so many rows in one forward; a step has image micro-batches and text micro-batches, never mixed ones."""
    length_groups: int = 2
    """At least so many micro-batches of each modality, cut by length where padding is least."""
    retention_share: float = 1 / 3
    """Share of the rows that are text only, so that planning from words is not forgotten. 0 for none; with 1, all are,
    and `image_view` asks nothing."""
    retention_views: tuple[tuple[str, float], ...] = (("symbolic", 0.7), ("teacher", 0.3))
    """Text views of the retention rows, with how often each is drawn."""
    peak_lr: float = 1e-3
    schedule: Schedule = "one_cycle"
    """`one_cycle`: cosine from peak / 25 up to the peak and down to nearly 0; `cosine`: linear up, cosine down to 0;
    `constant`: linear up, then flat."""
    warmup_share: float = 0.1
    """Share of the steps in which the learning rate rises."""
    weight_decay: float = 0.01
    betas: tuple[float, float] = (0.9, 0.98)
    clip: float = 1.0
    """Largest gradient norm; 0 for no clipping."""
    pixel_noise: float = 0.0
    """Standard deviation of the noise on normalised pixels (black is -1 and white 1 for nano)."""
    freeze_vision: bool = False
    """Leaves the vision tower and its merger as they are."""
    optimiser: AdamW = field(default=AdamW(), metadata=LATER)
    """How gradients become updates, and in which precision the trained weights are kept."""
    lora: LoraSettings | None = None
    """Trains an adapter, which the saved model has merged in. None trains all parameters."""
    bf16: bool = False
    """Matrix products in bfloat16 under autocast, as they are in any case where masters of weights in 16 bits train."""
    gradient_checkpointing: bool | None = field(default=None, metadata=LATER)
    """Computes activations again in the backward in place of keeping them; None does so on accelerators alone."""
    max_length: int | None = None
    """Prompt and answer may have so many tokens; a longer row is an error that names its example."""
    checkpoint_every: int = 100
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.retention_share <= 1:
            raise PilotageError(f"retention_share {self.retention_share} must be between 0 and 1")
        rows = "num_text_rows" if self.retention_share == 1 else "num_image_rows"
        for name in ("steps", "micro_batch_size", rows, "length_groups", "checkpoint_every"):
            if getattr(self, name) < 1:
                raise PilotageError(f"{name} {getattr(self, name)} must be at least 1")
        for name, share in self.image_views:
            if name not in view_names() or not shows_picture(name):
                known = ", ".join(filter(shows_picture, view_names()))
                raise PilotageError(f"image_view {name!r} is not a view with a picture: {known}")
            if not share > 0:
                raise PilotageError(f"image_view {name!r} has share {share}; it must be above 0")
        if self.num_text_rows and not self.retention_views:
            raise PilotageError(
                "retention_views names no view for the retention rows; give one, or retention_share 0"
            )
        for name, share in self.retention_views:
            if name not in view_names() or share <= 0 or shows_picture(name):
                raise PilotageError(
                    f"retention view {name!r} with share {share} must be a text view, share > 0"
                )
        check_lr("peak_lr", self.peak_lr)
        check_not_negative(self, "weight_decay", "clip", "pixel_noise")
        if not 0 <= self.warmup_share <= 1:
            raise PilotageError(f"warmup_share {self.warmup_share} must be between 0 and 1")

    def recomputes(self, *, on_gpu: bool) -> bool:
        """Whether activations are computed again in the backward."""
        return on_gpu if self.gradient_checkpointing is None else self.gradient_checkpointing

    @property
    def image_views(self) -> tuple[tuple[str, float], ...]:
        """Views of the image rows, with how often each is drawn."""
        return ((self.image_view, 1.0),) if isinstance(self.image_view, str) else self.image_view

    @property
    def num_text_rows(self) -> int:
        """Retention rows in every step."""
        return round(self.batch_size * self.retention_share)

    @property
    def num_image_rows(self) -> int:
        """Image rows in every step."""
        return self.batch_size - self.num_text_rows


def lr_factor(config: SftConfig, step: int) -> float:
    """The learning rate of a step (counted from 0) as a share of the peak."""
    rising = max(1, round(config.steps * config.warmup_share))
    if config.schedule == "one_cycle" and step < rising:
        return 1 / 25 + (1 - 1 / 25) * (1 - math.cos(math.pi * step / rising)) / 2
    if config.schedule == "constant" and step >= rising:
        return 1.0
    return warmed_cosine(step, rising=rising, steps=config.steps)


OnBegin = Callable[[], None]
"""Called on the first rank when everything was checked and the stage has claimed its folder, before its first step."""
OnStep = Callable[[int, int, dict[str, float]], None]
"""Called after each step with steps done, steps in all and the step's figures."""

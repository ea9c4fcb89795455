"""How gradients become updates: what every stage that trains says of it, under the same names."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal, get_args

from pilotage.backbones.load import LoraSettings
from pilotage.errors import PilotageError
from pilotage.train.optimisers import AdamW
from pilotage.train.settings import LATER, check_lr, check_not_negative

Schedule = Literal["constant", "linear", "cosine", "one_cycle"]


@dataclass(frozen=True, kw_only=True)
class Updates:
    """The part of a stage's settings that an optimiser and its schedule are made of."""

    steps: int
    """Optimiser steps."""
    lr: float
    """The highest learning rate of the schedule."""
    schedule: Schedule = "constant"
    """After the warm-up: `constant`, or down to zero along a line (`linear`) or half a cosine (`cosine`), after a rise
    along a line; `one_cycle` rises along half a cosine from a 25th of the peak."""
    warmup_share: float = 0.0
    """Share of the steps in which the rate rises; above 0, at least one step."""
    weight_decay: float = 0.01
    betas: tuple[float, float] = (0.9, 0.999)
    max_grad_norm: float = 1.0
    """Gradients are scaled down to this norm; 0 switches clipping off."""
    optimiser: AdamW = field(default=AdamW(), metadata=LATER)
    """How gradients become updates, and in which precision the trained weights are kept."""
    lora: LoraSettings | None = field(default=None, metadata=LATER)
    """An adapter, trained alone and merged into the saved model; None trains the model as it comes."""
    bf16: bool = False
    """Matrix products in bfloat16 under autocast, as they are in any case where masters of weights in 16 bits train."""

    def check_updates(self) -> None:
        """Raises PilotageError for what no optimiser could take."""
        if self.steps < 1:
            raise PilotageError(f"steps {self.steps} must be at least 1")
        if self.schedule not in get_args(Schedule):
            raise PilotageError(f"schedule {self.schedule!r} must be one of {', '.join(get_args(Schedule))}")
        check_lr("lr", self.lr)
        check_not_negative(self, "weight_decay", "max_grad_norm")
        if not 0 <= self.warmup_share <= 1:
            raise PilotageError(f"warmup_share {self.warmup_share} must be between 0 and 1")

    @property
    def warmup_steps(self) -> int:
        """Steps in which the rate rises."""
        return max(1, round(self.steps * self.warmup_share)) if self.warmup_share else 0

    def rate_share(self, step: int) -> float:
        """Share of the highest rate at a step, counted from 0."""
        rising = self.warmup_steps
        if step < rising:
            if self.schedule == "one_cycle":
                return 1 / 25 + (1 - 1 / 25) * (1 - math.cos(math.pi * step / rising)) / 2
            return (step + 1) / rising
        if self.schedule == "constant":
            return 1.0
        done = min((step - rising) / max(1, self.steps - rising), 1.0)
        return 1.0 - done if self.schedule == "linear" else (1 + math.cos(math.pi * done)) / 2

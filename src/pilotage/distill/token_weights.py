"""Weights of single tokens in a route's loss: reward gate, importance cap, visual advantage.

T tokens of one rollout.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from pilotage.distill.spans import Spans


@dataclass(frozen=True, kw_only=True, eq=False)
class RowFacts:
    """All that routing asks of one rollout."""

    spans: Spans
    origin: str = "student"
    """Who wrote it: `student`, `dataset` or `teacher`."""
    reward: float | None = None
    """The task's verdict as a number, 1 for success; None when the rollout was not judged."""
    signals: Mapping[str, np.ndarray] = field(default_factory=dict)
    """Numbers per token [T] that token weights are made of, by name."""

    @property
    def num_tokens(self) -> int:
        return len(self.spans.owners)


class TokenWeight(Protocol):
    """A factor on what each token of a route adds to the loss."""

    @property
    def signals(self) -> tuple[str, ...]:
        """Names of the signals that a row must have."""
        ...

    def __call__(self, row: RowFacts) -> np.ndarray | float:
        """At least 0, per token [T] or one for the row. Not differentiated."""
        ...


@dataclass(frozen=True, kw_only=True)
class RewardGate:
    """One weight for rows that reach a reward, another for those that do not."""

    threshold: float = 0.5
    reached: float = 1.0
    missed: float = 0.0
    """0 for both would teach nothing; (0, 1) teaches failures only."""
    signals: tuple[str, ...] = ()

    def __call__(self, row: RowFacts) -> float:
        if row.reward is None:
            raise ValueError("RewardGate needs a reward for every row; judge the rollouts before routing")
        return self.reached if row.reward >= self.threshold else self.missed


@dataclass(frozen=True, kw_only=True)
class ImportanceCap:
    """min(cap, p_now / p_sampling): corrects for rollouts of another policy, truncated against its variance.

    The signal is log p_now - log p_sampling of the sampled token, nats.
    """

    cap: float
    signals: tuple[str, ...] = ("log_ratio",)

    def __post_init__(self) -> None:
        if not self.cap > 0.0:
            raise ValueError(f"ImportanceCap(cap={self.cap}): a bound on a ratio of probabilities, above 0")

    def __call__(self, row: RowFacts) -> np.ndarray:
        return np.exp(np.minimum(row.signals[self.signals[0]], np.log(self.cap)))


@dataclass(frozen=True, kw_only=True)
class VisualAdvantage:
    """min(cap, base + slope * [log p(token | image) - log p(token | no image)]+): tokens that looking helps with.

    The signal is that difference, in nats.
    """

    cap: float
    base: float = 0.0
    """Weight of a token that the image does not make likelier."""
    slope: float = 1.0
    """Weight per nat."""
    signals: tuple[str, ...] = ("visual_advantage",)

    def __post_init__(self) -> None:
        if self.base < 0.0 or self.slope < 0.0 or not self.cap > 0.0:
            raise ValueError(
                f"VisualAdvantage(cap={self.cap}, base={self.base}, slope={self.slope}): cap must be above 0, "
                "base and slope at least 0"
            )

    def __call__(self, row: RowFacts) -> np.ndarray:
        gain_T = np.maximum(row.signals[self.signals[0]], 0.0)
        return np.minimum(self.base + self.slope * gain_T, self.cap)

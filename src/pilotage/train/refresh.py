"""When a moving teacher may take over the student's weights: only while reward and both length tails allow it.

A teacher that follows its student can follow it anywhere: shorter and shorter answers, or longer and longer ones, that
each look no worse than the last. So the reward is held against the last refresh, and lengths against the run's start.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pilotage.distill.routes import Weights
from pilotage.errors import PilotageError


@dataclass(frozen=True, kw_only=True)
class GatedRefresh(Weights):
    """The teacher is a copy of the student, renewed now and then if nothing speaks against it."""

    every: int
    """Steps between checks."""
    window: int
    """Steps whose metrics are averaged; the first whole window is what later ones are held against."""
    min_reward_gain: float = 0.0
    """The mean reward must be at least that of the last refresh (or of the start) plus this."""
    max_length_change: float = 0.25
    """How far both tails of the lengths may be from the start's: at most 1 + this times as long or as short."""
    reward: str = "rollout/success"
    tails: tuple[str, str] = ("rollout/length_p05", "rollout/length_p95")
    """Names of the metrics: the short and the long tail of the rollouts' lengths, in tokens."""

    def __post_init__(self) -> None:
        if self.every < 1 or self.window < 1:
            raise PilotageError(
                f"GatedRefresh: every {self.every} and window {self.window} must be at least 1"
            )
        if not self.max_length_change > 0.0 or not math.isfinite(self.min_reward_gain):
            raise PilotageError(
                f"GatedRefresh: max_length_change {self.max_length_change} must be above 0, min_reward_gain "
                f"{self.min_reward_gain} a finite number"
            )

    @property
    def metrics(self) -> tuple[str, ...]:
        """Everything the decision is made of."""
        return (self.reward, *self.tails)


@dataclass(frozen=True, kw_only=True)
class Decision:
    """What a check came to."""

    refresh: bool
    reasons: tuple[str, ...]
    """Why not; empty for a refresh."""


def window_means(config: GatedRefresh, recent: Sequence[Mapping[str, float]]) -> dict[str, float] | None:
    """Mean of each metric over the last `window` steps; None while there are fewer, or one lacks a finite number."""
    rows = recent[-config.window :]
    if len(rows) < config.window:
        return None
    means = {name: sum(row.get(name, math.nan) for row in rows) / len(rows) for name in config.metrics}
    return means if all(math.isfinite(mean) for mean in means.values()) else None


def decide(
    config: GatedRefresh,
    recent: Sequence[Mapping[str, float]],
    *,
    start: Mapping[str, float] | None,
    last: Mapping[str, float] | None,
) -> Decision:
    """Whether the teacher may be refreshed: a pure function of recent metrics and of what they are held against.

    `start` are the means of the first window, `last` those at the last refresh (or the first window's).
    """
    now = window_means(config, recent)
    if now is None:
        return Decision(refresh=False, reasons=(f"no {config.window} steps with all metrics yet",))
    if start is None or last is None:
        return Decision(refresh=False, reasons=("nothing to hold the metrics against yet",))
    reasons = []
    least = last[config.reward] + config.min_reward_gain
    if now[config.reward] < least:
        reasons.append(f"{config.reward} {now[config.reward]:.4g} is below {least:.4g}")
    for tail in config.tails:
        # One token more on both sides, so that empty rollouts are no division by zero.
        ratio = (now[tail] + 1.0) / (start[tail] + 1.0)
        if not 1.0 / (1.0 + config.max_length_change) <= ratio <= 1.0 + config.max_length_change:
            reasons.append(f"{tail} {now[tail]:.4g} is too far from {start[tail]:.4g}")
    return Decision(refresh=not reasons, reasons=tuple(reasons))


class RefreshGate:
    """The metrics that decisions need, over a run."""

    def __init__(self, config: GatedRefresh) -> None:
        self.config = config
        self._recent: list[dict[str, float]] = []
        self._start: dict[str, float] | None = None
        self._last: dict[str, float] | None = None
        self.num_refreshes = 0

    def after_step(self, step: int, metrics: Mapping[str, float]) -> Decision | None:
        """Takes a step's metrics (steps count from 1); decides at every `every`-th step, else returns None."""
        names = self.config.metrics
        self._recent.append({name: float(metrics[name]) for name in names if name in metrics})
        del self._recent[: -self.config.window]
        if self._start is None:
            self._start = self._last = window_means(self.config, self._recent)
            return None
        if step % self.config.every:
            return None
        decision = decide(self.config, self._recent, start=self._start, last=self._last)
        if decision.refresh:
            self._last = window_means(self.config, self._recent)
            self.num_refreshes += 1
        return decision

    def state(self) -> dict[str, Any]:
        """As JSON; numbers survive it exactly."""
        return {
            "recent": self._recent,
            "start": self._start,
            "last": self._last,
            "num_refreshes": self.num_refreshes,
        }

    def load(self, state: Mapping[str, Any]) -> None:
        """Goes on from `state()`."""
        self._recent = [dict(row) for row in state["recent"]]
        self._start, self._last = state["start"], state["last"]
        self.num_refreshes = state["num_refreshes"]

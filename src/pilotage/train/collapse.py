"""Signs that a student collapses: what self-distillation can drift into while its loss looks well.

Answers that get shorter and shorter or longer and longer, that repeat themselves, that never end, that are all the
same, or that fail: each figure's mean over recent steps is held against that of the run's first steps.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pilotage.errors import PilotageError

logger = logging.getLogger(__name__)

ENTROPY = "policy/entropy"
TAILS = ("rollout/length_p05", "rollout/length_p95")
REPETITION = "rollout/repetition"
TRUNCATED = "rollout/truncated"
REWARD = "rollout/success"
WATCHED = (ENTROPY, *TAILS, REPETITION, TRUNCATED, REWARD)


class CollapseError(PilotageError):
    """A run was stopped because its student collapses."""


@dataclass(frozen=True, kw_only=True)
class CollapseGuard:
    """When to warn of a collapse, and whether to stop. None of the bounds comes from a paper."""

    window: int = 20
    """Steps whose figures are averaged; the first whole window is what later ones are held against."""
    stop: bool = False
    """Whether the first sign ends the run, with an error."""
    min_entropy_share: float = 0.1
    """Least share of the first entropy; lower is a student that can say one thing only."""
    max_entropy_share: float = 4.0
    """Largest share of the first entropy; higher is noise."""
    max_length_change: float = 1.0
    """How far both tails of the lengths may go: at most 1 + this times as long or as short."""
    max_repetition_rise: float = 0.25
    max_truncated_rise: float = 0.25
    """Largest rise of the share of rollouts that are cut."""
    max_reward_drop: float = 0.2
    """Largest fall of the share of successes, as a difference of shares."""

    def __post_init__(self) -> None:
        if self.window < 1:
            raise PilotageError(f"CollapseGuard: window {self.window} must be at least 1")
        if not 0.0 <= self.min_entropy_share < 1.0 < self.max_entropy_share:
            raise PilotageError(
                f"CollapseGuard: min_entropy_share {self.min_entropy_share} must be below 1, max_entropy_share "
                f"{self.max_entropy_share} above it"
            )
        for name in ("max_length_change", "max_repetition_rise", "max_truncated_rise", "max_reward_drop"):
            if not getattr(self, name) > 0.0:
                raise PilotageError(f"CollapseGuard: {name} {getattr(self, name)} must be above 0")


def signs(guard: CollapseGuard, start: Mapping[str, float], now: Mapping[str, float]) -> dict[str, str]:
    """Figure -> what is wrong with it, from the means of the first window and of the last; {} when all is well.

    A figure that one of the two lacks is passed over.
    """
    found: dict[str, str] = {}

    def check_sign(name: str, wrong: bool, how: str) -> None:
        if wrong:
            found[name] = f"{name} {how} from {start[name]:.4g} to {now[name]:.4g}"

    both = start.keys() & now.keys()
    if ENTROPY in both:
        check_sign(ENTROPY, now[ENTROPY] < guard.min_entropy_share * start[ENTROPY], "fell")
        check_sign(ENTROPY, now[ENTROPY] > guard.max_entropy_share * start[ENTROPY], "rose")
    for tail in both.intersection(TAILS):
        # One token more on both sides, so that empty rollouts are no division by zero.
        ratio = (now[tail] + 1.0) / (start[tail] + 1.0)
        check_sign(tail, ratio < 1.0 / (1.0 + guard.max_length_change), "fell")
        check_sign(tail, ratio > 1.0 + guard.max_length_change, "rose")
    if REPETITION in both:
        check_sign(REPETITION, now[REPETITION] > start[REPETITION] + guard.max_repetition_rise, "rose")
    if TRUNCATED in both:
        check_sign(TRUNCATED, now[TRUNCATED] > start[TRUNCATED] + guard.max_truncated_rise, "rose")
    if REWARD in both:
        check_sign(REWARD, now[REWARD] < start[REWARD] - guard.max_reward_drop, "fell")
    return {name: found[name] for name in WATCHED if name in found}


class CollapseWatch:
    """The figures of a run, step by step; the same on every rank."""

    def __init__(self, guard: CollapseGuard) -> None:
        self.guard = guard
        self._recent: list[dict[str, float]] = []
        self._start: dict[str, float] | None = None
        self._warned: list[str] = []
        self._last = ""

    def after_step(self, step: int, metrics: Mapping[str, float]) -> dict[str, float]:
        """Takes a step's metrics (steps count from 1) and returns `collapse/signs`, once there is a first window.

        Warns of a sign when it appears.
        """
        self._recent.append({name: float(metrics[name]) for name in WATCHED if name in metrics})
        del self._recent[: -self.guard.window]
        if len(self._recent) < self.guard.window:
            return {}
        now = _means(self._recent)
        if self._start is None:
            self._start = now
        found = signs(self.guard, self._start, now)
        if new := [text for name, text in found.items() if name not in self._warned]:
            self._last = f"step {step}: the student may be collapsing: {'; '.join(new)}"
            logger.warning("%s", self._last)
        self._warned = list(found)
        return {"collapse/signs": float(len(found))}

    def check(self) -> None:
        """Raises CollapseError when there is a sign and the guard stops."""
        if self.guard.stop and self._warned:
            raise CollapseError(
                f"{self._last}; train at a lower rate or from a teacher that stays, or go on with "
                "CollapseGuard(stop=False)"
            )

    def state(self) -> dict[str, Any]:
        """As JSON; numbers survive it exactly."""
        return {"recent": self._recent, "start": self._start, "warned": self._warned, "last": self._last}

    def load(self, state: Mapping[str, Any]) -> None:
        """Goes on from `state()`."""
        self._recent = [dict(row) for row in state["recent"]]
        self._start, self._warned, self._last = state["start"], list(state["warned"]), state["last"]


def _means(rows: list[dict[str, float]]) -> dict[str, float]:
    """Mean of each figure over the rows that have it; a figure that is not finite somewhere is left out."""
    means = {}
    for name in WATCHED:
        values = [row[name] for row in rows if name in row]
        if values and all(map(math.isfinite, values)):
            means[name] = sum(values) / len(values)
    return means

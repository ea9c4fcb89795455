"""Whose moves carry an episode on while the student is taught: its own, the expert's, or both in turn.

The student always writes the answers that are taught. What the world is told of a turn is its answer, or the first
action of the expert's plan from that turn's state.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from pilotage.errors import PilotageError


class Moves(Protocol):
    """Decides, turn by turn, whether the expert moves."""

    def by_expert(self, *, turn: int, step: int, num_steps: int, rng: np.random.Generator) -> bool:
        """Whether the expert makes the move of this turn; `rng` is the episode's own, drawn from turn by turn."""
        ...


@dataclass(frozen=True, kw_only=True)
class OwnMoves:
    """The student's answers are acted on: episodes of its own."""

    def by_expert(self, *, turn: int, step: int, num_steps: int, rng: np.random.Generator) -> bool:
        return False


@dataclass(frozen=True, kw_only=True)
class ExpertMoves:
    """The expert's episodes: the student says at each of their states what it would do, and is taught on that."""

    def by_expert(self, *, turn: int, step: int, num_steps: int, rng: np.random.Generator) -> bool:
        return True


@dataclass(frozen=True, kw_only=True)
class GuidedMoves:
    """The expert moves with a probability that falls from 1 to 0 along half a cosine, as in Guided-OPD (2606.15912).

    There the teacher also writes what is taught on its turns, by forward KL; here it only moves.
    """

    until: float = 0.8
    """Share of the training after which the student moves alone, in (0, 1]."""

    def __post_init__(self) -> None:
        if not 0.0 < self.until <= 1.0:
            raise PilotageError(f"until {self.until} must be above 0 and at most 1")

    def by_expert(self, *, turn: int, step: int, num_steps: int, rng: np.random.Generator) -> bool:
        done = min(1.0, step / max(1.0, self.until * num_steps))
        return bool(rng.random() < 0.5 * (1.0 + math.cos(math.pi * done)))

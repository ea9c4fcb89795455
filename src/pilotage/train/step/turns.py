"""Which turns of an episode are taught, and how far it is played: all, some, or a horizon that grows with training."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from pilotage.errors import PilotageError


class TurnChoice(Protocol):
    """Chooses turns by number."""

    def horizon(self, step: int) -> int | None:
        """How many turns an episode of this step is played at most; None leaves it to the limit of the run."""
        ...

    def chosen(self, num_turns: int, *, step: int, rng: np.random.Generator) -> list[int]:
        """The numbers of the turns that are taught, ascending, of an episode of `num_turns`."""
        ...


@dataclass(frozen=True, kw_only=True)
class EveryTurn:
    """All of them. A step's number of rows follows from how long its episodes are."""

    def horizon(self, step: int) -> int | None:
        return None

    def chosen(self, num_turns: int, *, step: int, rng: np.random.Generator) -> list[int]:
        return list(range(num_turns))


@dataclass(frozen=True, kw_only=True)
class SomeTurns:
    """At most `num`, drawn without replacement, so that long episodes do not outweigh short ones."""

    num: int

    def __post_init__(self) -> None:
        if self.num < 1:
            raise PilotageError(f"num {self.num} must be at least 1")

    def horizon(self, step: int) -> int | None:
        return None

    def chosen(self, num_turns: int, *, step: int, rng: np.random.Generator) -> list[int]:
        if num_turns <= self.num:
            return list(range(num_turns))
        return sorted(int(turn) for turn in rng.choice(num_turns, size=self.num, replace=False))


@dataclass(frozen=True, kw_only=True)
class GrowingHorizon:
    """TCOD's curriculum from the front (arXiv 2604.24005): only the first k turns are the student's and are taught.

    k = start + floor(rate * step), up to `most`. With start 1 the first steps distil on start states alone.
    """

    start: int = 1
    rate: float
    """Turns a step."""
    most: int

    def __post_init__(self) -> None:
        if not (1 <= self.start <= self.most and self.rate > 0):
            raise PilotageError(
                f"start {self.start} must lie between 1 and most {self.most}, and rate {self.rate} above 0"
            )

    def horizon(self, step: int) -> int | None:
        return min(self.start + int(self.rate * step), self.most)

    def chosen(self, num_turns: int, *, step: int, rng: np.random.Generator) -> list[int]:
        return list(range(min(num_turns, self.horizon(step) or num_turns)))

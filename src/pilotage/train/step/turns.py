"""Which turns of an episode are taught, and how far it is played: all, some, or a horizon that grows with training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from pilotage.errors import PilotageError
from pilotage.train.step.moves import Mover, check_growth


class TurnChoice(Protocol):
    """Chooses turns by number."""

    def horizon(self, step: int) -> int | None:
        """How many turns an episode of this step is played at most; None leaves it to the limit of the run."""
        ...

    def chosen(self, movers: Sequence[Mover], *, step: int, rng: np.random.Generator) -> list[int]:
        """The numbers of the turns that are taught, ascending, at least one; `movers` has who moved in each turn."""
        ...


@dataclass(frozen=True, kw_only=True)
class EveryTurn:
    """All of them. A step's number of rows follows from how long its episodes are."""

    def horizon(self, step: int) -> int | None:
        return None

    def chosen(self, movers: Sequence[Mover], *, step: int, rng: np.random.Generator) -> list[int]:
        return list(range(len(movers)))


@dataclass(frozen=True, kw_only=True)
class SomeTurns:
    """At most `num`, drawn without replacement, so that long episodes do not outweigh short ones."""

    num: int

    def __post_init__(self) -> None:
        if self.num < 1:
            raise PilotageError(f"num {self.num} must be at least 1")

    def horizon(self, step: int) -> int | None:
        return None

    def chosen(self, movers: Sequence[Mover], *, step: int, rng: np.random.Generator) -> list[int]:
        return _some(list(range(len(movers))), self.num, rng)


@dataclass(frozen=True, kw_only=True)
class OwnTurns:
    """Turns that the student moved in, at most `num` of them where that is given; the last one where it never moved."""

    num: int | None = None

    def __post_init__(self) -> None:
        if self.num is not None and self.num < 1:
            raise PilotageError(f"num {self.num} must be at least 1")

    def horizon(self, step: int) -> int | None:
        return None

    def chosen(self, movers: Sequence[Mover], *, step: int, rng: np.random.Generator) -> list[int]:
        own = [turn for turn, mover in enumerate(movers) if mover == "student"] or [len(movers) - 1]
        return own if self.num is None else _some(own, self.num, rng)


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
        check_growth(self.start, self.rate, self.most)

    def horizon(self, step: int) -> int | None:
        return min(self.start + int(self.rate * step), self.most)

    def chosen(self, movers: Sequence[Mover], *, step: int, rng: np.random.Generator) -> list[int]:
        return list(range(len(movers)))[: self.horizon(step)]


def _some(turns: list[int], num: int, rng: np.random.Generator) -> list[int]:
    if len(turns) <= num:
        return turns
    return sorted(turns[int(place)] for place in rng.choice(len(turns), size=num, replace=False))

"""Whose turns carry an episode on while the student is taught: its own, the expert's, a teacher's, or several in turn.

student   it answers, and its answer is acted on
expert    the student answers and is taught on that; the world is told the first action of the expert's plan
teacher   a teacher answers in the student's place, is acted on, and is taught on by routes for what it wrote
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np

from pilotage.errors import PilotageError
from pilotage.rollouts.sources import FromTeacher

Mover = Literal["student", "expert", "teacher"]


class Moves(Protocol):
    """Decides, turn by turn, who moves."""

    def by(
        self, *, turn: int, plan_length: int, step: int, num_steps: int, rng: np.random.Generator
    ) -> Mover:
        """Who moves in this turn.

        `plan_length` is that of the expert's plan from the episode's start; `rng` is the turn's own, drawn from the
        episode's key.
        """
        ...


@dataclass(frozen=True, kw_only=True)
class OwnMoves:
    """The student's answers are acted on: episodes of its own."""

    def by(
        self, *, turn: int, plan_length: int, step: int, num_steps: int, rng: np.random.Generator
    ) -> Mover:
        return "student"


@dataclass(frozen=True, kw_only=True)
class ExpertMoves:
    """The expert's episodes: the student says at each of their states what it would do, and is taught on that."""

    def by(
        self, *, turn: int, plan_length: int, step: int, num_steps: int, rng: np.random.Generator
    ) -> Mover:
        return "expert"


@dataclass(frozen=True, kw_only=True)
class GuidedMoves:
    """The expert moves with a probability that falls from 1 to 0 along half a cosine; the student writes every turn.

    The schedule is Guided-OPD's (arXiv 2606.15912), where a teacher writes: that is `TeacherTurns`.
    """

    until: float = 0.8
    """Share of the training after which the student moves alone, in (0, 1]."""

    def __post_init__(self) -> None:
        _check_until(self.until)

    def by(
        self, *, turn: int, plan_length: int, step: int, num_steps: int, rng: np.random.Generator
    ) -> Mover:
        return "expert" if rng.random() < guidance(step, num_steps, self.until) else "student"


@dataclass(frozen=True, kw_only=True)
class TeacherTurns:
    """Guided-OPD (arXiv 2606.15912): each turn is written by the teacher with a probability that falls from 1 to 0.

    The probability depends on the step alone, so that it is the same throughout an episode. What it writes is taught
    by routes with `written_by="teacher"`, in the paper by forward KL, the student's turns by reverse KL.
    """

    teacher: FromTeacher
    """Who writes, and what it is shown; one sample a turn."""
    until: float = 0.8

    def __post_init__(self) -> None:
        _check_until(self.until)
        if self.teacher.num_samples != 1:
            raise PilotageError(
                f"a teacher that writes turns draws one answer each, not {self.teacher.num_samples}"
            )

    def by(
        self, *, turn: int, plan_length: int, step: int, num_steps: int, rng: np.random.Generator
    ) -> Mover:
        return "teacher" if rng.random() < guidance(step, num_steps, self.until) else "student"


@dataclass(frozen=True, kw_only=True)
class GrowingEnd:
    """TCOD's curriculum from the back (arXiv 2604.24005): the expert moves until its plan has k moves left.

    k = start + floor(rate * step), up to `most`; from there on the student moves. Goes with
    `pilotage.train.step.turns.OwnTurns`, which teaches those turns alone. A plan of 8 with k = 3 is 5 moves of the
    expert's, and then the student's until the episode ends.
    """

    start: int = 1
    rate: float
    """Turns a step."""
    most: int

    def __post_init__(self) -> None:
        check_growth(self.start, self.rate, self.most)

    def by(
        self, *, turn: int, plan_length: int, step: int, num_steps: int, rng: np.random.Generator
    ) -> Mover:
        left = min(self.start + int(self.rate * step), self.most)
        return "expert" if turn < plan_length - left else "student"


def guidance(step: int, num_steps: int, until: float) -> float:
    """The probability that a turn is guided, from 1 at step 0 to 0 at `until` of the training."""
    done = min(1.0, step / max(1.0, until * num_steps))
    return 0.5 * (1.0 + math.cos(math.pi * done))


def check_growth(start: int, rate: float, most: int) -> None:
    """Raises PilotageError where a curriculum would not grow."""
    if not (1 <= start <= most and rate > 0):
        raise PilotageError(f"start {start} must lie between 1 and most {most}, and rate {rate} above 0")


def _check_until(until: float) -> None:
    if not 0.0 < until <= 1.0:
        raise PilotageError(f"until {until} must be above 0 and at most 1")

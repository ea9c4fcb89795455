"""Success by what makes an example hard: its level, its difficulty, the length of its shortest plan."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pilotage.data.sampling import DIFFICULTIES
from pilotage.evaluate.bootstrap import Figures, Interval, bootstrap_mean
from pilotage.evaluate.samples import Row, example_means, grouped
from pilotage.evaluate.summary import rate_of

AXES = ("level", "difficulty", "optimal_length")
"""Keys of a row by which success can be told apart."""


@dataclass(frozen=True, kw_only=True)
class Curve(Figures):
    """Success of one condition on one task along one axis."""

    task: str
    condition: str
    axis: str
    """One of `AXES`."""
    points: Sequence[tuple[int | str, Interval]]
    """(value, success) by rising value; difficulties from easy to hard."""

    def as_dict(self) -> dict[str, Any]:
        points = [{"value": value, **interval.as_dict()} for value, interval in self.points]
        return {"task": self.task, "condition": self.condition, "axis": self.axis, "points": points}


def success_curves(rows: Iterable[Row]) -> list[Curve]:
    """A curve for every task, condition and axis that the rows have values for."""
    curves = []
    for (task, condition), group in grouped(rows, "task", "condition").items():
        for axis in AXES:
            # What strangers wrote may hold anything; a list cannot be a place on an axis.
            by_value = grouped((row for row in group if isinstance(row.get(axis), int | str)), axis)
            if by_value:
                points = [
                    (value, bootstrap_mean(example_means(by_value[value], rate_of("success"))))
                    for value in _sorted(by_value)
                ]
                curves.append(Curve(task=task, condition=condition, axis=axis, points=points))
    return curves


def _sorted(values: Mapping[int | str, Any]) -> list[int | str]:
    """Numbers by size, then difficulties from easy to hard, then other words."""

    def place(value: int | str) -> tuple[int, float, str]:
        if isinstance(value, str):
            known = value in DIFFICULTIES
            return (1, DIFFICULTIES.index(value) if known else len(DIFFICULTIES), value)
        return (0, value, "")

    return sorted(values, key=place)

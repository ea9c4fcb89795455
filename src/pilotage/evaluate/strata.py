"""Success by what makes an example hard: its level, its difficulty, the length of its shortest plan."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pilotage.evaluate.bootstrap import NUM_RESAMPLES, Interval, bootstrap_mean
from pilotage.evaluate.samples import Row, example_means
from pilotage.evaluate.summary import rate_of

AXES = ("level", "difficulty", "optimal_length")
"""Keys of a row by which success can be told apart."""
DIFFICULTIES = ("easy", "medium", "hard")


@dataclass(frozen=True, kw_only=True)
class Curve:
    """Success of one kind on one task along one axis."""

    task: str
    kind: str
    axis: str
    """One of `AXES`."""
    points: Sequence[tuple[int | str, Interval]]
    """(value, success) by rising value; difficulties from easy to hard."""

    def as_dict(self) -> dict[str, Any]:
        points = [{"value": value, **interval.as_dict()} for value, interval in self.points]
        return {"task": self.task, "kind": self.kind, "axis": self.axis, "points": points}


def success_curves(
    rows: Iterable[Row],
    *,
    axes: Sequence[str] = AXES,
    seed: int = 0,
    num_resamples: int = NUM_RESAMPLES,
) -> list[Curve]:
    """A curve for every task, kind and axis that the rows have values for."""
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        groups.setdefault((row["task"], row["kind"]), []).append(row)
    curves = []
    for (task, kind), group in groups.items():
        for axis in axes:
            by_value: dict[int | str, list[Row]] = {}
            for row in group:
                # What strangers wrote may hold anything; a list cannot be a place on an axis.
                if isinstance(row.get(axis), int | str):
                    by_value.setdefault(row[axis], []).append(row)
            if by_value:
                points = [
                    (value, _success(by_value[value], seed, num_resamples)) for value in _sorted(by_value)
                ]
                curves.append(Curve(task=task, kind=kind, axis=axis, points=points))
    return curves


def _success(rows: Sequence[Row], seed: int, num_resamples: int) -> Interval:
    return bootstrap_mean(example_means(rows, rate_of("success")), seed=seed, num_resamples=num_resamples)


def _sorted(values: Mapping[int | str, Any]) -> list[int | str]:
    """Numbers by size, then difficulties from easy to hard, then other words."""

    def place(value: int | str) -> tuple[int, float, str]:
        if isinstance(value, str):
            known = value in DIFFICULTIES
            return (1, DIFFICULTIES.index(value) if known else len(DIFFICULTIES), value)
        return (0, value, "")

    return sorted(values, key=place)

"""What makes an example hard: success along its world's axes, by the condition that each task is measured by first."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from pilotage.evaluate.strata import AXES, Curve, success_curves
from pilotage.report.conditions import (
    condition_titles,
    ordered_conditions,
    ordered_tasks,
    task_title,
    worlds_of,
)
from pilotage.report.fault_charts import strata_chart
from pilotage.report.folder import state_problem
from pilotage.report.sources import Source, all_rows

AXIS_TITLES = {"optimal_length": "steps of the best plan", "difficulty": "difficulty", "level": "grid size"}
NOTHING = frozenset({0, ""})
"""What an example has on an axis that its world does not know."""
MAX_LINES = 6


@dataclass(frozen=True, kw_only=True)
class Strata:
    """Charts of success along each axis, and the legend of their colours."""

    charts: tuple[tuple[str, tuple[tuple[str, str, Markup], ...]], ...]
    """(axis, [(task, condition, success along it)])."""
    legend: tuple[tuple[int, str], ...]
    """Colour and source of the charts' lines."""
    undrawn: str
    """Sources that the charts have no line for."""


def hard_examples(sources: Sequence[Source]) -> Strata | None:
    """Success along every axis that tells examples apart; None where there is none."""
    conditions = first_conditions(sources)
    titles = condition_titles(set(conditions.values()), worlds_of(all_rows(sources)))
    found = [(source, curves) for source in sources if (curves := _curves(source, conditions))]
    # The first source is what the later ones are held against.
    lines = [*found[:1], *found[1:][1 - MAX_LINES :]]
    # Along an axis on which no task has two values there is nothing to be seen.
    axes = [axis for axis in reversed(AXES) if any(_varies(curves, axis) for _, curves in found)]
    charts = tuple(
        (AXIS_TITLES[axis], drawn)
        for axis in axes
        if (
            drawn := tuple(
                (task_title(task), titles[conditions[task]], chart)
                for task, chart in _charts(lines, axis, conditions)
            )
        )
    )
    if not charts:
        return None
    drawn_sources = {source.key for source, _ in lines}
    return Strata(
        charts=charts,
        legend=tuple((i, source.title) for i, (source, _) in enumerate(lines)),
        undrawn=", ".join(source.title for source, _ in found if source.key not in drawn_sources),
    )


def first_conditions(sources: Sequence[Source]) -> dict[str, str]:
    """Task -> the first of the conditions that it was measured by."""
    there: dict[str, set[str]] = {}
    for source in sources:
        for condition, rows in source.rows.items():
            for row in rows:
                there.setdefault(row["task"], set()).add(condition)
    return {task: ordered_conditions(there[task])[0] for task in ordered_tasks(there)}


def _curves(source: Source, conditions: dict[str, str]) -> list[Curve]:
    rows = [
        row
        for condition, of_condition in source.rows.items()
        for row in of_condition
        if conditions[row["task"]] == condition and not state_problem(row)
    ]
    return [
        curve for curve in success_curves(rows) if not NOTHING.issuperset(value for value, _ in curve.points)
    ]


def _varies(curves: Sequence[Curve], axis: str) -> bool:
    return any(curve.axis == axis and len(curve.points) > 1 for curve in curves)


def _charts(
    lines: Sequence[tuple[Source, Sequence[Curve]]], axis: str, tasks: dict[str, str]
) -> Iterator[tuple[str, Markup]]:
    for task in tasks:
        drawn = [
            (source.title, curve)
            for source, curves in lines
            for curve in curves
            if (curve.task, curve.axis) == (task, axis)
        ]
        if drawn:
            yield task, strata_chart(task_title(task), AXIS_TITLES[axis], drawn)

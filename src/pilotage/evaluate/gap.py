"""Where a model loses: the same states through words, through the picture, and through the picture with the
state told; whose fault each failure is; what was read where. A pure function of evaluation rows.

text       the state in words: planning without seeing
image      the picture: seeing and planning
corrected  the picture, the answer begun with the true state: planning with the picture there
perception questions about the picture: seeing without planning
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from pilotage.errors import PilotageError
from pilotage.evaluate.attribution import FAULTS, Attributed, FaultCounts, attribute_all, count_faults
from pilotage.evaluate.bootstrap import Figures, Interval, bootstrap_macro_mean, bootstrap_mean
from pilotage.evaluate.confusion import Confusion, confusions
from pilotage.evaluate.samples import Row, example_means, grouped
from pilotage.evaluate.strata import Curve, success_curves
from pilotage.evaluate.summary import paired_differences, rate_of

GAP_CONDITIONS = ("text", "image", "corrected", "perception")
DIFFERENCES = {
    "modality_gap": ("text", "image"),
    "lost_in_seeing": ("corrected", "image"),
    "lost_beside_picture": ("text", "corrected"),
}
"""Name -> (condition, less condition), paired by example. `lost_in_seeing` comes back when the true state is told;
`lost_beside_picture` does not, although words alone would do: the rest of the modality gap."""


@dataclass(frozen=True, kw_only=True)
class GapCell(Figures):
    """One task, one level of it, or the mean over tasks."""

    success: Mapping[str, Interval]
    """Condition -> success; of perception: every field right."""
    state_read: Interval
    """Share of image answers that recite the true state."""
    differences: Mapping[str, Interval]
    """Keys of `DIFFERENCES`, as far as both conditions were measured."""
    fault_shares: Mapping[str, Interval]
    """Fault -> share of all image answers."""
    faults: FaultCounts | None
    """Counts behind the shares; None for the mean over tasks."""


@dataclass(frozen=True, kw_only=True)
class PlanePoint(Figures):
    """One bubble of the perception x planning figure."""

    task: str
    perception: Interval
    """x: the state is told right from the picture."""
    perception_from: str
    """`perception`, or `recital` where no perception questions were asked: the state recited before planning."""
    planning: Interval
    """y: success from the text view."""
    success: Interval
    """Area: end-to-end success from the picture."""


@dataclass(frozen=True, kw_only=True)
class Gap(Figures):
    """Where one model loses; rates are shares from 0 to 1, differences from -1 to 1."""

    tasks: Mapping[str, GapCell]
    levels: Mapping[str, Mapping[int, GapCell]]
    """Task -> level -> cell."""
    macro: GapCell
    """Plain means over tasks, tasks resampled one by one."""
    plane: Sequence[PlanePoint]
    """Empty where the text view was not measured."""
    curves: Sequence[Curve]
    confusions: Sequence[Confusion]
    """Of the positions recited before planning from the image."""
    notes: tuple[str, ...]
    """What was not measured, or not on the same examples; a sentence each."""


def gap(rows: Iterable[Row]) -> Gap:
    """The diagnosis of one model's rows, of the conditions `GAP_CONDITIONS` as far as they are there.

    Raises PilotageError where there is no row of the condition `image`.
    """
    # The order of rows in their files means nothing.
    kept = sorted(
        (row for row in rows if row["condition"] in GAP_CONDITIONS),
        key=lambda row: (row["task"], GAP_CONDITIONS.index(row["condition"])),
    )
    image = [row for row in kept if row["condition"] == "image"]
    if not image:
        raise PilotageError("no rows of the condition image: there are no failures to be explained")
    attributed = attribute_all(image)
    by_task = grouped(kept, "task")
    of_task = {task: [each for each in attributed if each[0]["task"] == task] for task in by_task}
    by_task = {task: group for task, group in by_task.items() if of_task[task]}
    cells = {task: _cell(group, of_task[task]) for task, group in by_task.items()}
    levels = {
        task: {
            level: _cell(at_level, [each for each in of_task[task] if each[0]["level"] == level])
            for level, at_level in sorted(grouped(group, "level").items())
            if any(row["condition"] == "image" for row in at_level)
        }
        for task, group in by_task.items()
    }
    return Gap(
        tasks=cells,
        levels=levels,
        macro=_macro(by_task, of_task),
        plane=[
            PlanePoint(
                task=task,
                perception=cell.success.get("perception", cell.state_read),
                perception_from="perception" if "perception" in cell.success else "recital",
                planning=cell.success["text"],
                success=cell.success["image"],
            )
            for task, cell in cells.items()
            if "text" in cell.success
        ],
        curves=success_curves(kept),
        confusions=confusions(image),
        notes=_notes(kept),
    )


def _cell(rows: Sequence[Row], attributed: Sequence[Attributed]) -> GapCell:
    mean = bootstrap_mean
    conditions = _by_condition(rows)
    faults = count_faults(attributed)
    differences = _differences(conditions)
    return GapCell(
        success={
            condition: mean(example_means(group, rate_of("success")))
            for condition, group in conditions.items()
        },
        state_read=mean(example_means(conditions["image"], rate_of("state"))),
        differences={name: mean(values, bounds=(-1.0, 1.0)) for name, values in differences.items()},
        fault_shares=faults.shares,
        faults=faults,
    )


def _macro(by_task: Mapping[str, Sequence[Row]], of_task: Mapping[str, Sequence[Attributed]]) -> GapCell:
    """Plain means over tasks of whatever every task has."""
    mean = bootstrap_macro_mean
    conditions = [_by_condition(rows) for rows in by_task.values()]
    differences = [_differences(of) for of in conditions]
    faults = [{id(row): found.fault for row, found in of_task[task]} for task in by_task]
    return GapCell(
        success={
            condition: mean([example_means(of[condition], rate_of("success")) for of in conditions])
            for condition in GAP_CONDITIONS
            if all(condition in of for of in conditions)
        },
        state_read=mean([example_means(of["image"], rate_of("state")) for of in conditions]),
        differences={
            name: mean([of[name] for of in differences], bounds=(-1.0, 1.0))
            for name in DIFFERENCES
            if all(name in of for of in differences)
        },
        fault_shares={
            fault: mean(
                [
                    example_means(of["image"], lambda row, known=known, f=fault: float(known[id(row)] == f))
                    for of, known in zip(conditions, faults, strict=True)
                ]
            )
            for fault in FAULTS
        },
        faults=None,
    )


def _differences(conditions: Mapping[str, Sequence[Row]]) -> dict[str, list[float]]:
    """Name -> paired differences of success, one for each example that both conditions have."""
    found = {
        name: list(paired_differences(conditions[condition], minus=conditions[less]).values())
        for name, (condition, less) in DIFFERENCES.items()
        if condition in conditions and less in conditions
    }
    return {name: values for name, values in found.items() if values}


def _notes(rows: Sequence[Row]) -> tuple[str, ...]:
    ids = {
        condition: {(row["task"], row["id"]) for row in group}
        for condition, group in _by_condition(rows).items()
    }
    notes = [f"{condition} was not measured" for condition in GAP_CONDITIONS if condition not in ids]
    for condition, of_condition in ids.items():
        missing, more = len(ids["image"] - of_condition), len(of_condition - ids["image"])
        if missing or more:
            notes.append(
                f"{condition} lacks {missing} of the image examples and has {more} others: differences are those of "
                f"the {len(ids['image'] & of_condition)} that both have"
            )
    for condition, group in _by_condition(rows).items():
        num_errors = sum(bool(row.get("error")) for row in group)
        if num_errors:
            notes.append(
                f"{num_errors} rows of {condition} got no answer from the engine and count as failures"
            )
    return tuple(notes)


def _by_condition(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """Condition -> its rows, in the order of `GAP_CONDITIONS`."""
    groups = grouped(rows, "condition")
    return {condition: groups[condition] for condition in GAP_CONDITIONS if condition in groups}

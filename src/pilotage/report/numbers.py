"""The page's tables: rates by task, by grid size and by field, one row a source; numbers by condition."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from pilotage.evaluate.bootstrap import Interval, bootstrap_mean
from pilotage.evaluate.roles import is_description
from pilotage.evaluate.samples import example_means
from pilotage.evaluate.summary import FIRST_RATES, LAST_RATES, Rates, rate_names, rate_of
from pilotage.report.conditions import (
    condition_titles,
    measure_title,
    measures_of,
    ordered_conditions,
    ordered_tasks,
    recites,
    size,
    task_title,
    worlds_of,
)
from pilotage.report.folder import Row
from pilotage.report.sources import Source, all_rows
from pilotage.report.text import visible

MACRO = "All tasks"
MAX_FLAGS = 12
"""Columns of flags; foreign files may hold any number of them."""
MAX_AXES, MAX_VALUES = 6, 40
"""Axes that have a table, and values that have rows of one."""

Cells = list[Interval | None]


@dataclass(frozen=True, kw_only=True)
class Column:
    """A rate of one condition."""

    condition: str
    rate: str
    group: str
    """What stands above the column and those beside it: `success`, or the condition."""
    title: str


def columns_of(sources: Sequence[Source]) -> list[Column]:
    """Success of every condition that was measured; of the first one, the other flags of its worlds besides."""
    summaries = [source.summary for source in sources if source.summary is not None]
    titles = condition_titles(
        {condition for s in summaries for condition in s.conditions}, worlds_of(all_rows(sources))
    )
    columns = [
        Column(condition=condition, rate="success", group="success", title=title)
        for condition, title in titles.items()
    ]
    for condition, title in list(titles.items())[:1]:
        worlds = worlds_of(row for source in sources for row in source.rows.get(condition, ()))
        measures = measures_of(worlds)
        cells = [
            cell
            for s in summaries
            if condition in s.conditions
            for cell in s.conditions[condition].tasks.values()
        ]
        flags = [name for name in rate_names(cells) if name not in (*FIRST_RATES, *LAST_RATES)]
        columns += [
            Column(condition=condition, rate=name, group=title, title=measure_title(name, measures))
            for name in flags[:MAX_FLAGS]
        ]
        if recites(worlds) and not is_description(condition):
            columns.append(
                Column(condition=condition, rate="state", group=title, title="state recited right")
            )
    return columns


def column_groups(columns: Sequence[Column]) -> list[tuple[str, int]]:
    """(what stands above, over how many columns)."""
    groups: list[tuple[str, int]] = []
    for column in columns:
        if groups and groups[-1][0] == column.group:
            groups[-1] = (column.group, groups[-1][1] + 1)
        else:
            groups.append((column.group, 1))
    return groups


def by_task(
    sources: Sequence[Source], tasks: Sequence[str]
) -> Iterator[tuple[str, list[tuple[str, str, int, Cells, Interval | None]]]]:
    """(task, [(source, n, rows that failed, cells, gap)]) rows, the macro mean last."""
    columns = columns_of(sources)
    measured = [(source, source.summary) for source in sources if source.summary is not None]
    for task in tasks:
        rows = []
        for source, summary in measured:
            by_condition = {
                condition: s.tasks[task] for condition, s in summary.conditions.items() if task in s.tasks
            }
            if by_condition:
                rows.append((source.title, *_cells(by_condition, columns), summary.gap.get(task)))
        if rows:
            yield task_title(task), rows
    if len(tasks) > 1 and measured:
        macros = []
        for source, summary in measured:
            of_all = [
                rates for condition in summary.conditions.values() for rates in condition.tasks.values()
            ]
            n = _n_text({condition: s.macro["success"].n for condition, s in summary.conditions.items()})
            cells = [
                summary.conditions[column.condition].macro.get(column.rate)
                if column.condition in summary.conditions
                else None
                for column in columns
            ]
            num_errors = sum(rates.num_errors for rates in of_all)
            macros.append((source.title, n, num_errors, cells, summary.gap_macro))
        yield f"{MACRO} (plain mean)", macros


def by_level(
    sources: Sequence[Source],
) -> Iterator[tuple[str, str, list[tuple[str, str, Cells]]]]:
    """(task, level, [(source, n, cells)]) of the worlds that have levels."""
    columns = columns_of(sources)
    measured = [(source.title, source.summary) for source in sources if source.summary is not None]
    there = {
        (task, level)
        for _, summary in measured
        for condition in summary.conditions.values()
        for task, levels in condition.levels.items()
        for level in levels
        if size(level)
    }
    order = ordered_tasks({task for task, _ in there})
    for task, level in sorted(there, key=lambda each: (order.index(each[0]), each[1])):
        rows = []
        for title, summary in measured:
            by_condition = {
                condition: s.levels[task][level]
                for condition, s in summary.conditions.items()
                if level in s.levels.get(task, {})
            }
            if by_condition:
                n, _, cells = _cells(by_condition, columns)
                rows.append((title, n, cells))
        yield task_title(task), size(level), rows


def by_number(
    sources: Sequence[Source],
) -> tuple[list[str], list[tuple[str, list[tuple[str, str, int, Cells]]]]]:
    """The measures that are numbers, and (task, [(condition, source, n, their means)]); empty where there are none."""
    worlds = worlds_of(all_rows(sources))
    measured = [(source.title, source.summary) for source in sources if source.summary is not None]
    cells = [
        (task, condition, title, rates)
        for title, summary in measured
        for condition, of_condition in summary.conditions.items()
        for task, rates in of_condition.tasks.items()
        if rates.numbers
    ]
    measures = measures_of(worlds)
    found = dict.fromkeys(name for *_, rates in cells for name in rates.numbers)
    # Turns first: the measure that every world of several turns has.
    names = sorted(found, key=lambda name: (name != "num_turns", name not in measures))[:MAX_FLAGS]
    titles = condition_titles({condition for _, condition, *_ in cells}, worlds)
    rows = [
        (
            task_title(task),
            [
                (titles[condition], title, rates.n, [rates.numbers.get(name) for name in names])
                for condition in titles
                for of_task, of_condition, title, rates in cells
                if (of_task, of_condition) == (task, condition)
            ],
        )
        for task in ordered_tasks({task for task, *_ in cells})
    ]
    return [measure_title(name, measures) for name in names], rows


def by_axis(
    sources: Sequence[Source],
) -> Iterator[tuple[str, list[str], list[tuple[str, str, list[tuple[str, Cells]]]]]]:
    """(axis, conditions, [(task, value, [(source, success by condition)])]) of what else examples are told apart by:
    the axes of their worlds beside task and level."""
    titles = condition_titles(
        {condition for s in sources for condition in s.rows}, worlds_of(all_rows(sources))
    )
    axes: dict[str, dict[tuple[str, str], None]] = {}
    for row in all_rows(sources):
        for axis, value in _axes(row).items():
            axes.setdefault(axis, {})[row["task"], value] = None
    for axis, there in list(axes.items())[:MAX_AXES]:
        order = ordered_tasks({task for task, _ in there})
        rows = []
        for task, value in sorted(there, key=lambda each: (order.index(each[0]), each[1]))[:MAX_VALUES]:
            shown = []
            for source in sources:
                cells = [_success(source.rows.get(condition, ()), task, axis, value) for condition in titles]
                if any(cell is not None for cell in cells):
                    shown.append((source.title, cells))
            rows.append((task_title(task), visible(value, 40), shown))
        yield visible(axis, 40), list(titles.values()), rows


def _axes(row: Row) -> dict[str, str]:
    axes = row.get("axes")
    if not isinstance(axes, dict):
        return {}
    return {
        str(axis): value
        for axis, value in axes.items()
        if axis not in ("task", "level") and isinstance(value, str) and value
    }


def _success(rows: Sequence[Row], task: str, axis: str, value: str) -> Interval | None:
    own = [row for row in rows if row["task"] == task and _axes(row).get(axis) == value]
    return bootstrap_mean(example_means(own, rate_of("success"))) if own else None


def by_field(sources: Sequence[Source]) -> Iterator[tuple[str, list[str], list[tuple[str, Cells]]]]:
    """(task and condition, fields, [(source, share right per field)]) of the descriptions."""
    there = {condition for s in sources if s.summary is not None for condition in s.summary.conditions}
    titles = condition_titles(filter(is_description, there), worlds_of(all_rows(sources)))
    for condition, condition_title in titles.items():
        measured = [
            (source.title, source.summary.conditions[condition])
            for source in sources
            if source.summary is not None and condition in source.summary.conditions
        ]
        fields: dict[str, dict[str, None]] = {}
        for _, of_condition in measured:
            for task, rates in of_condition.tasks.items():
                fields.setdefault(task, {}).update(dict.fromkeys(rates.fields))
        for task in ordered_tasks(fields):
            rows = [
                (title, [of_condition.tasks[task].fields.get(f) for f in fields[task]])
                for title, of_condition in measured
                if task in of_condition.tasks
            ]
            if fields[task]:
                yield f"{task_title(task)}, {condition_title}", [visible(f, 40) for f in fields[task]], rows


def _cells(by_condition: Mapping[str, Rates], columns: Sequence[Column]) -> tuple[str, int, Cells]:
    """n, rows that the engine failed on, and one interval or None a column."""
    return (
        _n_text({condition: rates.n for condition, rates in by_condition.items()}),
        sum(rates.num_errors for rates in by_condition.values()),
        [
            by_condition[c.condition].rates.get(c.rate) if c.condition in by_condition else None
            for c in columns
        ],
    )


def _n_text(n_of: Mapping[str, int]) -> str:
    """`100`, or `image 100, text 20` where the conditions have other numbers of levels."""
    if len(set(n_of.values())) == 1:
        return str(next(iter(n_of.values())))
    return ", ".join(f"{visible(condition, 20)} {n_of[condition]}" for condition in ordered_conditions(n_of))

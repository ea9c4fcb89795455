"""The page's tables: rates by task, by grid size and by field, one row a source."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pilotage.evaluate.bootstrap import Interval
from pilotage.evaluate.summary import Rates
from pilotage.report.sources import Source
from pilotage.report.text import visible
from pilotage.worlds import TASKS

MACRO = "All tasks"
COLUMNS = (
    ("image", "success", "Image success"),
    ("text", "success", "Text success"),
    ("perception", "success", "Perception"),
    ("image", "optimal", "Image optimal"),
    ("image", "illegal", "Image illegal"),
    ("image", "parsed", "Image parsed"),
    ("image", "state", "Recited state"),
)
"""Kind, rate and title of every column."""

Column = tuple[str, str, str]
Cells = list[Interval | None]


def task_titles(tasks: Mapping[str, Any]) -> dict[str, str]:
    known = {task.name: task.title for task in TASKS}
    return {task: known.get(task, visible(task, 40)) for task in tasks}


def columns_of(sources: Sequence[Source]) -> list[Column]:
    """The columns that some source has a number for."""
    there = {kind for source in sources if source.summary is not None for kind in source.summary.kinds}
    return [column for column in COLUMNS if column[0] in there]


def by_task(
    sources: Sequence[Source], tasks: Mapping[str, str]
) -> Iterator[tuple[str, list[tuple[str, str, int, Cells, Interval | None]]]]:
    """(task, [(source, n, rows that failed, cells, gap)]) rows, the macro mean last."""
    columns = columns_of(sources)
    measured = [(source, source.summary) for source in sources if source.summary is not None]
    for task, name in tasks.items():
        rows = []
        for source, summary in measured:
            by_kind = {kind: s.tasks[task] for kind, s in summary.kinds.items() if task in s.tasks}
            if by_kind:
                rows.append((source.title, *_cells(by_kind, columns), summary.gap.get(task)))
        if rows:
            yield name, rows
    if len(tasks) > 1 and measured:
        macros = []
        for source, summary in measured:
            of_all = [rates for kind in summary.kinds.values() for rates in kind.tasks.values()]
            n = _n_text({kind: s.macro["success"].n for kind, s in summary.kinds.items()})
            cells = [
                summary.kinds[kind].macro.get(rate) if kind in summary.kinds else None
                for kind, rate, _ in columns
            ]
            num_errors = sum(rates.num_errors for rates in of_all)
            macros.append((source.title, n, num_errors, cells, summary.gap_macro))
        yield f"{MACRO} (plain mean)", macros


def by_level(
    sources: Sequence[Source],
) -> Iterator[tuple[str, str, list[tuple[str, str, Cells]]]]:
    """(task, level, [(source, n, cells)])."""
    columns = columns_of(sources)
    measured = [(source.title, source.summary) for source in sources if source.summary is not None]
    there = {
        (task, level)
        for _, summary in measured
        for kind in summary.kinds.values()
        for task, levels in kind.levels.items()
        for level in levels
    }
    titles = task_titles({task: None for task, _ in there})
    for task, level in sorted(there):
        rows = []
        for title, summary in measured:
            by_kind = {
                kind: s.levels[task][level]
                for kind, s in summary.kinds.items()
                if level in s.levels.get(task, {})
            }
            if by_kind:
                n, _, cells = _cells(by_kind, columns)
                rows.append((title, n, cells))
        yield titles[task], f"{level}×{level}", rows


def by_field(sources: Sequence[Source]) -> Iterator[tuple[str, list[str], list[tuple[str, Cells]]]]:
    """(task, fields, [(source, share right per field)]) of the perception view."""
    measured = [
        (source.title, source.summary.kinds["perception"])
        for source in sources
        if source.summary is not None and "perception" in source.summary.kinds
    ]
    fields: dict[str, dict[str, None]] = {}
    for _, kind in measured:
        for task, rates in kind.tasks.items():
            fields.setdefault(task, {}).update(dict.fromkeys(rates.fields))
    for task, name in task_titles(fields).items():
        rows = [
            (title, [kind.tasks[task].fields.get(f) for f in fields[task]])
            for title, kind in measured
            if task in kind.tasks
        ]
        if fields[task]:
            yield name, [visible(f, 40) for f in fields[task]], rows


def _cells(by_kind: Mapping[str, Rates], columns: Sequence[Column]) -> tuple[str, int, Cells]:
    """n, rows that the engine failed on, and one interval or None a column."""
    return (
        _n_text({kind: rates.n for kind, rates in by_kind.items()}),
        sum(rates.num_errors for rates in by_kind.values()),
        [by_kind[kind].rates.get(rate) if kind in by_kind else None for kind, rate, _ in columns],
    )


def _n_text(n_of: Mapping[str, int]) -> str:
    """`100`, or `image 100, text 20` where the kinds have other numbers of levels."""
    if len(set(n_of.values())) == 1:
        return str(next(iter(n_of.values())))
    return ", ".join(f"{visible(kind, 20)} {n}" for kind, n in n_of.items())

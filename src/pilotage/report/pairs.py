"""Two sources on the same levels, as the page tells it: what one gets right and the other does not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pilotage.errors import PilotageError
from pilotage.evaluate.bootstrap import Interval
from pilotage.evaluate.compare import Comparison, compare, excludes_zero
from pilotage.report.numbers import MACRO, task_titles
from pilotage.report.sources import Source
from pilotage.report.text import visible
from pilotage.tasks import TASKS

KINDS = ("image", "text", "corrected", "perception")


@dataclass(frozen=True, kw_only=True)
class PairRow:
    """One task of a pair, or the mean over tasks."""

    title: str
    task: int | None
    """The gallery's number of the task; None for the mean over tasks."""
    n: int
    """Levels that both sources answered."""
    first: Interval | None
    second: Interval | None
    """Success on the shared levels; None for the mean over tasks."""
    only_first: int
    only_second: int
    """Levels that one solves and the other does not."""
    difference: Interval
    """Second minus first, paired."""
    p_value: float | None
    """McNemar's exact test, two-sided; None for the mean over tasks and with several answers to a level."""
    is_distinguishable: bool

    @property
    def told(self) -> str:
        """The row's meaning in words."""
        if not self.is_distinguishable:
            return "not distinguishable from zero"
        return "second is better" if self.difference.mean > 0 else "first is better"


@dataclass(frozen=True, kw_only=True)
class Pair:
    first: str
    second: str
    first_number: int
    second_number: int
    kind: str
    kind_number: int
    num_unpaired: int
    """Levels that only one of the two was asked; they are in no figure of the pair."""
    rows: tuple[PairRow, ...]


def pair_sources(sources: Sequence[Source]) -> tuple[list[Pair], list[str]]:
    """Every later source against the first one, kind by kind, on the levels that both answered; and what makes
    a comparison less than fair, or impossible, a sentence each."""
    there = {kind for source in sources for kind in source.rows}
    tasks = gallery_tasks({row["task"] for s in sources for rows in s.rows.values() for row in rows})
    ordered = gallery_kinds(there)
    pairs, notes = [], []
    for number, second in enumerate(sources[1:], start=1):
        first = sources[0]
        for kind in ordered:
            if kind not in first.rows or kind not in second.rows:
                continue
            try:
                comparison = compare(first.rows[kind], second.rows[kind], kinds=[kind], common=True)
            except PilotageError as error:
                notes.append(visible(f"{second.title} against {first.title}: {error}", 300))
                continue
            told = (f"A is {first.title}, B is {second.title}: {warning}" for warning in comparison.warnings)
            notes.extend(visible(note, 300) for note in told)
            compared = comparison.kinds[kind]
            pairs.append(
                Pair(
                    first=first.title,
                    second=second.title,
                    first_number=0,
                    second_number=number,
                    kind=kind,
                    kind_number=ordered.index(kind),
                    num_unpaired=compared.num_only_in_a + compared.num_only_in_b,
                    rows=_rows(comparison, kind, tasks),
                )
            )
    return pairs, notes


def gallery_kinds(there: set[str]) -> list[str]:
    """Kinds in the order that every part of the page numbers them."""
    return [kind for kind in KINDS if kind in there] + sorted(there - set(KINDS))


def gallery_tasks(there: set[str]) -> list[str]:
    """Tasks in the order that every part of the page numbers them."""
    known = [task.name for task in TASKS if task.name in there]
    return known + sorted(there - set(known))


def _rows(comparison: Comparison, kind: str, tasks: Sequence[str]) -> tuple[PairRow, ...]:
    compared = comparison.kinds[kind]
    titles = task_titles(dict.fromkeys(tasks))
    rows = [
        PairRow(
            title=titles[task],
            task=number,
            n=pairs.a.n,
            first=pairs.a,
            second=pairs.b,
            only_first=pairs.num_only_a,
            only_second=pairs.num_only_b,
            difference=pairs.difference,
            p_value=pairs.p_value,
            is_distinguishable=pairs.distinguishable,
        )
        for number, task in enumerate(tasks)
        if (pairs := compared.tasks.get(task)) is not None
    ]
    if len(rows) > 1:
        mean = PairRow(
            title=MACRO,
            task=None,
            n=compared.num_examples,
            first=None,
            second=None,
            only_first=sum(row.only_first for row in rows),
            only_second=sum(row.only_second for row in rows),
            difference=compared.macro,
            p_value=None,
            is_distinguishable=excludes_zero(compared.macro),
        )
        rows.append(mean)
    return tuple(rows)

"""Two sources on the same levels, as the page tells it: what one gets right and the other does not."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from pilotage.errors import PilotageError
from pilotage.evaluate.compare import ConditionComparison, Pairs, compare
from pilotage.report.conditions import ordered_conditions, ordered_tasks, task_title
from pilotage.report.numbers import MACRO
from pilotage.report.sources import Source, all_rows
from pilotage.report.text import visible


@dataclass(frozen=True, kw_only=True)
class PairRow:
    """One task of a pair, or the mean over tasks."""

    title: str
    task: int | None
    """The gallery's number of the task; None for the mean over tasks."""
    pairs: Pairs
    """A is the first source, B the second."""

    @property
    def meaning(self) -> str:
        """The row's meaning in words."""
        meaning = {1: "second is better", -1: "first is better", 0: "not distinguishable from zero"}
        return meaning[self.pairs.direction]


@dataclass(frozen=True, kw_only=True)
class Pair:
    """Two sources by one condition, on the levels that both answered; numbers are places on the page."""

    first: str
    second: str
    first_number: int
    second_number: int
    condition: str
    condition_number: int
    num_unpaired: int
    """Levels that only one of the two was asked; they are in no figure of the pair."""
    rows: tuple[PairRow, ...]
    note: str
    """Why the verdict over all tasks is not that of the tasks; `""` where that needs no word."""


def pair_sources(sources: Sequence[Source]) -> tuple[list[Pair], list[str]]:
    """Every later source against the first one, and against the stage before it in its own run, condition by condition,
    on the levels that both answered; and what makes a comparison less than fair, or impossible, a sentence each."""
    there = {condition for source in sources for condition in source.rows}
    tasks = ordered_tasks({row["task"] for row in all_rows(sources)})
    ordered = ordered_conditions(there)
    pairs, notes = [], []
    for first_number, number in _pairings(sources):
        first, second = sources[first_number], sources[number]
        for condition in ordered:
            if condition not in first.rows or condition not in second.rows:
                continue
            try:
                comparison = compare(
                    first.rows[condition], second.rows[condition], conditions=[condition], common=True
                )
            except PilotageError as error:
                notes.append(visible(f"{second.title} against {first.title}: {error}", 300))
                continue
            warnings = (
                f"A is {first.title}, B is {second.title}: {warning}" for warning in comparison.warnings
            )
            notes.extend(visible(note, 300) for note in warnings)
            compared = comparison.conditions[condition]
            pairs.append(
                Pair(
                    first=first.title,
                    second=second.title,
                    first_number=first_number,
                    second_number=number,
                    condition=condition,
                    condition_number=ordered.index(condition),
                    num_unpaired=compared.num_only_in_a + compared.num_only_in_b,
                    rows=_rows(compared, tasks),
                    note=_pooling_note(compared, first.title, second.title),
                )
            )
    return pairs, list(dict.fromkeys(notes))


def _pairings(sources: Sequence[Source]) -> Iterator[tuple[int, int]]:
    """(first, second) of every comparison, by number."""
    for number in range(1, len(sources)):
        yield 0, number
        if number > 1 and sources[number].run is sources[number - 1].run:
            yield number - 1, number


def _rows(compared: ConditionComparison, tasks: Sequence[str]) -> tuple[PairRow, ...]:
    rows = [
        PairRow(title=task_title(task), task=number, pairs=pairs)
        for number, task in enumerate(tasks)
        if (pairs := compared.tasks.get(task)) is not None
    ]
    return (*rows, PairRow(title=MACRO, task=None, pairs=compared.macro)) if len(rows) > 1 else tuple(rows)


def _pooling_note(compared: ConditionComparison, first: str, second: str) -> str:
    note = compared.pooling_note
    return f"{note} (A is {first}, B is {second})" if note else ""

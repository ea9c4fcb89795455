"""Two sources on the same levels: what one gets right and the other does not, and whether that is chance."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from pilotage.evaluate.bootstrap import Interval, bootstrap_macro_mean, bootstrap_mean
from pilotage.report.numbers import MACRO, task_titles
from pilotage.report.sources import Source
from pilotage.report.verdicts import succeeded
from pilotage.tasks import TASKS

KINDS = ("image", "text", "perception")
ALPHA = 0.05


@dataclass(frozen=True, kw_only=True)
class PairRow:
    """One task of a pair."""

    title: str
    task: int | None
    """The gallery's number of the task; None for the mean over tasks."""
    n: int
    """Levels that both sources answered."""
    num_unpaired: int
    """Levels that only one of them answered; they are in no figure of this row."""
    first: float
    second: float
    """Success on the shared levels."""
    only_first: int
    only_second: int
    """Levels that one solves and the other does not."""
    difference: Interval
    """Second minus first, paired."""
    p_value: float | None
    """McNemar's exact test, two-sided; None for the mean over tasks."""

    @property
    def told(self) -> str:
        """The row's meaning in words."""
        if self.difference.low <= 0 <= self.difference.high or (self.p_value or 0.0) >= ALPHA:
            return "not distinguishable"
        return "second is better" if self.difference.mean > 0 else "first is better"


@dataclass(frozen=True, kw_only=True)
class Pair:
    first: str
    second: str
    first_number: int
    second_number: int
    kind: str
    kind_number: int
    rows: tuple[PairRow, ...]


def pair_sources(sources: Sequence[Source]) -> list[Pair]:
    """Every later source against the first one, kind by kind, on the levels that both answered."""
    there = {kind for source in sources for kind in source.rows}
    ordered = gallery_kinds(there)
    pairs = []
    for number, second in enumerate(sources[1:], start=1):
        for kind in KINDS:
            rows = tuple(_rows(sources, second, kind))
            if rows:
                pairs.append(
                    Pair(
                        first=sources[0].title,
                        second=second.title,
                        first_number=0,
                        second_number=number,
                        kind=kind,
                        kind_number=ordered.index(kind),
                        rows=rows,
                    )
                )
    return pairs


def gallery_kinds(there: set[str]) -> list[str]:
    """Kinds in the order that every part of the page numbers them."""
    return [kind for kind in KINDS if kind in there] + sorted(there - set(KINDS))


def gallery_tasks(there: set[str]) -> list[str]:
    """Tasks in the order that every part of the page numbers them."""
    known = [task.name for task in TASKS if task.name in there]
    return known + sorted(there - set(known))


def mcnemar_exact(only_first: int, only_second: int) -> float:
    """Two-sided p-value: of the pairs that differ, each falls to either side with probability one half."""
    n = only_first + only_second
    if n == 0:
        return 1.0
    smaller = min(only_first, only_second)
    log_tail = [math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1) for k in range(smaller + 1)]
    return min(1.0, 2.0 * sum(math.exp(term - n * math.log(2)) for term in log_tail))


def _rows(sources: Sequence[Source], second: Source, kind: str) -> Iterator[PairRow]:
    a, b = _successes(sources[0], kind), _successes(second, kind)
    tasks = gallery_tasks({row["task"] for s in sources for rows in s.rows.values() for row in rows})
    titles = task_titles(dict.fromkeys(tasks))
    strata, made = [], []
    for number, task in enumerate(tasks):
        of_a, of_b = a.get(task, {}), b.get(task, {})
        shared = [id_ for id_ in of_a if id_ in of_b]
        if not shared:
            continue
        pairs = [(of_a[id_], of_b[id_]) for id_ in shared]
        strata.append([float(y) - float(x) for x, y in pairs])
        only_first = sum(x and not y for x, y in pairs)
        only_second = sum(y and not x for x, y in pairs)
        made.append(
            PairRow(
                title=titles[task],
                task=number,
                n=len(pairs),
                num_unpaired=len(of_a) + len(of_b) - 2 * len(shared),
                first=sum(x for x, _ in pairs) / len(pairs),
                second=sum(y for _, y in pairs) / len(pairs),
                only_first=only_first,
                only_second=only_second,
                difference=bootstrap_mean(strata[-1], bounds=(-1.0, 1.0)),
                p_value=mcnemar_exact(only_first, only_second),
            )
        )
    yield from made
    if len(made) > 1:
        yield PairRow(
            title=MACRO,
            task=None,
            n=sum(row.n for row in made),
            num_unpaired=sum(row.num_unpaired for row in made),
            first=sum(row.first for row in made) / len(made),
            second=sum(row.second for row in made) / len(made),
            only_first=sum(row.only_first for row in made),
            only_second=sum(row.only_second for row in made),
            difference=bootstrap_macro_mean(strata, bounds=(-1.0, 1.0)),
            p_value=None,
        )


def _successes(source: Source, kind: str) -> Mapping[str, Mapping[str, bool]]:
    """Task -> id -> whether it was solved."""
    tasks: dict[str, dict[str, bool]] = {}
    for row in source.rows.get(kind, ()):
        tasks.setdefault(row["task"], {})[row["id"]] = succeeded(row)
    return tasks

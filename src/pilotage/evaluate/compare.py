"""Is B better than A, on the same examples? Paired: exact McNemar test, bootstrap of the difference.

Every difference is B's rate less A's. Where both answered every example once, what tells them apart are the
examples that only one of them got right: under equal skill each is a fair coin (McNemar 1947, exact binomial
form). So it is in every task, and the examples of all tasks are pooled in one such test. With several answers to
an example the pairs are means, and the interval alone decides. Ids are unique within a task.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import fmean
from typing import Any

from pilotage.errors import PilotageError, meant
from pilotage.evaluate.bootstrap import Figures, Interval, bootstrap_macro_mean
from pilotage.evaluate.roles import condition_order
from pilotage.evaluate.samples import Row, grouped
from pilotage.evaluate.summary import rate_of
from pilotage.worlds.registry import get_world, world_names

SIGNIFICANCE = 0.05
FAIR_SETTINGS = ("prompts", "max_new_tokens", "temperature", "top_p", "strict_edges")
"""Settings in which two files may not differ without a word; weights and seeds may."""


@dataclass(frozen=True, kw_only=True)
class Pairs(Figures):
    """One condition on one task, or on all tasks, pair by pair."""

    a: Interval
    b: Interval
    difference: Interval
    """B less A, examples resampled in pairs."""
    num_only_a: int
    """Examples on which A's rate is higher."""
    num_only_b: int
    """Examples on which B's rate is higher."""
    p_value: float | None
    """McNemar's exact two-sided p; None with several answers to an example."""

    @property
    def direction(self) -> int:
        """1 where B's rate is higher, -1 where A's is, 0 where the difference cannot be told from zero.

        McNemar's test decides at 0.05, else the 95 % interval. Over tasks of different sizes the examples may speak
        for one and the mean of the tasks for the other: that tells nothing apart.
        """
        sign = (self.difference.mean > 0) - (self.difference.mean < 0)
        if self.p_value is None:
            return sign if excludes_zero(self.difference) else 0
        agree = sign * (self.num_only_b - self.num_only_a) > 0
        return sign if self.p_value < SIGNIFICANCE and agree else 0

    @property
    def distinguishable(self) -> bool:
        """The difference can be told from zero."""
        return self.direction != 0

    def as_dict(self) -> dict[str, Any]:
        return super().as_dict() | {"distinguishable": self.distinguishable}


@dataclass(frozen=True, kw_only=True)
class ConditionComparison(Figures):
    """One condition, task by task and over all tasks; rates and differences are shares, not per cent."""

    num_examples: int
    """Examples compared."""
    num_only_in_a: int
    """Examples that only A was asked, and that are left out (with `common`)."""
    num_only_in_b: int
    tasks: Mapping[str, Pairs]
    macro: Pairs
    """All tasks: plain means of the tasks' rates and differences, tasks resampled one by one; the numbers of examples
    and their exact p are of all tasks pooled."""

    @property
    def pooling_note(self) -> str:
        """Why the verdict over all tasks is not that of the tasks, a sentence; `""` where nothing needs a word."""
        same = [pairs for pairs in self.tasks.values() if pairs.direction == self.macro.direction]
        if len(self.tasks) < 2 or same:
            return ""
        if self.macro.direction:
            return (
                f"the {self.num_examples} examples of all tasks together tell what those of no task tell by "
                f"themselves: A's rate is higher on {self.macro.num_only_a}, B's on {self.macro.num_only_b}"
            )
        return (
            "the tasks point in different ways, and all examples together in none that can be told from zero"
        )

    def as_dict(self) -> dict[str, Any]:
        return super().as_dict() | {"pooling_note": self.pooling_note}


@dataclass(frozen=True, kw_only=True)
class Comparison(Figures):
    """B against A, condition by condition, by one rate."""

    rate: str
    lower_is_better: bool
    """Whether less of the rate is better, as the rows' worlds declare it."""
    conditions: Mapping[str, ConditionComparison]
    warnings: tuple[str, ...]
    """What makes the comparison less than fair, a sentence each."""


def compare(
    a: Iterable[Row],
    b: Iterable[Row],
    *,
    conditions: Sequence[str] | None = None,
    rate: str = "success",
    common: bool = False,
) -> Comparison:
    """B against A, per condition and task. `conditions` defaults to those that both have and that have the rate.

    `rate` is success, state (every field recited right), or a flag of the rows' outcomes, e.g. optimal. Raises
    PilotageError where the rows have no such rate, where the example sets differ (unless `common`, which compares on
    what both have), where one id stands for different states, and where nothing is left to compare.
    """
    of_a, of_b = _by_condition(a), _by_condition(b)
    chosen = (
        [condition for condition in of_a if condition in of_b] if conditions is None else list(conditions)
    )
    if not chosen:
        raise PilotageError(
            f"A has rows of {', '.join(of_a) or 'no condition'}, B of "
            f"{', '.join(of_b) or 'no condition'}: nothing in common"
        )
    for condition in chosen:
        for name, of in (("A", of_a), ("B", of_b)):
            if condition not in of:
                raise PilotageError(
                    f"{name} has no rows of the condition {condition!r}; it has {', '.join(of)}"
                )
    rates = {condition: {**_rates(of_a[condition]), **_rates(of_b[condition])} for condition in chosen}
    if conditions is None:
        chosen = [condition for condition in chosen if rate in rates[condition]] or chosen[:1]
    if lacking := [condition for condition in chosen if rate not in rates[condition]]:
        known = [*rates[lacking[0]]]
        raise PilotageError(
            f"no rate {rate!r} in the rows of {lacking[0]}; there are {', '.join(known)}{meant(rate, known)}"
        )
    compared = {
        condition: _compare_condition(of_a[condition], of_b[condition], condition, rate=rate, common=common)
        for condition in chosen
    }
    warnings = [
        note for condition in chosen for note in _unfairness(condition, of_a[condition], of_b[condition])
    ]
    rows = [row for condition in chosen for row in (*of_a[condition], *of_b[condition])]
    return Comparison(
        rate=rate,
        lower_is_better=_lower_is_better(rate, rows),
        conditions=compared,
        warnings=tuple(dict.fromkeys(warnings)),
    )


def _rates(rows: Iterable[Row]) -> dict[str, None]:
    """Names of the rates that the rows have: success, the flags of their outcomes, and state where they recite one."""
    found = {"success": None}
    for row in rows:
        found |= {name: None for name, value in (row.get("outcome") or {}).items() if isinstance(value, bool)}
        if row.get("right"):
            found["state"] = None
    return found


def _lower_is_better(rate: str, rows: Iterable[Row]) -> bool:
    """What the worlds of the rows say of the rate; higher is better where none of them is known or says a thing."""
    worlds = {row.get("world") or row["task"] for row in rows} & set(world_names())
    return any(
        measure.name == rate and measure.better == "lower"
        for name in worlds
        for measure in get_world(name).measures
    )


def mcnemar_p(num_only_a: int, num_only_b: int) -> float:
    """Exact two-sided p of `num_only_a` heads in `num_only_a + num_only_b` throws of a fair coin.

    1 pair apart gives 1.0, 0 against 6 gives 2 / 2^6 = 0.03125.
    """
    n = num_only_a + num_only_b
    ways = tail = 1
    for i in range(min(num_only_a, num_only_b)):
        # C(n, i+1) out of C(n, i), in whole numbers: exact, and fast for thousands of pairs.
        ways = ways * (n - i) // (i + 1)
        tail += ways
    return min(1.0, 2 * tail / 2**n)


def excludes_zero(difference: Interval) -> bool:
    """Whether the whole 95 % interval lies on one side of zero."""
    return difference.low > 0 or difference.high < 0


def _compare_condition(
    a: Sequence[Row], b: Sequence[Row], condition: str, *, rate: str, common: bool
) -> ConditionComparison:
    of_a, of_b = grouped(a, "task", "id"), grouped(b, "task", "id")
    num_only_in_a, num_only_in_b = len(of_a.keys() - of_b.keys()), len(of_b.keys() - of_a.keys())
    shared = [key for key in of_a if key in of_b]
    if not shared:
        raise PilotageError(
            f"{condition}: A and B have no example in common; measure both on the same levels"
        )
    if (num_only_in_a or num_only_in_b) and not common:
        raise PilotageError(
            f"{condition}: A and B were not asked the same: {num_only_in_a} examples are only in A, {num_only_in_b} "
            f"only in B, {len(shared)} in both; measure both with the same --data, --split and --num, or give --common "
            "to compare on those that both have"
        )
    _check_states(condition, shared, of_a, of_b)
    once = all(len(of[key]) == 1 for of in (of_a, of_b) for key in shared)
    value = rate_of(rate)
    by_task: dict[str, list[tuple[float, float]]] = {}
    for key in shared:
        pair = (fmean(map(value, of_a[key])), fmean(map(value, of_b[key])))
        by_task.setdefault(key[0], []).append(pair)
    pairs_of = partial(_pairs, once=once)
    return ConditionComparison(
        num_examples=len(shared),
        num_only_in_a=num_only_in_a,
        num_only_in_b=num_only_in_b,
        tasks={task: pairs_of([pairs]) for task, pairs in by_task.items()},
        macro=pairs_of(list(by_task.values())),
    )


def _pairs(tasks: Sequence[Sequence[tuple[float, float]]], *, once: bool) -> Pairs:
    """Of one task, or of several."""
    mean = bootstrap_macro_mean
    pairs = [pair for of_task in tasks for pair in of_task]
    num_only_a = sum(of_a > of_b for of_a, of_b in pairs)
    num_only_b = sum(of_b > of_a for of_a, of_b in pairs)
    return Pairs(
        a=mean([[of_a for of_a, _ in of_task] for of_task in tasks]),
        b=mean([[of_b for _, of_b in of_task] for of_task in tasks]),
        difference=mean([[of_b - of_a for of_a, of_b in of_task] for of_task in tasks], bounds=(-1.0, 1.0)),
        num_only_a=num_only_a,
        num_only_b=num_only_b,
        p_value=mcnemar_p(num_only_a, num_only_b) if once else None,
    )


def _check_states(
    condition: str,
    shared: Sequence[tuple[str, str]],
    a: Mapping[tuple[str, str], Sequence[Row]],
    b: Mapping[tuple[str, str], Sequence[Row]],
) -> None:
    for key in shared:
        if a[key][0].get("state") != b[key][0].get("state"):
            raise PilotageError(
                f"{condition}: the example {key[1]!r} is another state in B than in A; these are not the same levels"
            )


def _unfairness(condition: str, a: Sequence[Row], b: Sequence[Row]) -> list[str]:
    notes = []
    for name in FAIR_SETTINGS:
        of_a, of_b = (
            sorted({str((row.get("settings") or {}).get(name, "not given")) for row in rows})
            for rows in (a, b)
        )
        if of_a != of_b:
            notes.append(f"{name} differs: {', '.join(of_a)} in A, {', '.join(of_b)} in B")
    num_answers = [sorted({len(rows) for rows in grouped(of, "task", "id").values()}) for of in (a, b)]
    if num_answers[0] != num_answers[1]:
        texts = [" or ".join(map(str, counts)) for counts in num_answers]
        notes.append(f"{condition}: A has {texts[0]} answers to an example, B has {texts[1]}")
    for name, rows in (("A", a), ("B", b)):
        num_errors = sum(bool(row.get("error")) for row in rows)
        if num_errors:
            notes.append(
                f"{condition}: {num_errors} rows of {name} got no answer from the engine and count as failures"
            )
    return notes


def _by_condition(rows: Iterable[Row]) -> dict[str, list[Row]]:
    conditions = grouped(rows, "condition")
    return {
        condition: conditions[condition]
        for condition in (*condition_order(), *conditions)
        if condition in conditions
    }

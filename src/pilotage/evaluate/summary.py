"""Turns evaluation rows into rates with intervals: per condition, task and level, and over tasks.

A row is what `pilotage.evaluate.run` writes, from whatever model; a row with an `error` is a failure in
every rate. All rates are shares in [0, 1]. Several answers to one example count as their mean, and intervals
resample examples, never answers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from statistics import fmean
from typing import Any

from pilotage.errors import PilotageError
from pilotage.evaluate.bootstrap import UNBOUNDED, Figures, Interval, bootstrap_macro_mean, bootstrap_mean
from pilotage.evaluate.samples import Row, example_means, grouped
from pilotage.worlds.judge import MEASURES

FIRST_RATES, LAST_RATES = ("success",), ("state", "finished")
"""What every row has: `success` is the outcome's; `state` is every field read right that the answer told; `finished`
ended its turn before the token limit. Between them stand the flags among the world's own measures."""
PLAN_FLAGS = tuple(measure.name for measure in MEASURES if measure.is_flag)
"""Those of a plan, in their order; other worlds' follow as they come."""


def rate_names(cells: Iterable[Rates]) -> tuple[str, ...]:
    """The rates of these cells, in the order in which tables show them."""
    found = dict.fromkeys(name for cell in cells for name in cell.rates)
    return _in_order(found)


def _in_order(names: Iterable[str]) -> tuple[str, ...]:
    found = list(dict.fromkeys(names))
    own = [name for name in found if name not in (*FIRST_RATES, *PLAN_FLAGS, *LAST_RATES)]
    return tuple(name for name in (*FIRST_RATES, *PLAN_FLAGS, *own, *LAST_RATES) if name in found)


@dataclass(frozen=True, kw_only=True)
class Rates(Figures):
    """One condition on one task, or on one level of it; rates are shares from 0 to 1."""

    n: int
    """Examples."""
    num_answers: int
    """Rows: more than `n` where examples were answered several times."""
    num_errors: int
    """Rows that the engine failed on; they are among the answers and count as failures."""
    rates: Mapping[str, Interval]
    """Rate -> its mean over examples, keys as of `rate_names`."""
    numbers: Mapping[str, Interval] = field(default_factory=dict)
    """The world's other measures, e.g. the number of turns -> their mean over examples whose outcome has them."""
    fields: Mapping[str, Interval] = field(default_factory=dict)
    """Field of the state or of the perception answer -> share read right."""

    def as_dict(self) -> dict[str, Any]:
        entry = super().as_dict()
        rates, numbers, fields = (entry.pop(name) for name in ("rates", "numbers", "fields"))
        return {**entry, **rates, "fields": fields, **({"numbers": numbers} if numbers else {})}


@dataclass(frozen=True, kw_only=True)
class ConditionSummary(Figures):
    """One condition: its rates by task, by level and over all tasks."""

    tasks: Mapping[str, Rates]
    levels: Mapping[str, Mapping[int, Rates]]
    """Task -> level -> rates."""
    macro: Mapping[str, Interval]
    """Rate -> plain mean over the tasks, tasks resampled one by one."""


@dataclass(frozen=True, kw_only=True)
class Summary(Figures):
    """The rates of one stage's rows, condition by condition."""

    conditions: Mapping[str, ConditionSummary]
    """`image`, `text`, `perception`, … -> their rates."""
    gap: Mapping[str, Interval]
    """Task -> modality gap: text success minus image success on the states that both have, paired."""
    gap_macro: Interval | None
    """Plain mean of the tasks' gaps, or None where no state has both."""

    def headline(self) -> dict[str, dict[str, dict[str, float]]]:
        """task -> condition -> `{"success", "n", "low", "high"}`, the form that `summary.json` holds."""
        tasks: dict[str, dict[str, dict[str, float]]] = {}
        for condition, summary in self.conditions.items():
            for task, rates in summary.tasks.items():
                success = rates.rates["success"]
                tasks.setdefault(task, {})[condition] = {
                    "success": success.mean,
                    "n": rates.n,
                    "low": success.low,
                    "high": success.high,
                }
        return tasks


def summarise(rows: Iterable[Row]) -> Summary:
    """The rates of one model's rows, of any number of conditions. PilotageError on a row without its keys."""
    by_condition: dict[str, dict[str, list[Row]]] = {}
    for row in rows:
        for key in ("id", "condition", "task", "level"):
            if key not in row:
                raise PilotageError(f"an evaluation row has no {key!r}; it has {sorted(map(str, row))}")
        by_condition.setdefault(row["condition"], {}).setdefault(row["task"], []).append(row)
    conditions = {}
    for condition, tasks in by_condition.items():
        flags = _flags(row for task_rows in tasks.values() for row in task_rows)
        rates = partial(_rates, flags=flags)
        by_task = {task: rates(task_rows) for task, task_rows in tasks.items()}
        shared = [
            name
            for name in rate_names(by_task.values())
            if all(name in cell.rates for cell in by_task.values())
        ]
        conditions[condition] = ConditionSummary(
            tasks=by_task,
            levels={
                task: {
                    level: rates(at_level) for level, at_level in sorted(grouped(of_task, "level").items())
                }
                for task, of_task in tasks.items()
            },
            macro={
                name: bootstrap_macro_mean(
                    [example_means(of_task, rate_of(name)) for of_task in tasks.values()]
                )
                for name in shared
            },
        )
    gaps = _paired_gaps(by_condition.get("text", {}), by_condition.get("image", {}))
    return Summary(
        conditions=conditions,
        gap={task: bootstrap_mean(values, bounds=(-1.0, 1.0)) for task, values in gaps.items()},
        gap_macro=bootstrap_macro_mean(list(gaps.values()), bounds=(-1.0, 1.0)) if gaps else None,
    )


def _rates(rows: Sequence[Row], *, flags: Sequence[str]) -> Rates:
    mean = bootstrap_mean
    # Of rows that all failed nobody knows the measures; they are those of the other rows of this condition.
    own = _flags(rows) if any(row.get("outcome") for row in rows) else flags
    names = _in_order((*FIRST_RATES, *own, *LAST_RATES))
    fields = list(dict.fromkeys(name for row in rows for name in row.get("right") or {}))
    return Rates(
        n=len(grouped(rows, "id")),
        num_answers=len(rows),
        num_errors=sum(bool(row.get("error")) for row in rows),
        rates={name: mean(example_means(rows, rate_of(name))) for name in names},
        fields={name: mean(example_means(rows, partial(_field, name=name))) for name in fields},
        numbers=_numbers(rows),
    )


def _flags(rows: Iterable[Row]) -> tuple[str, ...]:
    """The measures that are flags, of all these rows' outcomes."""
    outcomes = (row.get("outcome") or {} for row in rows)
    names = (name for outcome in outcomes for name, value in outcome.items() if isinstance(value, bool))
    return tuple(name for name in dict.fromkeys(names) if name not in FIRST_RATES)


def _numbers(rows: Sequence[Row]) -> dict[str, Interval]:
    """The measures that are numbers; counts, of worlds of several turns alone: no table shows `num_executed`."""
    counted = [(row, _numbers_of(row)) for row in rows if row.get("outcome") and not row.get("error")]
    if not any("num_turns" in numbers for _, numbers in counted):
        counted = [
            (row, {name: value for name, value in numbers.items() if not name.startswith("num_")})
            for row, numbers in counted
        ]
    names = dict.fromkeys(name for _, numbers in counted for name in numbers)
    values = {
        name: [{"id": row["id"], "value": numbers[name]} for row, numbers in counted if name in numbers]
        for name in names
    }
    return {
        name: bootstrap_mean(example_means(of_name, lambda row: row["value"]), bounds=UNBOUNDED)
        for name, of_name in values.items()
    }


def _numbers_of(row: Row) -> dict[str, float]:
    """The number of turns, as the world counts it or the row has them, and the outcome's other numbers."""
    turns = {"num_turns": len(row["turns"])} if row.get("turns") else {}
    found = {**turns, **row["outcome"]}
    return {
        name: float(value)
        for name, value in found.items()
        if isinstance(value, int | float) and not isinstance(value, bool)
    }


def rate_of(name: str) -> Callable[[Row], float]:
    """Row -> 1.0 or 0.0: whether it counts towards the rate, one of `rate_names`."""
    return partial(_rate, name=name)


def _rate(row: Row, name: str) -> float:
    if row.get("error"):
        return 0.0
    outcome = row.get("outcome")
    if name == "state" or (name == "success" and outcome is None):
        right = row.get("right") or {}
        return float(bool(right) and all(right.values()))
    if name == "finished":
        return float(bool(row.get("finished", True)))
    return float(bool((outcome or {}).get(name)))


def _field(row: Row, name: str) -> float:
    return float(not row.get("error") and bool((row.get("right") or {}).get(name)))


def _paired_gaps(
    text: Mapping[str, Sequence[Row]], image: Mapping[str, Sequence[Row]]
) -> dict[str, list[float]]:
    gaps = {}
    for task, text_rows in text.items():
        pairs = paired_differences(text_rows, image.get(task, ()))
        if pairs:
            gaps[task] = list(pairs.values())
    return gaps


def paired_differences(rows: Iterable[Row], minus: Iterable[Row]) -> dict[str, float]:
    """Example id -> its success in `rows` less that in `minus`, over the examples that both have."""
    value = rate_of("success")
    first, second = grouped(rows, "id"), grouped(minus, "id")
    return {
        id_: fmean(map(value, first[id_])) - fmean(map(value, second[id_])) for id_ in first if id_ in second
    }

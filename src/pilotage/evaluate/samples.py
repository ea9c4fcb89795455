"""Several answers to one example are one example: rates are means per example, intervals resample examples."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

Row = Mapping[str, Any]


def by_example(rows: Iterable[Row]) -> dict[str, list[Row]]:
    """Example id -> its answers, in the order of the rows."""
    examples: dict[str, list[Row]] = {}
    for row in rows:
        examples.setdefault(row["id"], []).append(row)
    return examples


def example_means(rows: Iterable[Row], value: Callable[[Row], float]) -> list[float]:
    """Mean of `value` over the answers to each example, in the order in which the examples come first."""
    return [
        value(answers[0]) if len(answers) == 1 else sum(map(value, answers)) / len(answers)
        for answers in by_example(rows).values()
    ]

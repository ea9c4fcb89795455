"""Several answers to one example are one example: rates are means per example, intervals resample examples."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from operator import itemgetter
from typing import Any

Row = Mapping[str, Any]


def grouped(rows: Iterable[Row], *keys: str) -> dict[Any, list[Row]]:
    """What rows hold under a key, or a tuple of it for several -> these rows, in their order."""
    value_of = itemgetter(*keys)
    groups: dict[Any, list[Row]] = {}
    for row in rows:
        groups.setdefault(value_of(row), []).append(row)
    return groups


def example_means(rows: Iterable[Row], value: Callable[[Row], float]) -> list[float]:
    """Mean of `value` over the answers to each example, in the order in which the examples come first."""
    return [
        value(answers[0]) if len(answers) == 1 else sum(map(value, answers)) / len(answers)
        for answers in grouped(rows, "id").values()
    ]

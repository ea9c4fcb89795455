"""The state as an answer recites it, field by field and cell by cell against the truth."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

from pilotage.evaluate.roles import is_description
from pilotage.report.folder import Row
from pilotage.report.text import visible
from pilotage.worlds.recital import split_items
from pilotage.worlds.score import read_recital, same_text
from pilotage.worlds.task import Recites

MAX_ITEMS = 8
"""More cells than this in one field are summed up, with the wrong ones named."""
MAX_FIELD_CHARACTERS = 160
_MAX_READ_CHARACTERS = 20_000


@dataclass(frozen=True, kw_only=True)
class Item:
    """One item of a recited field, e.g. a cell."""

    text: str
    is_right: bool


@dataclass(frozen=True, kw_only=True)
class Field:
    """One field of an answer beside the truth."""

    name: str
    is_right: bool
    recited: tuple[Item, ...]
    """What was read, item by item; empty when the field was not there."""
    num_right: int
    num_items: int
    """Items of the truth."""
    truth: str
    """What should have been there, as far as it was not."""


def recited_fields(task: Recites[Any], state: Any, row: Row) -> tuple[Field, ...]:
    """Every field that the answer should have told, in the task's order."""
    truth = task.facts(state) if is_description(row["condition"]) else task.recital(state)
    read = read_fields_of(task, state, row)
    return tuple(_field(name, read.get(name, ""), text) for name, text in truth.items())


def read_fields_of(task: Recites[Any], state: Any, row: Row) -> dict[str, str]:
    """Field -> the text that was read for it: as the row says, or out of its answer."""
    read = row.get("fields")
    if not read and row["response"]:
        read = read_recital(row["response"][:_MAX_READ_CHARACTERS], tuple(task.facts(state)))
    return {name: str(text)[:_MAX_READ_CHARACTERS] for name, text in (read or {}).items()}


def _field(name: str, read: str, truth: str) -> Field:
    wanted = split_items(truth)
    recited = wanted if read == truth else split_items(read)
    left = Counter(map(_sorted, wanted))
    items: list[Item] = []
    for item in recited[: 40 * MAX_ITEMS]:
        is_right = left[_sorted(item)] > 0
        left[_sorted(item)] -= is_right
        items.append(Item(text=visible(_text(item), 40), is_right=is_right))
    missing = []
    for item in wanted:
        if left[_sorted(item)] > 0:
            left[_sorted(item)] -= 1
            missing.append(_text(item))
    wrong = [item for item in items if not item.is_right]
    return Field(
        name=name,
        is_right=read == truth or same_text(read, truth),
        recited=tuple(items if len(items) <= MAX_ITEMS else wrong[:MAX_ITEMS]),
        num_right=len(wanted) - len(missing),
        num_items=len(wanted),
        truth=visible(" ".join(missing), MAX_FIELD_CHARACTERS),
    )


def _text(item: tuple[str, str]) -> str:
    cell, said = item
    return f"{cell} {said if cell else said.lower()}".strip()


def _sorted(item: tuple[str, str]) -> tuple[str, str]:
    return (item[0], "".join(sorted(item[1])) if item[0] else item[1])

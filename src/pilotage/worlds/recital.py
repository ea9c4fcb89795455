"""Reads a state back out of its recited fields: the inverse of `Task.recital`, on text that a model wrote.

Items are read as the scores read them: the order of cells, spaces, commas, leading zeros and case do not
matter, anything else does. Whatever the text holds, the worst that comes of it is a BadStateError.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from pilotage.errors import BadStateError
from pilotage.worlds.grid import Cell, shorten

NO_CELLS = "NONE"
"""What stands for an empty list of cells."""

_ITEM = re.compile(r"\(\s*0*([0-9]{1,9})\s*,\s*0*([0-9]{1,9})\s*\)|[^\s,;]+")
_CELL = re.compile(r"\(([0-9]+),([0-9]+)\)")
_SIZE = re.compile(r"[1-9][0-9]?")


def split_items(text: str) -> list[tuple[str, str]]:
    """The items of a field's text in reading order, as (cell or "", what is said of it).

    `(0,1) (0,0) LR` gives `[("(0,1)", ""), ("(0,0)", "LR")]`; words without a cell stand alone.
    """
    items: list[tuple[str, list[str]]] = []
    for match in _ITEM.finditer(text):
        if match[1] is not None:
            items.append((f"({match[1]},{match[2]})", []))
        elif items and items[-1][0]:
            items[-1][1].append(match[0].upper())
        else:
            items.append(("", [match[0].upper()]))
    return [(cell, "".join(words)) for cell, words in items]


def recited_size(fields: Mapping[str, str], field: str, task: str) -> int:
    """The one whole number from 1 to 99 that the field holds; whether it is a level is for the task to say."""
    items = split_items(_text(fields, field, task))
    if len(items) != 1 or items[0][0] or not _SIZE.fullmatch(items[0][1]):
        raise BadStateError(f"{task}: {field} is recited as {shorten(fields[field])}, not as one number")
    return int(items[0][1])


def recited_cell(fields: Mapping[str, str], field: str, task: str) -> Cell:
    """The one cell that the field holds, inside or outside the grid."""
    cells = recited_cells(fields, field, task)
    if len(cells) != 1:
        raise BadStateError(
            f"{task}: {field} is recited as {shorten(fields[field])}, not as one (row,column)"
        )
    return cells[0]


def recited_cells(fields: Mapping[str, str], field: str, task: str) -> list[Cell]:
    """The cells that the field lists, each once, or none of them where it says `none`."""
    if split_items(_text(fields, field, task)) == [("", NO_CELLS)]:
        return []
    said = recited_sides(fields, field, task)
    if any(said.values()):
        raise BadStateError(f"{task}: {field} is recited as {shorten(fields[field])}, not as a list of cells")
    return list(said)


def recited_sides(fields: Mapping[str, str], field: str, task: str) -> dict[Cell, str]:
    """Cell -> the word beside it, as in `(0,0) RD (0,1) L`; `""` where none stands there."""
    text = _text(fields, field, task)
    said: dict[Cell, str] = {}
    for item, word in split_items(text):
        match = _CELL.fullmatch(item)
        if match is None:
            raise BadStateError(f"{task}: {field} holds {shorten(word)}, which is no (row,column)")
        cell = (int(match[1]), int(match[2]))
        if cell in said:
            raise BadStateError(f"{task}: {field} lists {item} more than once")
        said[cell] = word
    if not said:
        raise BadStateError(f"{task}: {field} is recited as {shorten(text)}: no cell, and not 'none'")
    return said


def _text(fields: Mapping[str, str], field: str, task: str) -> str:
    if field not in fields:
        raise BadStateError(f"{task}: {field} is not recited; recited are {shorten(sorted(fields))}")
    return fields[field]

"""Cells, moves and breadth-first search on square grids, shared by the grid worlds."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from pilotage.errors import BadStateError

Cell = tuple[int, int]

MAX_LEVEL = 64
"""Grids beyond this side are refused: a hostile or mistyped level must not allocate gigabytes."""

MAX_TEXT_ROWS = 2 * MAX_LEVEL + 1
"""Rows of the largest map of characters: a maze is drawn with its walls."""

MOVES: dict[str, Cell] = {"L": (0, -1), "D": (1, 0), "R": (0, 1), "U": (-1, 0)}
"""Action -> (row, col) step, in Gymnasium's order, which breaks ties between shortest plans."""

UNREACHED = -1


def check_level(level: int, *, minimum: int, task: str, field: str | None = None) -> None:
    """Raises BadStateError for a level that is no level; `field` is the one whose number of rows it is."""
    if isinstance(level, bool) or not isinstance(level, int) or not minimum <= level <= MAX_LEVEL:
        what = f"{field} with {level} rows" if field else f"level {shorten(level)}"
        raise BadStateError(f"{task}: {what}: the level is a whole number from {minimum} to {MAX_LEVEL}")


def cell_text(cell: Cell) -> str:
    """`(row,column)`, from 0, without a space."""
    return f"({cell[0]},{cell[1]})"


def cells_text(cells: Iterable[Cell]) -> str:
    """`(0,1) (3,2)` in row-major order, or `none`."""
    return " ".join(cell_text(cell) for cell in sorted(cells)) or "none"


@lru_cache(maxsize=256)
def neighbours(level: int) -> tuple[tuple[tuple[str, int], ...], ...]:
    """For every cell index r*level+c, its in-grid `(action, neighbour index)` pairs in action order."""
    return tuple(
        tuple(
            (action, (r + dr) * level + c + dc)
            for action, (dr, dc) in MOVES.items()
            if 0 <= r + dr < level and 0 <= c + dc < level
        )
        for r in range(level)
        for c in range(level)
    )


Graph = Sequence[Sequence[tuple[str, int]]]


def distances_to(target: int, graph: Graph, blocked: frozenset[int] | set[int] = frozenset()) -> list[int]:
    """Steps from every cell to `target` on an undirected graph, `UNREACHED` where there is no way."""
    distance = [UNREACHED] * len(graph)
    distance[target] = 0
    frontier = [target]
    while frontier:
        following = []
        for cell in frontier:
            d = distance[cell] + 1
            for _, other in graph[cell]:
                if distance[other] == UNREACHED and other not in blocked:
                    distance[other] = d
                    following.append(other)
        frontier = following
    return distance


def descend(
    start: int, distance: Sequence[int], graph: Graph, rng: np.random.Generator | None = None
) -> list[str]:
    """A shortest plan: at every step the first action that comes closer, or such an action drawn by `rng`."""
    plan = []
    cell = start
    while distance[cell] > 0:
        closer = [(a, o) for a, o in graph[cell] if distance[o] == distance[cell] - 1]
        action, cell = closer[0 if rng is None else int(rng.integers(len(closer)))]
        plan.append(action)
    return plan


def count_descents(start: int, distance: Sequence[int], graph: Graph) -> int:
    """Number of shortest plans from `start`."""
    layer = {start: 1}
    for d in range(distance[start] - 1, -1, -1):
        following: dict[int, int] = {}
        for cell, ways in layer.items():
            for _, other in graph[cell]:
                if distance[other] == d:
                    following[other] = following.get(other, 0) + ways
        layer = following
    return sum(layer.values())


def require(data: Mapping[str, Any], field: str, task: str) -> Any:
    """`data[field]`, or an error that names the fields there are."""
    if not isinstance(data, dict):
        raise BadStateError(f"{task}: a state is a JSON object, not {type(data).__name__}")
    if field not in data:
        raise BadStateError(f"{task}: state has no field {field!r}; it has {sorted(map(str, data))}")
    return data[field]


def parse_cell(value: Any, field: str, level: int, task: str) -> Cell:
    """A `[row, col]` pair inside the grid."""
    if (
        not isinstance(value, list | tuple)
        or len(value) != 2
        or any(isinstance(x, bool) or not isinstance(x, int) for x in value)
    ):
        raise BadStateError(f"{task}: {field} is {shorten(value)}, not a [row, col] pair of whole numbers")
    r, c = value
    if not (0 <= r < level and 0 <= c < level):
        raise BadStateError(f"{task}: {field} {[r, c]} lies outside the {level}x{level} grid")
    return (r, c)


def text_rows(text: str, task: str) -> list[str]:
    """The lines of a map without what surrounds them; refused before anything is done with them if too many."""
    rows = [row for row in map(str.strip, text.strip().split("\n", MAX_TEXT_ROWS + 1)) if row]
    if not rows:
        raise BadStateError(f"{task}: the map is empty")
    if len(rows) > MAX_TEXT_ROWS:
        raise BadStateError(f"{task}: the map has more than {MAX_TEXT_ROWS} rows")
    return rows


def find_letters(rows: Sequence[str], known: str, task: str) -> dict[str, list[Cell]]:
    """Character -> its cells in row-major order, for a map as wide as it is high. Raises BadStateError."""
    found: dict[str, list[Cell]] = {letter: [] for letter in known}
    for r, row in enumerate(rows):
        if len(row) != len(rows):
            raise BadStateError(f"{task}: map row {r} has {len(row)} cells in a map of {len(rows)} rows")
        for c, letter in enumerate(row):
            if letter not in found:
                legal = " ".join("space" if x == " " else x for x in known)
                raise BadStateError(f"{task}: map row {r} column {c} is {letter!r}, not one of {legal}")
            found[letter].append((r, c))
    return found


def only_cell(found: Mapping[str, Sequence[Cell]], letter: str, what: str, task: str) -> Cell:
    """The one cell that holds `letter`."""
    if len(found[letter]) != 1:
        raise BadStateError(f"{task}: map has {len(found[letter])} {what} cells ({letter}), not one")
    return found[letter][0]


def shorten(value: Any, limit: int = 60) -> str:
    """The value's repr for a message, at most `limit` characters; never raises on what JSON can hold."""
    try:
        text = repr(value)
    except RecursionError:  # JSON may be read a little deeper than it can be shown
        return f"a {type(value).__name__} nested too deeply to be shown"
    return text if len(text) <= limit else text[: limit - 1] + "…"

"""What the agent sees, as symbols, in words, as boxes and as a picture. No simulator is needed but to draw tiles.

A cell is two characters, a colour and a thing: `rb` is a red ball, `Gd` none. Doors tell their state: `o` open, `c`
closed, `l` locked. The view is seven rows of seven cells, seen from above with the agent at the lower middle looking
up; what it carries is in its own cell. Rows of a view with a red ball two steps ahead, and a grey wall behind it:

    ??????ew??????      ??   unseen
    ...                 ..   empty
    ......rb......      places in words: `red ball 2 ahead`
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from types import MappingProxyType
from typing import Any

import numpy as np

from pilotage.errors import PilotageError

SIDE = 7
"""Cells a side of the view."""
AGENT = (SIDE - 1, SIDE // 2)
"""(row, column) of the agent in the view."""
MIN_TILE_PX, MAX_TILE_PX = 4, 128
UNSEEN, EMPTY = "??", ".."
COLOURS: Mapping[str, str] = MappingProxyType(
    {"r": "red", "g": "green", "b": "blue", "p": "purple", "y": "yellow", "e": "grey"}
)
KINDS: Mapping[str, tuple[str, str]] = MappingProxyType(
    {
        "w": ("wall", ""),
        "f": ("floor", ""),
        "o": ("door", "open"),
        "c": ("door", "closed"),
        "l": ("door", "locked"),
        "k": ("key", ""),
        "b": ("ball", ""),
        "x": ("box", ""),
        "g": ("goal", ""),
        "v": ("lava", ""),
    }
)
"""Letter -> (kind, state)."""
_NUMBER_OF = {"wall": 2, "floor": 3, "door": 4, "key": 5, "ball": 6, "box": 7, "goal": 8, "lava": 9}
_STATES = ("open", "closed", "locked")
_LETTER = {what: letter for letter, what in KINDS.items()}
_CODE: Mapping[tuple[int, int, int], str] = {
    (0, 0, 0): UNSEEN,
    (1, 0, 0): EMPTY,
    **{
        (_NUMBER_OF[kind], colour, _STATES.index(state) if state else 0): letter_of_colour + letter
        for letter, (kind, state) in KINDS.items()
        for colour, letter_of_colour in enumerate(COLOURS)
    },
}
"""Minigrid's three numbers of a cell -> its code."""
_SYMBOL = {code: symbol for symbol, code in _CODE.items()}


@dataclass(frozen=True, kw_only=True)
class Thing:
    """A thing that can be seen: everything but walls and floor."""

    name: str
    """`red ball`."""
    state: str
    """Of a door; `""` of others."""
    row: int
    column: int

    @property
    def ahead(self) -> int:
        """Steps ahead of the agent."""
        return AGENT[0] - self.row

    @property
    def right(self) -> int:
        """Steps to its right; below 0 to its left."""
        return self.column - AGENT[1]

    @property
    def place(self) -> str:
        """`2 ahead 1 left`; `held` of what the agent carries."""
        if (self.row, self.column) == AGENT:
            return "held"
        parts = [f"{self.ahead} ahead"] if self.ahead else []
        if self.right:
            parts.append(f"{abs(self.right)} {'right' if self.right > 0 else 'left'}")
        return " ".join(parts)

    def words(self) -> str:
        """`blue door 3 ahead closed`."""
        return " ".join(filter(None, (self.name, self.place, self.state)))


def code_of(symbol: Sequence[int]) -> str:
    """The two characters of a cell of Minigrid's encoding."""
    return _CODE[int(symbol[0]), int(symbol[1]), int(symbol[2])]


def rows_of(cells: np.ndarray) -> tuple[str, ...]:
    """uint8 [width, height, 3], Minigrid's encoding of a grid or a view -> its rows."""
    width, height = cells.shape[:2]
    return tuple("".join(code_of(cells[x, y]) for x in range(width)) for y in range(height))


def symbols_of(rows: Sequence[str]) -> np.ndarray:
    """The inverse of `rows_of`: of a view 147 bytes. Raises PilotageError for rows that are none."""
    try:
        found = [[_SYMBOL[code] for code in codes_of(row)] for row in rows]
        return np.array(found, dtype=np.uint8).transpose(1, 0, 2)
    except (KeyError, ValueError, TypeError) as error:
        raise PilotageError(f"a view or a grid has cells that are none: {str(error)[:60]}") from None


def codes_of(row: str) -> list[str]:
    """The cells of a row."""
    return [row[place : place + 2] for place in range(0, len(row), 2)]


def name_of(code: str) -> str:
    """`red ball`, `wall`; `""` of what is empty or unseen."""
    if code in (UNSEEN, EMPTY):
        return ""
    kind = KINDS[code[1]][0]
    return kind if kind in ("wall", "floor") else f"{COLOURS[code[0]]} {kind}"


def state_of(code: str) -> str:
    """Of a door `open`, `closed` or `locked`; else `""`."""
    return "" if code in (UNSEEN, EMPTY) else KINDS[code[1]][1]


def can_be_entered(code: str) -> bool:
    """Whether one can stand there."""
    return code == EMPTY or (
        code != UNSEEN and KINDS[code[1]] in (("door", "open"), ("floor", ""), ("goal", ""))
    )


def things(view: Sequence[str]) -> list[Thing]:
    """What is in the view, the nearest first and what is held before all else."""
    found = [
        Thing(name=name_of(code), state=state_of(code), row=row, column=column)
        for row, text in enumerate(view)
        for column, code in enumerate(codes_of(text))
        if code not in (UNSEEN, EMPTY) and KINDS[code[1]][0] not in ("wall", "floor")
    ]
    return sorted(found, key=lambda thing: (thing.ahead + abs(thing.right), thing.ahead, thing.column))


def held(view: Sequence[str]) -> str:
    """The name of what is carried; `""` for nothing."""
    return name_of(codes_of(view[AGENT[0]])[AGENT[1]])


def ahead(view: Sequence[str]) -> str:
    """The code of the cell right before the agent."""
    return codes_of(view[AGENT[0] - 1])[AGENT[1]]


def matches(name: str, wanted: str) -> bool:
    """Whether a thing of this name is what is meant: `ball`, `red object` and `object` leave something open."""
    colour, _, kind = name.partition(" ")
    if not kind:  # a wall, the floor, nothing
        return bool(name) and name == wanted
    words = wanted.lower().split()
    kinds = [word for word in words if word not in COLOURS.values()]
    colours = [word for word in words if word in COLOURS.values()]
    return (
        bool(words)
        and all(word == colour for word in colours)
        and all(word in (kind, "object") for word in kinds)
    )


def boxes(view: Sequence[str], wanted: str, tile_px: int) -> list[tuple[int, int, int, int]]:
    """(left, top, right, bottom), in pixels, of everything in the view that is meant, but for what is held."""
    return [
        (tile_px * thing.column, tile_px * thing.row, tile_px * (thing.column + 1), tile_px * (thing.row + 1))
        for thing in things(view)
        if (thing.row, thing.column) != AGENT and matches(thing.name, wanted)
    ]


def facts_of(view: Sequence[str]) -> dict[str, str]:
    """The view in words: what a model is told in place of the picture."""
    before = ahead(view)
    return {
        "Held": held(view) or "nothing",
        "Ahead": " ".join(filter(None, (name_of(before), state_of(before)))) or "free",
        "Things": ", ".join(each.words() for each in things(view) if each.place != "held") or "none",
        "View": " / ".join(" ".join(codes_of(row)) for row in view),
    }


def draw(view: Sequence[str], tile_px: int) -> np.ndarray:
    """uint8 [7 * tile_px, 7 * tile_px, 3]: bit for bit what Minigrid's RGBImgPartialObsWrapper draws of it."""
    table = _tiles(tile_px)
    places = np.array([[_PLACE[code] for code in codes_of(row)] for row in view])
    places[AGENT] += len(_PLACE)
    tiles = table[places]
    return tiles.transpose(0, 2, 1, 3, 4).reshape(SIDE * tile_px, SIDE * tile_px, 3)


_PLACE = {code: place for place, code in enumerate(_SYMBOL)}
"""Where a cell's tile is in the table; behind all of them, in the same order, those with the agent on top."""


@lru_cache(maxsize=8)
def _tiles(tile_px: int) -> np.ndarray:
    """uint8 [tiles, tile_px, tile_px, 3]: every cell that there can be, drawn once."""
    from minigrid.core.grid import Grid
    from minigrid.core.world_object import WorldObj

    def tile(code: str, agent: int | None) -> Any:
        # One that is drawn from its numbers may lack what is inside, which is never drawn.
        thing = WorldObj.decode(*_SYMBOL[code])
        return Grid.render_tile(thing, agent_dir=agent, highlight=code != UNSEEN, tile_size=tile_px)

    # Tiles come as floats, which Minigrid cuts off when it puts them into a picture.
    return np.stack([tile(code, agent) for agent in (None, 3) for code in _PLACE]).astype(np.uint8)


def every_code() -> Iterator[str]:
    """The codes of all cells that there can be."""
    return iter(_PLACE)

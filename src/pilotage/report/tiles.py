"""Levels as the browser draws them: a strip of tiles a task, and one character a cell; or a picture as it is."""

from __future__ import annotations

import base64
from functools import lru_cache
from typing import Any

import numpy as np

from pilotage.worlds.drawing import encode_png
from pilotage.worlds.task import Draws, DrawsTiles

TILE_PX = 96
PICTURE_CELL_PX = 32
ALPHABET = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ-_.:;,!?()[]{}*+=/|@#$%^~"
"""One character a kind of cell; none of them means anything in HTML or JSON."""


@lru_cache(maxsize=32)
def task_strip(task: DrawsTiles[Any]) -> str:
    """Every kind of cell side by side, `TILE_PX` px each, as a PNG in a data URI."""
    tiles = task.tiles(TILE_PX)
    strip = tiles.palette[tiles.indices.transpose(1, 0, 2).reshape(TILE_PX, -1)]
    return f"data:image/png;base64,{base64.b64encode(encode_png(strip)).decode('ascii')}"


def picture_uri(task: Draws[Any], state: Any) -> str:
    """The state's picture as a PNG in a data URI, for a world that draws it as a whole."""
    png = encode_png(task.draw(state, PICTURE_CELL_PX))
    return f"data:image/png;base64,{base64.b64encode(png).decode('ascii')}"


def tile_kinds_text(task: DrawsTiles[Any], state: Any) -> str | list[int]:
    """The kind of every cell in row-major order: a character each, or numbers where a task has very many."""
    kinds: np.ndarray = task.tile_kinds(state).ravel()
    if int(kinds.max()) >= len(ALPHABET):
        return [int(kind) for kind in kinds]
    return "".join(ALPHABET[kind] for kind in kinds)

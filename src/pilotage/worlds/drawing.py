"""Pictures out of tiles: each kind of cell is drawn once per size, a level is a table look-up."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

import numpy as np
from PIL import Image, ImageDraw

from pilotage.errors import PilotageError

RGB = tuple[int, int, int]
S = TypeVar("S")
S_contra = TypeVar("S_contra", contravariant=True)
SUPERSAMPLE = 4
MIN_CELL_PX = 4
MAX_CELL_PX = 512
MAX_SIDE_PX = 4096
MAX_COLOURS = 256
FIXED_SIDE_PX = 256
"""The side of the papers' pictures."""

Painter = Callable[[ImageDraw.ImageDraw, float], None]
"""Draws one kind of cell on a square canvas whose side is given in pixels."""


def paint_tile(side_px: int, background: RGB, painters: tuple[Painter, ...]) -> np.ndarray:
    """One anti-aliased tile, uint8 [side_px, side_px, 3]."""
    big = side_px * SUPERSAMPLE
    image = Image.new("RGB", (big, big), background)
    draw = ImageDraw.Draw(image)
    for painter in painters:
        painter(draw, float(big))
    return np.asarray(image.resize((side_px, side_px), Image.Resampling.BOX))


def disc(rgb: RGB, radius: float = 0.32, x: float = 0.5, y: float = 0.5) -> Painter:
    """A disc around (x, y); all three numbers are fractions of the cell."""

    def paint(draw: ImageDraw.ImageDraw, side: float) -> None:
        draw.ellipse(
            (side * (x - radius), side * (y - radius), side * (x + radius) - 1, side * (y + radius) - 1),
            fill=rgb,
        )

    return paint


def square(rgb: RGB, half: float = 0.3) -> Painter:
    """A square around the cell's middle; `half` is half a side, as a fraction of the cell."""

    def paint(draw: ImageDraw.ImageDraw, side: float) -> None:
        a, b = side * (0.5 - half), side * (0.5 + half)
        draw.rectangle((a, a, b - 1, b - 1), fill=rgb)

    return paint


def polygon(rgb: RGB, points: tuple[tuple[float, float], ...]) -> Painter:
    """A polygon with corners as (x, y) fractions of the cell."""

    def paint(draw: ImageDraw.ImageDraw, side: float) -> None:
        draw.polygon([(x * side, y * side) for x, y in points], fill=rgb)

    return paint


def bars(rgb: RGB, sides: str, thickness: float = 0.125, posts: bool = False) -> Painter:
    """Bars along the sides named by letters of `LDRU`; `posts` fills the four corners as well."""

    def paint(draw: ImageDraw.ImageDraw, side: float) -> None:
        t = max(1.0, side * thickness)
        boxes = {
            "U": (0, 0, side, t),
            "D": (0, side - t, side, side),
            "L": (0, 0, t, side),
            "R": (side - t, 0, side, side),
        }
        for name in sides:
            x0, y0, x1, y1 = boxes[name]
            draw.rectangle((x0, y0, x1 - 1, y1 - 1), fill=rgb)
        if posts:
            for x in (0, side - t):
                for y in (0, side - t):
                    draw.rectangle((x, y, x + t - 1, y + t - 1), fill=rgb)

    return paint


def frame(rgb: RGB, thickness: float = 0.03) -> Painter:
    """A thin line around the cell, so that neighbouring cells can be told apart."""
    return bars(rgb, "LDRU", thickness)


@dataclass(frozen=True, kw_only=True)
class TileSet:
    """Every kind of cell of one task at one size, as palette indices."""

    indices: np.ndarray
    """uint8 [K, P, P]: K kinds of cell, P px a side."""
    palette: np.ndarray
    """uint8 [C, 3], at most 256 colours."""


class Drawable(Protocol[S_contra]):
    """What this module needs of a task: a tile per kind of cell, and which kind stands where."""

    def level_of(self, state: S_contra) -> int: ...

    def tiles(self, cell_px: int) -> TileSet: ...

    def tile_kinds(self, state: S_contra) -> np.ndarray: ...


def tile_set(tiles: Sequence[np.ndarray]) -> TileSet:
    """RGB tiles [P, P, 3] as one indexed set; beyond 256 colours the rarest give way to their nearest kin."""
    pixels = np.stack(tiles)
    packed = (pixels.astype(np.uint32) * (1 << 16, 1 << 8, 1)).sum(axis=-1, dtype=np.uint32)
    colours, counts = np.unique(packed, return_counts=True)
    rgb = _unpack(colours)
    kept = np.sort(np.argsort(-counts, kind="stable")[:MAX_COLOURS])
    distance = np.abs(rgb[:, None].astype(int) - rgb[kept][None]).sum(axis=-1)
    index_of = distance.argmin(axis=1).astype(np.uint8)
    return TileSet(indices=index_of[np.searchsorted(colours, packed)], palette=rgb[kept])


def with_tile(tiles: TileSet, tile: np.ndarray) -> TileSet:
    """The set and one more RGB tile [P, P, 3], drawn in the nearest colours of the set's own palette."""
    colours, place = np.unique(tile.reshape(-1, 3), axis=0, return_inverse=True)
    distance = np.abs(colours[:, None].astype(int) - tiles.palette[None].astype(int)).sum(axis=-1)
    one = distance.argmin(axis=1).astype(np.uint8)[place].reshape(1, *tile.shape[:2])
    return TileSet(indices=np.concatenate((tiles.indices, one)), palette=tiles.palette)


def draw(task: Drawable[S], state: S, cell_px: int) -> np.ndarray:
    """The picture, uint8 [level*cell_px, level*cell_px, 3]."""
    tiles, indices = _compose(task, state, cell_px)
    return tiles.palette[indices]


def render_png(
    task: Drawable[S], state: S, *, cell_px: int | None = None, side_px: int | None = None
) -> bytes:
    """The picture as PNG bytes, either at `cell_px` a cell or on a square canvas of `side_px`.

    The canvas keeps whole pixels per cell, so that cells stay aligned; what is left over is an even margin.
    This is the fast path: palette indices from tile to file, no look at single pixels.
    """
    if (cell_px is None) == (side_px is None):
        raise PilotageError(f"give cell_px or side_px, not both or none: {cell_px!r} and {side_px!r}")
    if cell_px is not None:
        tiles, indices = _compose(task, state, cell_px)
    else:
        assert side_px is not None
        tiles, indices = _compose_fixed(task, state, side_px)
    image = Image.fromarray(indices)
    image.putpalette(tiles.palette.tobytes())
    return _png_bytes(image)


def encode_png(pixels: np.ndarray) -> bytes:
    """Lossless PNG bytes of any uint8 [H, W, 3]."""
    return _png_bytes(Image.fromarray(pixels))


def decode_png(png: bytes) -> np.ndarray:
    """uint8 [H, W, 3] of PNG bytes, read-only. Raises PilotageError where the bytes are no picture."""
    try:
        pixels = np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))
    except (OSError, SyntaxError, ValueError) as error:
        raise PilotageError(f"{len(png)} bytes from {png[:8]!r} on are not a PNG picture: {error}") from error
    pixels.flags.writeable = False
    return pixels


def check_cell_px(cell_px: int, level: int) -> None:
    """Raises PilotageError for a size out of range, and for a picture of more than MAX_SIDE_PX a side."""
    if not _is_whole(cell_px) or not MIN_CELL_PX <= cell_px <= MAX_CELL_PX:
        raise PilotageError(
            f"cell_px is {cell_px!r}: a whole number of px per cell from {MIN_CELL_PX} to {MAX_CELL_PX}"
        )
    if cell_px * level > MAX_SIDE_PX:
        raise PilotageError(
            f"{level} cells of {cell_px} px exceed {MAX_SIDE_PX} px a side: ask for smaller cells"
        )


def _compose(task: Drawable[S], state: S, cell_px: int) -> tuple[TileSet, np.ndarray]:
    """The tiles and the picture as indices into their palette, uint8 [N*P, N*P]."""
    n = task.level_of(state)
    check_cell_px(cell_px, n)
    tiles = task.tiles(cell_px)
    grid = tiles.indices[task.tile_kinds(state)]
    return tiles, grid.transpose(0, 2, 1, 3).reshape(n * cell_px, n * cell_px)


def _compose_fixed(task: Drawable[S], state: S, side_px: int) -> tuple[TileSet, np.ndarray]:
    n = task.level_of(state)
    if not _is_whole(side_px) or not MIN_CELL_PX <= side_px <= MAX_SIDE_PX:
        raise PilotageError(f"side_px is {side_px!r}: a whole number from {MIN_CELL_PX} to {MAX_SIDE_PX} px")
    if side_px < n * MIN_CELL_PX:
        raise PilotageError(f"level {n} does not fit a {side_px} px picture: use px per cell instead")
    tiles, inner = _compose(task, state, min(side_px // n, MAX_CELL_PX))
    before = (side_px - inner.shape[0]) // 2
    canvas = np.full((side_px, side_px), tiles.indices[0, 0, 0], dtype=np.uint8)
    canvas[before : before + inner.shape[0], before : before + inner.shape[1]] = inner
    return tiles, canvas


def _unpack(colours: np.ndarray) -> np.ndarray:
    return np.stack([colours >> 16, colours >> 8 & 255, colours & 255], axis=-1).astype(np.uint8)


def _png_bytes(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)

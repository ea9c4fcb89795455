"""Pictures out of tiles: each kind of cell is drawn once per size, a level is a table look-up."""

from __future__ import annotations

import io
from collections.abc import Callable
from functools import lru_cache

import numpy as np
from PIL import Image, ImageDraw

from pilotage.errors import PilotageError

RGB = tuple[int, int, int]
SUPERSAMPLE = 4
MIN_CELL_PX = 4
MAX_SIDE_PX = 8192
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


def check_cell_px(cell_px: int, level: int) -> None:
    if isinstance(cell_px, bool) or not isinstance(cell_px, int) or cell_px < MIN_CELL_PX:
        raise PilotageError(
            f"cell_px is {cell_px!r}: draw with a whole number of at least {MIN_CELL_PX} px per cell"
        )
    if cell_px * level > MAX_SIDE_PX:
        raise PilotageError(
            f"{level} cells of {cell_px} px exceed {MAX_SIDE_PX} px a side: ask for smaller cells"
        )


def compose(tiles: np.ndarray, kinds: np.ndarray) -> np.ndarray:
    """The picture of a grid: tiles [K, P, P, 3] picked by kinds [N, N] -> uint8 [N*P, N*P, 3]."""
    n, p = kinds.shape[0], tiles.shape[1]
    return tiles[kinds].transpose(0, 2, 1, 3, 4).reshape(n * p, n * p, 3)


def fixed_canvas(draw: Callable[[int], np.ndarray], level: int, side_px: int = FIXED_SIDE_PX) -> np.ndarray:
    """The picture centred on a `side_px` square with whole pixels per cell, so that cells stay aligned."""
    if level > side_px // MIN_CELL_PX:
        raise PilotageError(f"level {level} does not fit a {side_px} px picture: use px per cell instead")
    inner = draw(side_px // level)
    margin = side_px - inner.shape[0]
    before, after = margin // 2, margin - margin // 2
    return np.pad(inner, ((before, after), (before, after), (0, 0)), mode="edge")


def encode_png(pixels: np.ndarray) -> bytes:
    """Lossless PNG bytes of uint8 [H, W, 3]; indexed colour where at most 256 colours allow it."""
    packed = pixels[..., 0].astype(np.uint32) << 16 | pixels[..., 1].astype(np.uint32) << 8 | pixels[..., 2]
    image = _indexed(packed) or Image.fromarray(pixels)
    buffer = io.BytesIO()
    image.save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def _indexed(packed: np.ndarray) -> Image.Image | None:
    colours = _colours(packed)
    if len(colours) > 256:
        return None
    image = Image.fromarray(np.searchsorted(colours, packed).astype(np.uint8), "P")
    palette = np.stack([colours >> 16, colours >> 8 & 255, colours & 255], axis=1).astype(np.uint8)
    image.putpalette(palette.tobytes())
    return image


def _colours(packed: np.ndarray) -> np.ndarray:
    return np.unique(packed)


@lru_cache(maxsize=64)
def _decode_cached(png: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))


def decode_png(png: bytes) -> np.ndarray:
    """uint8 [H, W, 3] of PNG bytes."""
    return _decode_cached(png)

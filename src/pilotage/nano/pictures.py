"""Pictures that are none of the tasks': coloured shapes and bars on grids, with questions about them.

A real base model sees well in general and reads the tasks' drawings badly. The nano base gets its general
eyesight here: it learns to locate things on a grid and to name them, in drawings of other colours, shapes and
words than any task uses, and it never plans from a picture.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from PIL import ImageDraw

from pilotage.worlds.drawing import Painter, paint_tile
from pilotage.worlds.grid import cell_text

CELL_PX = 32

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (225, 60, 60),
    "green": (60, 190, 90),
    "blue": (50, 90, 220),
    "yellow": (240, 205, 50),
    "pink": (240, 130, 190),
    "brown": (130, 80, 40),
    "grey": (130, 130, 130),
    "black": (15, 15, 15),
    "white": (245, 245, 245),
    "cyan": (70, 200, 220),
}
SIDES = "LDRU"


MAX_LEVEL = 6
SHAPES = ("box", "tent", "kite", "post", "arrow", "ball", "ring", "block")


@dataclass(frozen=True, kw_only=True)
class PictureQuestion:
    """A random picture of N cells a side, a question about it and the answer."""

    pixels: np.ndarray
    """uint8 [N*32, N*32, 3]."""
    question: str
    answer: str
    cells: tuple[tuple[str, ...], ...]
    """Words that are true of each cell, row-major: its place, then what stands there or which sides have bars."""


def sample_question(
    rng: np.random.Generator, levels: tuple[int, ...] = (3, 4, 5, MAX_LEVEL)
) -> PictureQuestion:
    """One picture with one question, either of shapes or of bars."""
    level = int(rng.choice(levels))
    return _shapes_question(rng, level) if rng.random() < 0.6 else _bars_question(rng, level)


def _shapes_question(rng: np.random.Generator, level: int) -> PictureQuestion:
    names = list(COLOURS)
    background, *colours = (names[i] for i in rng.permutation(len(names))[:5])
    kinds = [
        (str(rng.choice(colours)), str(rng.choice(list(_shapes())))) for _ in range(int(rng.integers(1, 5)))
    ]
    density = rng.uniform(0.08, 0.6)
    things = np.where(rng.random((level, level)) < density, rng.integers(len(kinds), size=(level, level)), -1)
    lone = [i for i in range(len(kinds)) if rng.random() < 0.5]
    for i in lone:
        things[things == i] = -1
        things[tuple(rng.integers(level, size=2))] = i
    alpha = np.zeros((level, level, CELL_PX, CELL_PX), np.float32)
    paint = np.zeros((level, level, 3), np.float32)
    cells: dict[tuple[int, int], str] = {}
    for r, c in np.argwhere(things >= 0).tolist():
        colour, shape = kinds[things[r, c]]
        alpha[r, c] = _shapes()[shape][int(rng.integers(2))]
        paint[r, c] = COLOURS[colour]
        cells[r, c] = f"{colour} {shape}"
    pixels = _blend(rng, background, alpha, paint)
    grid = [(r, c) for r in range(level) for c in range(level)]
    true_of = tuple((cell_text(cell), *cells.get(cell, "empty").split()) for cell in grid)
    words = sorted({f"{colour} {shape}" for colour, shape in kinds})
    draw = rng.random()
    if draw < 0.35:
        listed = " ".join(" ".join(words_of_cell) for words_of_cell in true_of)
        return PictureQuestion(pixels=pixels, question="Name every cell.", answer=f"{listed}.", cells=true_of)
    if draw < 0.9:
        order = [words[i] for i in rng.permutation(len(words))]
        found = ". ".join(
            f"{word}: "
            + (" ".join(cell_text(cell) for cell in sorted(cells) if cells[cell] == word) or "none")
            for word in order
        )
        return PictureQuestion(
            pixels=pixels,
            question=f"Count the rows, then find: {', '.join(order)}.",
            answer=f"{level} rows. {found}.",
            cells=true_of,
        )
    asked = (int(rng.integers(level)), int(rng.integers(level)))
    return PictureQuestion(
        pixels=pixels,
        question=f"What stands in {cell_text(asked)}?",
        answer=f"{cells.get(asked, 'empty')}.",
        cells=true_of,
    )


def _bars_question(rng: np.random.Generator, level: int) -> PictureQuestion:
    names = list(COLOURS)
    background, colour, other = (names[i] for i in rng.permutation(len(names))[:3])
    masks = rng.integers(16, size=(level, level)) & rng.integers(16, size=(level, level))
    masks |= np.where(rng.random((level, level)) < 0.3, rng.integers(16, size=(level, level)), 0)
    alpha = _bars()[int(rng.integers(len(_bars())))][masks]
    paint = np.broadcast_to(np.array(COLOURS[colour], np.float32), (level, level, 3)).copy()
    pixels = _blend(rng, background, alpha, paint)
    spots = [tuple(x) for x in rng.integers(level, size=(int(rng.integers(0, 3)), 2)).tolist()]
    if spots:
        shape = list(_shapes())[int(rng.integers(len(_shapes())))]
        spot_alpha = np.zeros((level, level, CELL_PX, CELL_PX), np.float32)
        for cell in spots:
            spot_alpha[cell] = _shapes()[shape][1]
        spot_paint = np.broadcast_to(np.array(COLOURS[other], np.float32), (level, level, 3))
        pixels = _over(pixels, spot_alpha, spot_paint)
    grid = [(r, c) for r in range(level) for c in range(level)]
    true_of = tuple((cell_text(cell), _sides_text(int(masks[cell]))) for cell in grid)
    if rng.random() < 0.5:
        question, said = "Name the bars of every cell.", true_of
    else:
        question = "Name the free sides of every cell."
        said = tuple((cell_text(cell), _sides_text(15 - int(masks[cell]))) for cell in grid)
    listed = " ".join(" ".join(words) for words in said)
    return PictureQuestion(pixels=pixels, question=question, answer=f"{listed}.", cells=true_of)


def word_groups() -> tuple[tuple[str, ...], ...]:
    """Words that exclude each other in a cell: places, colours (or empty), shapes, sets of barred sides."""
    return (
        tuple(cell_text((r, c)) for r in range(MAX_LEVEL) for c in range(MAX_LEVEL)),
        (*COLOURS, "empty"),
        SHAPES,
        tuple(_sides_text(mask) for mask in range(16)),
    )


def _sides_text(mask: int) -> str:
    return "".join(side for bit, side in enumerate(SIDES) if mask >> bit & 1) or "none"


def _blend(rng: np.random.Generator, background: str, alpha: np.ndarray, paint: np.ndarray) -> np.ndarray:
    """The drawing on a plain or framed background with a little noise in its colours; float -> uint8."""
    level = alpha.shape[0]
    ground = np.array(COLOURS[background], np.float32) + rng.normal(0, 8, 3).astype(np.float32)
    canvas = np.broadcast_to(ground, (level * CELL_PX, level * CELL_PX, 3)).astype(np.float32)
    if rng.random() < 0.7:
        line = ground + rng.normal(0, 35, 3).astype(np.float32)
        canvas = canvas.copy()
        for k in range(level):
            canvas[k * CELL_PX, :] = line
            canvas[:, k * CELL_PX] = line
    paint = paint + rng.normal(0, 8, paint.shape).astype(np.float32)
    return _over(canvas, alpha, paint)


def _over(canvas: np.ndarray, alpha: np.ndarray, paint: np.ndarray) -> np.ndarray:
    level = alpha.shape[0]
    side = level * CELL_PX
    a = alpha.transpose(0, 2, 1, 3).reshape(side, side, 1)
    colour = np.repeat(np.repeat(paint, CELL_PX, axis=0), CELL_PX, axis=1)
    return np.clip(canvas * (1 - a) + colour * a, 0, 255).astype(np.uint8)


def _mask(*painters: Painter) -> np.ndarray:
    return paint_tile(CELL_PX, (0, 0, 0), painters)[..., 0].astype(np.float32) / 255


def _polygon(points: tuple[tuple[float, float], ...], scale: float) -> Painter:
    def paint(draw: ImageDraw.ImageDraw, side: float) -> None:
        draw.polygon(
            [((0.5 + (x - 0.5) * scale) * side, (0.5 + (y - 0.5) * scale) * side) for x, y in points],
            fill=(255, 255, 255),
        )

    return paint


@lru_cache(maxsize=1)
def _shapes() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Shape -> coverage [32, 32] in two sizes."""

    def ellipse(scale: float, hollow: bool) -> Painter:
        def paint(draw: ImageDraw.ImageDraw, side: float) -> None:
            a, b = side * (0.5 - 0.4 * scale), side * (0.5 + 0.4 * scale)
            draw.ellipse((a, a, b, b), fill=(255, 255, 255))
            if hollow:
                a, b = side * (0.5 - 0.22 * scale), side * (0.5 + 0.22 * scale)
                draw.ellipse((a, a, b, b), fill=(0, 0, 0))

        return paint

    outlines = {
        "box": ((0.12, 0.12), (0.88, 0.12), (0.88, 0.88), (0.12, 0.88)),
        "tent": ((0.5, 0.1), (0.92, 0.88), (0.08, 0.88)),
        "kite": ((0.5, 0.05), (0.95, 0.5), (0.5, 0.95), (0.05, 0.5)),
        "post": ((0.38, 0.05), (0.62, 0.05), (0.62, 0.95), (0.38, 0.95)),
        "arrow": ((0.1, 0.1), (0.9, 0.5), (0.1, 0.9)),
    }
    shapes = {
        name: (_mask(_polygon(points, 0.75)), _mask(_polygon(points, 1.0)))
        for name, points in outlines.items()
    }
    shapes["ball"] = (_mask(ellipse(0.7, False)), _mask(ellipse(1.0, False)))
    shapes["ring"] = (_mask(ellipse(0.8, True)), _mask(ellipse(1.0, True)))
    shapes["block"] = (np.ones((CELL_PX, CELL_PX), np.float32), np.ones((CELL_PX, CELL_PX), np.float32))
    assert tuple(shapes) == SHAPES
    return shapes


@lru_cache(maxsize=1)
def _bars() -> tuple[np.ndarray, ...]:
    """Coverage [16, 32, 32] of every set of sides, in three thicknesses."""
    widths = []
    for thickness in (3, 5, 8):
        masks = np.zeros((16, CELL_PX, CELL_PX), np.float32)
        for mask in range(16):
            for bit, side in enumerate(SIDES):
                if mask >> bit & 1:
                    index: dict[str, tuple[slice, slice]] = {
                        "L": (slice(None), slice(0, thickness)),
                        "R": (slice(None), slice(CELL_PX - thickness, None)),
                        "U": (slice(0, thickness), slice(None)),
                        "D": (slice(CELL_PX - thickness, None), slice(None)),
                    }
                    masks[mask][index[side]] = 1
        widths.append(masks)
    return tuple(widths)

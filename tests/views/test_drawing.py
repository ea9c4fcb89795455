"""Pictures: aligned cells, lossless files, and colours that are what the prompts say."""

from __future__ import annotations

import io
import re
from collections import Counter
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pilotage.errors import PilotageError
from pilotage.views.prompts import PROMPT_SETS, prompt_template
from pilotage.worlds import TASKS, Task, drawing, get_task
from pilotage.worlds.drawing import decode_png, encode_png, render_png
from pilotage.worlds.grids.views import task_content
from pilotage.worlds.task import worked_state

every_task = pytest.mark.parametrize("task", TASKS, ids=lambda task: task.name)

NAMED_COLOURS = {
    "black": [(0, 0, 0)],
    "grey": [(128, 128, 128), (70, 70, 70)],
    "white": [(255, 255, 255)],
    "red": [(220, 20, 20)],
    "orange": [(255, 140, 0)],
    "yellow": [(255, 215, 0), (255, 255, 0)],
    "green": [(0, 128, 0), (50, 180, 80)],
    "cyan": [(0, 220, 220)],
    "pale blue": [(173, 216, 230), (215, 240, 255)],
    "blue": [(0, 0, 255), (50, 100, 220)],
    "navy": [(0, 0, 128), (20, 40, 90)],
    "purple": [(128, 0, 128)],
    "pink": [(255, 182, 193)],
    "tan": [(210, 180, 140)],
    "brown": [(120, 70, 30)],
}
"""Names as people use them, chosen without a look at any task's legend."""


def name_of(rgb: Any) -> str:
    """The nearest named colour."""
    distance = {
        name: min(sum((int(a) - b) ** 2 for a, b in zip(rgb, anchor, strict=True)) for anchor in anchors)
        for name, anchors in NAMED_COLOURS.items()
    }
    return min(distance, key=lambda name: distance[name])


def cell_of(task: Task[Any], state: Any, cell: tuple[int, int], cell_px: int = 32) -> np.ndarray:
    r, c = cell
    return task.draw(state, cell_px)[r * cell_px : (r + 1) * cell_px, c * cell_px : (c + 1) * cell_px]


def colours_by_area(pixels: np.ndarray) -> list[tuple[int, ...]]:
    counts = Counter(map(tuple, pixels.reshape(-1, 3).tolist()))
    return [rgb for rgb, _ in counts.most_common()]


def things_in(task: Task[Any], state: Any) -> dict[str, list[tuple[int, int]]]:
    """Recital field -> its cells, for fields that are nothing but cells."""
    fields = task.recital(state)
    pattern = re.compile(r"(\(\d+,\d+\) ?)+")
    return {
        name.lower(): [(int(r), int(c)) for r, c in re.findall(r"\((\d+),(\d+)\)", text)]
        for name, text in fields.items()
        if pattern.fullmatch(text)
    }


def pixels_of_things(task: Task[Any], cell_px: int = 32) -> dict[str, tuple[int, ...]]:
    """Every thing of the legend -> its colour, read off a picture's pixels.

    A thing that the recital places has the most frequent colour of its cells that no empty cell shows. The
    ground has the most frequent colour of empty cells, a wall the next one.
    """
    state = state_with_everything(task)
    placed = things_in(task, state)
    level = task.level_of(state)
    taken = {cell for cells in placed.values() for cell in cells}
    empty = [(r, c) for r in range(level) for c in range(level) if (r, c) not in taken]
    background = colours_by_area(np.stack([cell_of(task, state, cell, cell_px) for cell in empty]))
    seen = {}
    for thing in task.legend:
        cells = next((placed[field] for field in placed if field in (thing, f"{thing}s")), None)
        if cells is None:
            seen[thing] = background[1 if thing == "wall" else 0]
        else:
            [seen[thing]] = {
                next(
                    rgb
                    for rgb in colours_by_area(cell_of(task, state, cell, cell_px))
                    if rgb not in background
                )
                for cell in cells
            }
    return seen


def state_with_everything(task: Task[Any]) -> Any:
    """A state in which every thing stands somewhere."""
    rng = np.random.default_rng(5)
    state = task.generate(task.levels[0], rng)
    while any(text == "none" for text in task.recital(state).values()):
        state = task.generate(task.levels[0], rng)
    return state


def colours_seen(task: Task[Any]) -> dict[str, str]:
    return {thing: name_of(rgb) for thing, rgb in pixels_of_things(task).items()}


def colours_named(text: str, things: list[str]) -> dict[str, str]:
    """Thing -> the colour that a text says it has: `X is the red figure`, `Xs are navy discs`, `white Xs`."""
    colour = "|".join(sorted(NAMED_COLOURS, key=len, reverse=True))
    named = {}
    for thing in things:
        noun = rf"\b{thing}s?\b"
        forms = (rf"{noun} (?:is|are) (?:an? |the )?({colour})\b", rf"\b({colour}) {noun}")
        found = {match for form in forms for match in re.findall(form, text)}
        assert len(found) <= 1, f"{thing} is told to be {found}"
        if found:
            named[thing] = found.pop()
    return named


@every_task
def test_the_legend_names_the_colours_on_the_picture(task: Task[Any]) -> None:
    assert colours_seen(task) == {thing: swatch.colour for thing, swatch in task.legend.items()}


@every_task
@pytest.mark.parametrize("cell_px", [12, 16, 32, 51, 85])
def test_things_are_painted_in_exactly_their_legend_s_colour(task: Task[Any], cell_px: int) -> None:
    legend = {thing: swatch.rgb for thing, swatch in task.legend.items()}
    assert pixels_of_things(task, cell_px) == legend


@every_task
@pytest.mark.parametrize("prompts", PROMPT_SETS)
def test_prompts_tell_the_colours_that_the_picture_shows(task: Task[Any], prompts: Any) -> None:
    seen = colours_seen(task)
    for name in ("student", "perception"):
        text = prompt_template("pilotage.worlds.grids", prompts, name).substitute(
            task_content(task.name, prompts)
        )
        named = colours_named(text, list(task.legend))
        assert named == {thing: seen[thing] for thing in named}
        if prompts == "full":
            assert set(named) == set(task.legend), "the full rules tell the colour of everything"
        words = re.findall(rf"\b({'|'.join(sorted(NAMED_COLOURS, key=len, reverse=True))})\b", text)
        assert sorted(set(words)) == sorted(set(named.values())), "a colour is named beside nothing we know"


def test_swapped_colours_would_be_noticed() -> None:
    """MGSD's release swapped agent and printer; the reader above must tell such a text from ours."""
    rules = get_task("minibehaviour").rules["full"]
    swapped = rules.replace("red triangle", "white triangle").replace("white box", "red box")
    named = colours_named(swapped, ["agent", "printer", "table", "floor"])
    assert named == {"agent": "white", "printer": "red", "table": "tan", "floor": "black"}
    assert named != colours_seen(get_task("minibehaviour"))


@every_task
@pytest.mark.parametrize("level_step", [0, -1])
def test_the_fixed_canvas_keeps_whole_cells_in_an_even_margin(task: Task[Any], level_step: int) -> None:
    rng = np.random.default_rng(1)
    state = task.generate(task.levels[level_step], rng)
    level = task.level_of(state)
    picture = decode_png(render_png(task, state, side_px=256))
    assert picture.shape == (256, 256, 3)
    cell_px = 256 // level
    before = (256 - cell_px * level) // 2
    inner = picture[before : before + cell_px * level, before : before + cell_px * level]
    assert np.array_equal(inner, task.draw(state, cell_px))
    outside = np.ones((256, 256), dtype=bool)
    outside[before : before + cell_px * level, before : before + cell_px * level] = False
    assert len(np.unique(picture[outside], axis=0)) <= 1


@every_task
def test_the_level_7_canvas_has_two_pixels_of_margin(task: Task[Any]) -> None:
    state = task.generate(7, np.random.default_rng(0))
    assert np.array_equal(
        decode_png(render_png(task, state, side_px=256))[2:254, 2:254], task.draw(state, 36)
    )


@every_task
@pytest.mark.parametrize(
    "canvas", [{"cell_px": 32}, {"cell_px": 7}, {"side_px": 256}, {"side_px": 100}], ids=str
)
def test_png_files_hold_the_picture_exactly(task: Task[Any], canvas: dict[str, int]) -> None:
    state = task.generate(task.levels[-1], np.random.default_rng(2))
    cell_px, side_px = canvas.get("cell_px"), canvas.get("side_px")
    png = render_png(task, state, cell_px=cell_px, side_px=side_px)
    if cell_px:
        assert np.array_equal(decode_png(png), task.draw(state, cell_px))
    with Image.open(io.BytesIO(png)) as image:
        image.verify()
        assert (image.format, image.mode) == ("PNG", "P")
    assert png == render_png(task, state, cell_px=cell_px, side_px=side_px)
    drawn = decode_png(png)
    assert np.array_equal(decode_png(encode_png(drawn)), drawn)


def test_any_pixels_survive_encoding() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (33, 47, 3), dtype=np.uint8)
    assert np.array_equal(decode_png(encode_png(pixels)), pixels)


def test_decoded_pixels_cannot_be_changed_by_accident() -> None:
    pixels = decode_png(encode_png(np.zeros((4, 4, 3), dtype=np.uint8)))
    with pytest.raises(ValueError, match="read-only"):
        pixels[0, 0] = 1


@pytest.mark.parametrize("png", [b"", b"GIF89a", b"\x89PNG\r\n\x1a\n", b"\x00" * 64])
def test_bytes_that_are_no_picture_are_an_error(png: bytes) -> None:
    with pytest.raises(PilotageError, match="not a PNG picture"):
        decode_png(png)
    cut = encode_png(np.zeros((64, 64, 3), dtype=np.uint8))[:-30]
    with pytest.raises(PilotageError, match="not a PNG picture"):
        decode_png(cut)


@every_task
@pytest.mark.parametrize("cell_px", [0, 3, -32, 513, 10**9, True, 32.0, "32"], ids=repr)
def test_absurd_pixels_per_cell_are_an_error(task: Task[Any], cell_px: Any) -> None:
    state = worked_state(task)
    for call in (lambda: task.draw(state, cell_px), lambda: render_png(task, state, cell_px=cell_px)):
        with pytest.raises(PilotageError, match="px per cell from 4 to 512"):
            call()


@every_task
def test_a_canvas_that_is_no_canvas_is_an_error(task: Task[Any]) -> None:
    state = task.generate(8, np.random.default_rng(0))
    for side_px in (0, 3, -1, 4097, 10**9, True, 256.0, "256"):
        with pytest.raises(PilotageError, match="side_px is"):
            render_png(task, state, side_px=side_px)  # pyright: ignore[reportArgumentType]
    with pytest.raises(PilotageError, match="level 8 does not fit a 31 px picture"):
        render_png(task, state, side_px=31)
    with pytest.raises(PilotageError, match="9 cells of 512 px exceed 4096 px a side"):
        task.draw(task.generate(9, np.random.default_rng(0)), 512)
    for both in ({}, {"cell_px": 32, "side_px": 256}):
        with pytest.raises(PilotageError, match="cell_px or side_px, not both or none"):
            render_png(task, state, **both)


@every_task
def test_the_largest_level_fits_the_fixed_canvas(task: Task[Any]) -> None:
    state = task.generate(64, np.random.default_rng(0))
    assert np.array_equal(decode_png(render_png(task, state, side_px=256)), task.draw(state, 4))


def test_a_tile_set_of_many_colours_keeps_the_frequent_ones_exactly() -> None:
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)
    plain = np.full((32, 32, 3), (10, 200, 30), dtype=np.uint8)
    tiles = drawing.tile_set([plain, noise])
    assert tiles.palette.shape == (256, 3)
    assert np.array_equal(tiles.palette[tiles.indices[0]], plain)
    few = rng.integers(0, 256, (32, 32, 3), dtype=np.uint8) // 128 * 128
    exact = drawing.tile_set([plain, few])
    assert np.array_equal(exact.palette[exact.indices], np.stack([plain, few]))

"""Variants of a view: the picture taken away, cut, or exchanged; everything else stays."""

from __future__ import annotations

import io
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pilotage.errors import PilotageError
from pilotage.records import Example, Observation, View
from pilotage.views.variants import OtherImages, cropped, varied


def png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def pixels(image: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(image)).convert("RGB"))


def numbered(height: int, width: int, first: int = 0) -> np.ndarray:
    """A picture whose pixels tell their row, their column and the picture's number."""
    rows, columns = np.mgrid[:height, :width]
    return np.stack([rows, columns, np.full_like(rows, first)], axis=-1).astype(np.uint8)


PICTURE = png(numbered(8, 12))
CONTENT = [{"type": "text", "text": "Plan."}, {"type": "image"}]
VIEW = View(
    name="student",
    messages=[{"role": "system", "content": "Be brief."}, {"role": "user", "content": CONTENT}],
    images=(PICTURE,),
)


def test_same_is_the_view_itself():
    assert varied(VIEW) == VIEW
    assert varied(VIEW, prefill="<think>") == replace(VIEW, prefill="<think>")
    assert varied(replace(VIEW, prefill="a")).prefill == "a"
    assert varied(replace(VIEW, prefill="a"), prefill="").prefill == ""


def test_without_the_picture_its_place_goes_too():
    blind = varied(VIEW, images="none")
    assert not blind.images
    assert list(blind.messages) == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "Plan."}]},
    ]
    assert VIEW.messages[1]["content"] == CONTENT  # the view itself is as it was


def test_another_picture_takes_its_place():
    other = png(numbered(8, 12, first=9))
    assert varied(VIEW, images="other", other=(other,)) == replace(VIEW, images=(other,))
    for too_few in (None, ()):
        with pytest.raises(PilotageError, match="OtherImages"):
            varied(VIEW, images="other", other=too_few)


@pytest.mark.parametrize("images", ["none", "crop", "other"])
def test_views_without_picture_stay_without(images):
    text = View(name="symbolic", messages=[{"role": "user", "content": "Plan."}])
    assert varied(text, images=images) == text


def test_a_crop_is_a_part_of_the_picture_in_its_size():
    part = pixels(cropped(PICTURE, share=0.5, seed=1))
    assert part.shape == (8, 12, 3)
    top, left = int(part[0, 0, 0]), int(part[0, 0, 1])
    expected = numbered(8, 12)[top : top + 4, left : left + 6].repeat(2, axis=0).repeat(2, axis=1)
    assert np.array_equal(part, expected)


def test_the_seed_decides_the_place_of_a_crop():
    crops = {cropped(PICTURE, share=0.5, seed=seed) for seed in range(20)}
    assert len(crops) > 5
    assert cropped(PICTURE, share=0.5, seed=3) == cropped(PICTURE, share=0.5, seed=3)
    assert varied(VIEW, images="crop", seed=3).images == (cropped(PICTURE, share=0.5, seed=3),)
    assert np.array_equal(pixels(cropped(PICTURE, share=1.0, seed=0)), pixels(PICTURE))


def example(name: str, *, task: str = "maze", level: int = 3, image: bytes | None = None) -> Example:
    return Example(
        id=name,
        world=task,
        split="train",
        axes={"level": level, "difficulty": "easy"},
        start=Observation(
            images=(png(numbered(4, 4, first=sum(name.encode()) % 251)),) if image is None else (image,)
        ),
    )


def test_other_pictures_are_of_the_same_task_and_level():
    pool = [example(f"maze-3-{i}") for i in range(5)] + [
        example("maze-4-a", level=4),
        example("lake", task="frozenlake"),
    ]
    others = OtherImages(pool)
    own = pool[0]
    found = {others.pick(own, seed=seed) for seed in range(40)}
    assert found == {(one.image,) for one in pool[1:5]}
    assert others.pick(own, seed=7) == others.pick(own, seed=7)
    assert others.pick(pool[5], seed=0) in {
        (one.image,) for one in pool[:5]
    }  # no second level-4 maze: the task's
    with pytest.raises(PilotageError, match="lake: no other example of 'frozenlake'"):
        others.pick(pool[6], seed=0)


def test_the_same_picture_is_no_other_picture():
    one, twin, blank = example("a"), example("b", image=example("a").image), example("c", image=b"")
    with pytest.raises(PilotageError, match="no other example"):
        OtherImages([one, twin, blank]).pick(one, seed=0)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"images": "two"}, "same, none, crop, other"),
        ({"images": "crop", "crop_share": 0.0}, "crop_share 0.0"),
        ({"images": "crop", "crop_share": 1.5}, "crop_share 1.5"),
    ],
)
def test_settings_that_make_no_sense_are_named(changes: dict[str, Any], named: str):
    with pytest.raises(PilotageError, match=named):
        varied(VIEW, **changes)

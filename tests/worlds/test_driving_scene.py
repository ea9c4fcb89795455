"""Scenes and their JSON form, the picture, and what is refused."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from driving_scenes import car, scene
from pilotage.errors import BadStateError, PilotageError
from pilotage.pictures import read_rgb
from pilotage.worlds.driving.render import LEGEND, box, draw, picture
from pilotage.worlds.driving.scene import NUM_FUTURE, parse_public, parse_scene, public_json, to_json

FULL = scene(
    car(3.0, 12.0, vy=5.0),
    car(-3.5, -4.0, future=None, predicted=((0.0, 1.0),) * 6),
    mask=(True,) * 5 + (False,),
)


def test_a_scene_comes_back_from_its_json_form():
    assert parse_scene(json.loads(json.dumps(to_json(FULL)))) == FULL


def test_the_public_form_has_nothing_of_the_future():
    public = json.dumps(public_json(FULL))
    assert "future" not in public and "mask" not in public and "predicted" in public
    known = parse_public(json.loads(public))
    assert known.ego == FULL.ego and known.path == FULL.path and not any(known.mask)
    assert all(one.future is None for one in known.objects)


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("ego", "speed"), float("nan"), "ego.speed is nan, not a number from -100 to 100"),
        (("ego", "past"), [[0, 0]] * 3, "ego.past has 3 points, not 4"),
        (("ego", "width"), 0, "ego.width is 0.0: a box has sides longer than 0"),
        (("goal",), "BACK", "goal is 'BACK', not one of LEFT, RIGHT, FORWARD"),
        (("future",), [[0, 1e9]] * 6, "future is 1000000000.0, not a number from -1000 to 1000"),
        (("future",), [[0, 1]] * 7, "future is 7 entries, not a list of at most 6 points"),
        (("mask",), [1] * 6, "mask is [1, 1, 1, 1, 1, 1], not 6 of true and false"),
        (("objects",), [{}] * 513, "objects is 513 entries, more than 512"),
        (("objects", 0, "kind"), "", "objects[0].kind is '', not a printable text"),
        (("objects", 0, "future"), [None] * 5, "objects[0].future is [None, None, None, None, None], not 6"),
        (
            ("objects", 0, "future"),
            [[1, 2]] * 6,
            "objects[0].future holds [1, 2], not [x, y, heading] or null",
        ),
        (("objects", 0, "length"), True, "objects[0].length is True, not a number"),
        (("lanes",), [[[0, 0]] * 600], "lanes[0] is 600 entries"),
        (("id",), "a\nb", "id is 'a\\nb', not a printable text"),
    ],
)
def test_what_is_no_scene_is_told_with_its_field(path: tuple[Any, ...], value: Any, message: str):
    data: Any = to_json(FULL)
    at = data
    for part in path[:-1]:
        at = at[part]
    at[path[-1]] = value
    with pytest.raises(BadStateError) as caught:
        parse_scene(data)
    assert message in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("field", ["id", "group", "ego", "goal", "future"])
def test_a_missing_field_is_told_beside_those_that_are_there(field: str):
    data = to_json(FULL)
    del data[field]
    with pytest.raises(BadStateError, match=f"scene has no field '{field}'; it has"):
        parse_scene(data)


junk = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=4),
    max_leaves=8,
)


@given(field=st.sampled_from(sorted(to_json(FULL))), value=junk)
def test_junk_in_any_field_is_a_scene_or_a_bad_state(field: str, value: Any):
    try:
        parse_scene(to_json(FULL) | {field: value})
    except BadStateError as error:
        assert "\n" not in str(error)


def test_a_picture_shows_everything_in_the_colours_of_the_legend_and_up_is_forward():
    image = np.array(draw(scene(car(6.0, 12.0, vy=4.0), speed=0.0), 480))
    scale = 480 / 48

    def at(x: float, y: float) -> tuple[int, ...]:
        return tuple(int(v) for v in image[round(480 * 0.7 - y * scale), round(240 + x * scale)])

    assert at(0.0, 0.0) == LEGEND["ego"].rgb
    assert at(6.0, 12.0) == LEGEND["other"].rgb
    assert at(0.0, 20.0) == LEGEND["route"].rgb
    assert at(-10.0, 20.0) == LEGEND["ground"].rgb
    assert at(6.0, 15.0) == LEGEND["tick"].rgb, "two metres of way before the front at 14 m"
    assert len({colour.name for colour in LEGEND.values()}) == len(LEGEND)


def test_the_same_scene_is_the_same_picture_at_any_size_and_the_future_is_not_in_it():
    one, other = (
        scene(car(3.0, 12.0, vy=5.0)),
        scene(car(3.0, 12.0, vy=5.0, future=None), future=((5.0, 5.0),) * 6),
    )
    for side_px in (16, 33, 256):
        assert picture(one, side_px) == picture(other, side_px)
        assert read_rgb(picture(one, side_px)).size == (side_px, side_px)
    assert picture(one, 64, plans=[one.future]) != picture(one, 64)
    with pytest.raises(PilotageError, match="a picture of 8 px a side"):
        draw(one, 8)


def test_a_turned_box_has_its_front_where_its_heading_points():
    front_left, front_right, *_ = box((10.0, 0.0), np.pi / 2, 4.0, 2.0)
    assert front_left == pytest.approx((8.0, -1.0)) and front_right == pytest.approx((8.0, 1.0))


def test_what_is_expected_without_a_prediction_is_a_straight_line():
    assert car(1.0, 2.0, vx=-2.0, vy=4.0).expected()[NUM_FUTURE - 1] == pytest.approx((-5.0, 14.0))

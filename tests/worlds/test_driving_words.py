"""The reference answer by rule, and what is read of an answer."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from driving_scenes import TIMES, car, scene, straight
from pilotage.worlds.driving.answers import PROBLEMS, parse_meta_action, parse_plan
from pilotage.worlds.driving.situations import situation_of
from pilotage.worlds.driving.words import (
    PACES,
    WAYS,
    answer_text,
    in_sight,
    meta_action,
    notable,
    number_text,
    pace_of,
    reference_answer,
    thoughts,
    way_of,
)


@pytest.mark.parametrize(
    ("before", "after", "pace"),
    [
        (0.0, 0.0, "STOP"),
        (0.4, 0.4, "STOP"),
        (5.0, 0.4, "DECELERATION TO ZERO"),
        (5.0, 5.4, "CONSTANT SPEED"),
        (5.0, 4.6, "CONSTANT SPEED"),
        (5.0, 5.6, "ACCELERATION"),
        (5.0, 10.1, "QUICK ACCELERATION"),
        (0.4, 1.0, "QUICK ACCELERATION"),
        (5.0, 4.4, "DECELERATION"),
        (5.0, 2.4, "QUICK DECELERATION"),
    ],
)
def test_the_speed_class_is_of_the_last_half_second(before: float, after: float, pace: str):
    assert pace_of(before, [(0.0, 1.0)] * 5 + [(0.0, 1.0 + after / 2)]) == pace


@pytest.mark.parametrize(
    ("xs", "way"),
    [
        ((0.0, 1.9), "FORWARD"),
        ((0.0, -1.9), "FORWARD"),
        ((1.0, 3.9), "LANE RIGHT"),
        ((-1.0, -3.9), "LANE LEFT"),
        ((1.0, 4.1), "TURN RIGHT"),
        ((-1.0, -4.1), "TURN LEFT"),
        ((2.5, 1.0), "LANE RIGHT"),
    ],
)
def test_the_behaviour_class_is_of_where_it_ends_once_it_leaves_two_metres(xs: tuple[float, float], way: str):
    assert way_of([(xs[0], 1.0)] * 5 + [(xs[1], 9.0)]) == way


def test_standing_still_has_no_behaviour():
    assert meta_action(0.0, [(0.0, 0.0)] * 6) == "STOP"
    assert meta_action(10.0, straight(10.0)) == "FORWARD, CONSTANT SPEED"


def test_objects_far_away_and_behind_for_good_are_left_out():
    message = scene(
        car(0.0, 12.0),
        car(21.0, 5.0),
        car(0.0, -6.0),
        car(0.0, -6.0, vy=5.0),
        car(5.0, 15.0, vy=5.0),
    )
    assert in_sight(message) == [0, 3], "one comes from behind, the last one goes beyond 20 m"


def test_an_object_is_notable_at_the_first_step_with_too_little_room():
    # At 10 m/s the car's middle is at 5 m after 0.5 s. The standing car's rear is at 12 m: 12 - 2.04 - y < 3 from 6.96.
    (found,) = notable(scene(car(0.0, 14.0)))
    assert (found.number, found.time_s) == (0, 1.0)
    (now,) = notable(scene(car(0.0, 7.0), speed=0.0))
    assert now.time_s == 0.0
    # The boxes' sides are 0.925 and 1 m from their middles, and a metre of room is asked for.
    assert notable(scene(car(2.9, 14.0))) and not notable(scene(car(2.95, 14.0)))
    assert not notable(scene(car(0.0, 14.0), speed=0.0))


def test_the_car_is_carried_on_with_its_acceleration_and_never_backwards():
    # 4 m/s and -4 m/s^2: 2 + 1 + 0 + 0 m; the rear at 8 - 2.04 - 3 = 2.96 m from its middle is reached at 1 s.
    (found,) = notable(scene(car(0.0, 10.0), speed=4.0, ego={"acceleration": -4.0}))
    assert found.time_s == 1.0
    assert not notable(scene(car(0.0, 10.2), speed=4.0, ego={"acceleration": -4.0}))


def test_the_whole_answer_of_a_hand_made_scene():
    message = scene(
        car(1.0, 14.0), speed=8.0, future=tuple((-0.04, 4 * (k + 1) - 0.06 * k * k) for k in range(6))
    )
    assert reference_answer(message) == (
        "Notable: car (1.0,14.0) at 1.0 s.\n"
        "Meta action: FORWARD, DECELERATION.\n"
        "<answer>(0.0,4.0) (0.0,7.9) (0.0,11.8) (0.0,15.5) (0.0,19.0) (0.0,22.5)</answer>"
    )
    assert thoughts(scene()) == "Notable: none."
    assert parse_meta_action(reference_answer(message)) == "FORWARD, DECELERATION"


def test_one_decimal_costs_at_most_seven_centimetres_and_four_on_average():
    points = [(k * 0.0137, k * 0.0713) for k in range(600)]
    offs = []
    for place in range(0, 600, 6):
        read = parse_plan(answer_text(points[place : place + 6])).points
        assert read is not None
        offs += [
            ((a - c) ** 2 + (b - d) ** 2) ** 0.5 for (a, b), (c, d) in zip(read, points[place:], strict=False)
        ]
    assert max(offs) <= 0.0708 and sum(offs) / len(offs) <= 0.04
    assert number_text(-0.04) == "0.0" and number_text(0.05) in ("0.0", "0.1")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("(0,1) (0,2) (0,3) (0,4) (0,5) (0,6)", "no_answer_block"),
        ("<answer></answer>", "no_points"),
        ("<answer>L R</answer>", "no_points"),
        ("<answer>(0,1) (0,2) (0,3) (0,4) (0,5) and (0,6)</answer>", "no_points"),
        ("<answer>(0,1) (0,2) (0,3) (0,4) (0,5)</answer>", "not_six_points"),
        (f"<answer>{'(0,1) ' * 7}</answer>", "not_six_points"),
        (f"<answer>{'(0,1) ' * 5}(0,600)</answer>", "not_in_reach"),
        (f"<answer>{'(0,1) ' * 5}(0,nan)</answer>", "no_points"),
        (f"<answer>{'(0,1) ' * 5}(0,1e9)</answer>", "no_points"),
        (f"<answer>{'(' * 3000}</answer>", "no_points"),
        ("<think><answer>(0,1) (0,2) (0,3) (0,4) (0,5) (0,6)</answer>", "no_answer_block"),
    ],
)
def test_what_is_no_plan_is_told_and_never_guessed(text: str, problem: str):
    parsed = parse_plan(text)
    assert (parsed.points, parsed.problem) == (None, problem)


def test_the_last_block_counts_in_any_of_the_forms_of_a_list():
    text = "<answer>(9,9)</answer> or <ANSWER>[(0.0,1), ( -1.5 , 2.25 ); (0,3)\n(0,4) (0,5) (+0,6)]</answer>"
    assert parse_plan(text).points == ((0, 1), (-1.5, 2.25), (0, 3), (0, 4), (0, 5), (0, 6))


@given(
    st.text(max_size=200)
    | st.text("()0123456789.,-+ <answer>/[];", max_size=200).map(lambda x: f"<answer>{x}</answer>")
)
def test_no_text_is_an_error(text: str):
    parsed = parse_plan(text)
    assert (parsed.points is None) == (parsed.problem in PROBLEMS)
    parse_meta_action(text)


def test_a_meta_action_is_told_in_its_own_words_or_not_at_all():
    for pace in PACES[1:]:
        for way in WAYS:
            assert parse_meta_action(f"Notable: none.\nMeta action: {way}, {pace}.") == f"{way}, {pace}"
    assert parse_meta_action("meta action: stop") == "STOP"
    assert parse_meta_action("Meta action: FORWARD, STOPPING") is None
    assert parse_meta_action("FORWARD, CONSTANT SPEED") is None


def test_situations_are_told_in_their_order():
    bend = tuple((0.5 * t * t, 5.0 * t) for t in TIMES)
    assert situation_of(scene(car(0.0, 9.0), future=bend)) == "turn"
    assert situation_of(scene(car(0.0, 24.0), speed=10.0, future=straight(8.0))) == "car_ahead"
    assert situation_of(scene(car(0.0, 26.0), speed=10.0, future=straight(8.0))) == "speed_change"
    assert situation_of(scene(car(0.0, 26.0), car(2.5, 9.0), car(0.0, -9.0))) == "steady"

"""Logged frames as a world: what is judged, who is shown what, and tables over drives."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from PIL import Image

from driving_scenes import car, scene
from pilotage.errors import BadStateError, PilotageError
from pilotage.evaluate.summary import summarise
from pilotage.records import Example, Outcome
from pilotage.views import PROMPT_SETS, make_view, reference_of_view
from pilotage.worlds.driving.baselines import constant_velocity
from pilotage.worlds.driving.evaluate import (
    Frame,
    cluster_mean,
    frames_of_rows,
    mean_over_drives,
    merged,
    paired_difference,
)
from pilotage.worlds.driving.mlp import MlpConfig, train_mlp
from pilotage.worlds.driving.scene import Scene
from pilotage.worlds.driving.views import DRIVABLE, VIEWS
from pilotage.worlds.driving.words import answer_text
from pilotage.worlds.driving.world import Driving, judge_plan, make_example

AHEAD = scene(car(0.4, 14.0, vy=6.0), car(-3.5, -8.0, vy=9.0), speed=6.0)
"""One car ahead at the speed of ours, one that comes up on the left."""


def text_of(view: Any) -> str:
    (message,) = view.messages
    content = message["content"]
    return content if isinstance(content, str) else content[-1]["text"]


def judged(message: Scene, text: str) -> Outcome:
    session = Driving().open(make_example(message))
    session.act(text)
    return session.outcome()


def test_the_reference_answer_is_right_to_the_last_decimal():
    outcome = judged(AHEAD, reference_of_view(make_example(AHEAD), "scene_text"))
    assert (outcome.success, outcome.reason) == (True, "success")
    assert outcome.measures["l2_stp3"] == 0.0 and outcome.measures["collision_stp3"] == 0.0
    assert outcome.is_("parsed") and outcome.is_("meta_right") and outcome.all_right


def test_a_plan_into_the_car_ahead_is_a_collision_and_one_that_lags_a_miss():
    fast = judged(AHEAD, answer_text([(0.0, 6.0 * k) for k in range(1, 7)]))
    assert (fast.reason, fast.success) == ("collision", False)
    assert fast.measures["collision_uniad"] > 0
    slow = judged(AHEAD, answer_text([(0.0, 2.0 * k) for k in range(1, 7)]))
    assert slow.reason == "missed"
    assert slow.measures["l2_uniad"] == pytest.approx((2 + 4 + 6) / 3)
    assert [slow.measures[f"l2_step_{k}"] for k in range(1, 7)] == pytest.approx([1, 2, 3, 4, 5, 6])


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "no_answer_block"),
        ("<answer>stop</answer>", "no_points"),
        ("<answer>(0,1)</answer>", "not_six_points"),
    ],
)
def test_what_cannot_be_read_fails_in_every_figure(text: str, reason: str):
    outcome = judged(AHEAD, text)
    assert (outcome.reason, outcome.success, outcome.is_("parsed")) == (reason, False, False)
    assert outcome.is_("missed") and outcome.is_("collided")
    assert outcome.measures["collision_stp3"] == outcome.measures["collision_uniad"] == pytest.approx(1.0)
    assert outcome.measures["l2_uniad"] == pytest.approx((6 + 12 + 18) / 3), "as one who stands still"


def test_an_example_without_its_future_cannot_be_judged():
    example = make_example(AHEAD)
    with pytest.raises(PilotageError, match="hand-made has no scene with a future"):
        Driving().open(example.public())
    with pytest.raises(PilotageError, match="no role 'describe'"):
        Driving().open(example, role="describe")


@pytest.mark.parametrize("prompts", PROMPT_SETS)
@pytest.mark.parametrize("name", DRIVABLE)
def test_a_view_to_drive_by_is_the_same_whatever_came_of_the_scene(name: str, prompts: Any):
    other = scene(
        car(0.4, 14.0, vy=6.0, future=None),
        car(-3.5, -8.0, vy=9.0, future=((1.0, 2.0, 3.0),) * 6),
        speed=6.0,
        future=((1.0, 1.0),) * 6,
    )
    assert make_view(name, make_example(AHEAD), prompts) == make_view(name, make_example(other), prompts)


def test_the_privileged_view_tells_true_futures_of_others_and_is_not_to_drive_by():
    assert {*VIEWS} - {*DRIVABLE} == {"scene_privileged"}
    held = scene(car(2.0, 8.0, future=((2.0, 8.7, 0.0), *[None] * 5)))
    text = text_of(make_view("scene_privileged", make_example(held), "full"))
    assert "car (2.0,8.0) then (2.0,8.7) unknown unknown unknown unknown unknown." in text
    assert "(0.0,30.0)" not in text, "where the car itself went"


def test_views_in_words_tell_what_they_should():
    example = make_example(AHEAD)
    state = (
        "Goal: FORWARD. Speed: 6.0. Yaw rate: 0.00. Acceleration: 0.0. "
        "Past: (0.0,-12.0) (0.0,-9.0) (0.0,-6.0) (0.0,-3.0)."
    )
    words, causal = (text_of(make_view(name, example, "full")) for name in ("scene_text", "scene_causal"))
    assert state in words and state in causal
    assert "car (-3.5,-8.0) to (-3.5,19.0)" in words and "car (0.4,14.0)" not in words, "it goes beyond 20 m"
    assert "car (-3.5,-8.0), 2.0 by 4.0, heading 0.00, velocity (0.0,9.0)" in causal
    assert "(0.0,0.0) (0.0,4.0) (0.0,8.0)" in causal
    empty = make_example(scene(path=()))
    assert "Objects, where they are and where they are expected in three seconds:\nnone." in text_of(
        make_view("scene_text", empty, "full")
    )
    assert "not known." in text_of(make_view("scene_causal", empty, "full"))


def test_views_with_a_picture_show_it_or_black():
    example = make_example(AHEAD, side_px=64)
    seen, black = (make_view(name, example, "brief") for name in ("scene_pixels", "scene_zeroed"))
    assert seen.images == example.start.images and text_of(seen) == text_of(black)
    with Image.open(io.BytesIO(black.images[0])) as image:
        assert image.size == (64, 64) and image.convert("RGB").getextrema() == ((0, 0),) * 3
    with pytest.raises(PilotageError, match="has no picture"):
        make_view("scene_pixels", make_example(AHEAD, side_px=0), "full")


def row_of(example: Example, kind: str, text: str, **other: Any) -> dict[str, Any]:
    outcome = judge_plan(AHEAD, text)
    return {
        "id": example.id,
        "condition": kind,
        "world": "driving",
        "task": "driving",
        "level": 0,
        "axes": dict(example.axes),
        "state": dict(example.state),
        "outcome": outcome.as_dict(),
    } | other


def test_rows_become_figures_failures_among_them_and_several_answers_their_mean():
    example = make_example(AHEAD)
    good, bad = answer_text(AHEAD.future), ""
    rows = [
        row_of(example, "text", good),
        row_of(example, "text", bad, sample=1),
        row_of(example, "image", "", outcome=None, error="refused", error_kind="refused"),
        {"id": "x", "condition": "text", "world": "maze"},
    ]
    found = frames_of_rows(rows)
    (text,), (image,) = found["text"], found["image"]
    assert text.figures["parsed"] == 0.5 and text.figures["l2_uniad"] == pytest.approx(6.0)
    assert image.figures["parsed"] == 0.0 and image.figures["collided"] == 1.0
    assert text.group == "hand" and text.situation == "car_ahead"
    with pytest.raises(PilotageError, match="no row of the world driving"):
        frames_of_rows(rows[3:])
    with pytest.raises(BadStateError):
        frames_of_rows([row_of(example, "text", "", outcome=None, error="x", state={})])


def test_summaries_hold_the_numbers_of_a_world_of_one_turn():
    rows = [row_of(make_example(AHEAD), "text", answer_text(AHEAD.future))]
    rates = summarise(rows).conditions["text"].tasks["driving"]
    assert rates.numbers["l2_stp3"].mean == 0.0 and rates.rates["parsed"].mean == 1.0


def test_intervals_resample_drives_and_not_frames():
    # Two drives whose frames all agree: an interval over 200 frames would be narrow, over two drives it is not.
    values, groups = [0.0] * 100 + [1.0] * 100, ["a"] * 100 + ["b"] * 100
    message = cluster_mean(values, groups)
    assert (message.mean, message.low, message.high, message.n) == (0.5, 0.0, 1.0, 2)
    # A drive of three frames has three times the weight of one of a single frame.
    assert cluster_mean([1.0, 1.0, 1.0, 5.0], ["a", "a", "a", "b"]).mean == 2.0
    with pytest.raises(PilotageError):
        cluster_mean([], [])


def test_differences_are_over_the_frames_that_both_have():
    def frame(id: str, value: float) -> Frame:
        return Frame(id=id, group=id[0], figures={"x": value})

    ours = [frame("a1", 1.0), frame("a2", 2.0), frame("b1", 3.0)]
    theirs = [frame("a1", 0.5), frame("b1", 1.5), frame("c1", 9.0)]
    message = paired_difference(ours, theirs, "x")
    assert (message.mean, message.n) == (1.0, 2) and message.low == 0.5 and message.high == 1.5
    assert mean_over_drives(ours, "x").mean == 2.0
    assert merged([*ours, frame("a1", 3.0)])[0].figures == {"x": 2.0}
    with pytest.raises(PilotageError, match="no frame in common"):
        paired_difference(ours, theirs[2:], "x")


def test_the_mlp_learns_what_constant_velocity_cannot_and_the_same_each_time():
    # Cars that slow down by what their acceleration says.
    rng = np.random.default_rng(0)
    scenes = []
    for _ in range(300):
        speed, slower = float(rng.uniform(4, 12)), float(rng.uniform(-2, 2))
        times = 0.5 * np.arange(1, 7)
        future = tuple((0.0, float(y)) for y in speed * times + slower * times**2 / 2)
        scenes.append(scene(speed=speed, future=future, ego={"acceleration": slower}))
    config = MlpConfig(num_epochs=80)
    planner = train_mlp(scenes[:250], config)

    def off(plan: Any) -> float:
        return float(
            np.mean([np.abs(plan(message) - np.array(message.future)).mean() for message in scenes[250:]])
        )

    assert off(planner.plan) < 0.25 * off(constant_velocity)
    again = train_mlp(scenes[:250], config)
    assert np.array_equal(again.plan(scenes[0]), planner.plan(scenes[0]))
    with pytest.raises(PilotageError, match="needs scenes of the training split"):
        train_mlp([])

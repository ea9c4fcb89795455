"""Distances and collisions: by hand, and against a second rendering of the published formulas."""

from __future__ import annotations

import math

import numpy as np
import pytest

from driving_scenes import TIMES, car, scene
from pilotage.worlds.driving.baselines import BASELINES
from pilotage.worlds.driving.openloop import (
    CONVENTIONS,
    averaged,
    box_cells,
    box_hits,
    geometric_hits,
    headings,
    occupied,
    overlap,
    published_hits,
    step_errors,
)
from pilotage.worlds.driving.render import box
from pilotage.worlds.driving.scene import Scene


def plan(*points: tuple[float, float]) -> np.ndarray:
    return np.array(points * (6 // len(points)), dtype=float)


# A second rendering: loops over plain numbers, as the conventions are told, with nothing of the pack's arithmetic.


def slow_l2(a: np.ndarray, b: np.ndarray, mask: list[bool]) -> tuple[float, float]:
    e = [math.dist(p, q) if known else 0.0 for p, q, known in zip(a.tolist(), b.tolist(), mask, strict=True)]
    return sum(sum(e[: 2 * h]) / (2 * h) for h in (1, 2, 3)) / 3, (e[1] + e[3] + e[5]) / 3


def slow_covered(message: Scene, step: int, x: float, y: float) -> bool:
    """The place is on the same side of all four sides of some box."""
    for one in message.objects:
        pose = one.future[step] if one.future else None
        if pose is None:
            continue
        corners = box((pose[0], pose[1]), pose[2], one.length, one.width)
        crosses = [
            (bx - ax) * (y - ay) - (by - ay) * (x - ax)
            for (ax, ay), (bx, by) in zip(corners, (*corners[1:], corners[0]), strict=True)
        ]
        if all(c <= 0 for c in crosses) or all(c >= 0 for c in crosses):
            return True
    return False


def slow_hit(message: Scene, step: int, x: float, y: float, convention: str) -> bool:
    side = -x if convention == "stp3" else x
    for row in range(97, 105):
        for column in range(98, 102):
            r = min(max(int(y / 0.5 + row), 0), 199)
            c = min(max(int(side / 0.5 + column), 0), 199)
            aside = -49.75 + 0.5 * c
            if slow_covered(message, step, -aside if convention == "stp3" else aside, -49.75 + 0.5 * r):
                return True
    return False


def slow_collision(message: Scene, planned: np.ndarray, convention: str) -> float:
    c = []
    for step in range(6):
        (x, y), (planned_x, planned_y) = message.future[step], planned[step].tolist()
        driven = slow_hit(message, step, x, y, convention)
        c.append(slow_hit(message, step, planned_x, planned_y, convention) and not driven)
    if convention == "uniad":
        return (c[1] + c[3] + c[5]) / 3
    return sum(sum(c[: 2 * h]) / (2 * h) for h in (1, 2, 3)) / 3


def random_scene(rng: np.random.Generator) -> Scene:
    objects = [
        car(
            *rng.uniform(-8, 8, size=1),
            *rng.uniform(-5, 30, size=1),
            vx=rng.uniform(-3, 3),
            vy=rng.uniform(-5, 10),
            heading=rng.uniform(-3, 3),
            length=rng.uniform(1, 12),
            width=rng.uniform(0.5, 3),
        )
        for _ in range(rng.integers(0, 4))
    ]
    future = np.cumsum(rng.normal([0, 4], [0.7, 1], size=(6, 2)), axis=0)
    return scene(*objects, future=tuple((float(x), float(y)) for x, y in future))


def test_both_conventions_are_those_of_a_second_rendering_on_random_plans():
    rng = np.random.default_rng(0)
    num_hits = 0
    for _ in range(60):
        message = random_scene(rng)
        planned = np.array(message.future) + rng.normal(0, 2, size=(6, 2))
        mask = (rng.random(6) < 0.8).tolist()
        errors = step_errors(planned, np.array(message.future), np.array(mask))
        wanted = slow_l2(planned, np.array(message.future), mask)
        assert (averaged(errors, "stp3"), averaged(errors, "uniad")) == pytest.approx(wanted)
        for convention in CONVENTIONS:
            hits = published_hits(planned, message)[convention]
            assert averaged(hits, convention) == pytest.approx(slow_collision(message, planned, convention))
            num_hits += hits.sum()
    assert num_hits > 10


def test_the_box_is_thirty_two_cells_half_a_metre_ahead_and_never_turns():
    cells = box_cells()
    assert len(cells) == 32
    assert (cells.min(axis=0).tolist(), cells.max(axis=0).tolist()) == ([97, 98], [104, 101])


def test_a_centimetre_to_the_right_moves_a_whole_cell_under_one_convention_and_to_the_left_under_the_other():
    grid = np.zeros((6, 200, 200), dtype=bool)
    grid[:, :, 97] = True
    assert box_hits(plan((0.01, 0.0)), grid, "stp3").all()
    assert not box_hits(plan((-0.01, 0.0)), grid, "stp3").any()
    assert box_hits(plan((-0.01, 0.0)), grid, "uniad").all()
    assert not box_hits(plan((0.01, 0.0)), grid, "uniad").any()


def test_a_box_beyond_the_grid_piles_up_on_its_border():
    grid = np.zeros((6, 200, 200), dtype=bool)
    grid[:, 199, 98] = True
    assert box_hits(plan((0.0, 400.0)), grid, "stp3").all()


def test_a_step_at_which_the_driven_box_hits_counts_as_none_and_a_hit_does_not_last():
    # A car across the way: the driven box is upon it at 1.5 s (15 m ahead), the plan stands in it from 1 s on.
    message = scene(car(0.0, 15.5, length=2.0))
    planned = np.array([(0.0, 5.0), *[(0.0, 15.0)] * 4, (0.0, 40.0)])
    assert published_hits(planned, message)["stp3"].tolist() == [False, True, False, True, True, False]
    assert averaged(published_hits(planned, message)["stp3"], "stp3") == pytest.approx(
        (1 / 2 + 2 / 4 + 3 / 6) / 3
    )
    assert averaged(published_hits(planned, message)["uniad"], "uniad") == pytest.approx(2 / 3)


def test_masked_steps_count_as_nothing_and_stay_in_the_denominator():
    errors = step_errors(plan((0.0, 0.0)), plan((3.0, 4.0)), np.array([True] * 4 + [False] * 2))
    assert errors.tolist() == [5, 5, 5, 5, 0, 0]
    assert averaged(errors, "stp3") == pytest.approx((5 + 5 + 20 / 6) / 3)
    assert averaged(errors, "uniad") == pytest.approx(10 / 3)


def test_columns_go_to_the_left_under_stp3_and_to_the_right_under_uniad():
    message = scene(car(10.0, 0.0, length=1.0, width=1.0))
    assert np.flatnonzero(occupied(message, "stp3")[0].any(axis=0)).tolist() == [79, 80]
    assert np.flatnonzero(occupied(message, "uniad")[0].any(axis=0)).tolist() == [119, 120]


def test_the_geometric_box_turns_where_the_published_one_does_not():
    # Crossing to the right past a car: sideways the plan's box is longer than it is wide.
    crossing = np.array([(2.0 * t, 0.0) for t in TIMES])
    message = scene(car(3.0, 2.1, length=2.0, width=2.0), speed=0.0)
    assert headings(crossing)[0] == pytest.approx(-np.pi / 2)
    assert published_hits(crossing, message)["stp3"].any()
    assert not geometric_hits(crossing, message).any()
    # And its front is a metre farther to the right.
    message = scene(car(8.6, 0.0, length=2.0, width=2.0), speed=0.0)
    assert not published_hits(crossing, message)["stp3"].any()
    assert geometric_hits(crossing, message).tolist() == [False] * 5 + [True]


def test_an_object_that_was_not_seen_at_a_step_is_not_hit_there():
    message = scene(car(0.0, 30.0, future=((0.0, 30.0, 0.0),) + (None,) * 5), speed=5.0)
    assert geometric_hits(plan((0.0, 30.0)), message).tolist() == [True] + [False] * 5
    assert published_hits(plan((0.0, 30.0)), message)["uniad"].tolist() == [True] + [False] * 5


def test_boxes_overlap_by_their_sides_and_not_by_their_corners_alone():
    square = box((0.0, 0.0), 0.0, 2.0, 2.0)
    assert overlap(square, box((1.9, 0.0), 0.0, 2.0, 2.0))
    assert not overlap(square, box((2.1, 0.0), 0.0, 2.0, 2.0))
    # Turned by 45 degrees, its corner reaches 1.41 m.
    assert overlap(square, box((2.3, 0.0), math.pi / 4, 2.0, 2.0))
    assert not overlap(square, box((1.8, 1.8), math.pi / 4, 2.0, 2.0))


def test_baselines_go_where_they_say():
    message = scene(speed=4.0, ego={"yaw_rate": 0.5}, path=((0.0, 0.0), (0.0, 2.0), (2.0, 2.0), (4.0, 2.0)))
    plans = {name: planner(message) for name, planner in BASELINES.items()}
    assert not plans["stand still"].any()
    assert plans["constant velocity"][-1].tolist() == [0.0, 12.0]
    # A circle of radius 8 m to the left; 1.5 rad of it.
    assert plans["constant turn rate"][-1] == pytest.approx([-8 * (1 - math.cos(1.5)), 8 * math.sin(1.5)])
    assert plans["route at constant speed"].tolist() == [[0, 2], [2, 2], [4, 2], [6, 2], [8, 2], [10, 2]]
    assert BASELINES["route at constant speed"](scene(speed=4.0, path=()))[-1].tolist() == [0.0, 12.0]

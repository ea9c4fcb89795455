"""The reference answer of a scene, by rule: what to watch, what to do, and six places.

The rules are those by which GPT-Driver (arXiv 2310.01415) makes the answers that its students learn, on this pack's
records; the on-policy distillation of planners (arXiv 2604.07944) takes them over. Every threshold is a constant below.
`docs/driving.md` tells them in full.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from pilotage.worlds.driving.scene import NUM_FUTURE, STEP_S, Point, Scene, SceneObject

SIGHT_M = 20.0
"""Objects that are, or come, farther away to a side or ahead are left out."""
CLEAR_X_M, CLEAR_Y_M = 1.0, 3.0
"""An object ahead is notable where less room than this is left between its box and the car's."""
BOX_X_M, BOX_Y_M = 1.85, 4.08
"""The car's box in that rule, whatever the car."""
STILL = 0.5
"""Speeds below this (m/s) are standing, and such changes of speed are none."""
QUICK = 2.0
"""A change of speed by more than this ratio is quick."""
FORWARD_M = 2.0
"""Who never leaves this to either side moves forward."""
LANE_M = 4.0
"""Who ends no farther than this to a side changes lane; beyond, it turns."""

Pace = Literal[
    "STOP",
    "DECELERATION TO ZERO",
    "CONSTANT SPEED",
    "DECELERATION",
    "QUICK DECELERATION",
    "ACCELERATION",
    "QUICK ACCELERATION",
]
Way = Literal["FORWARD", "LANE LEFT", "LANE RIGHT", "TURN LEFT", "TURN RIGHT"]
PACES: tuple[Pace, ...] = get_args(Pace)
WAYS: tuple[Way, ...] = get_args(Way)


@dataclass(frozen=True, kw_only=True)
class Notable:
    """An object that the car would come too near, were it to go on as it does."""

    number: int
    """Its place among the scene's objects."""
    time_s: float
    """When it first would."""


def in_sight(scene: Scene) -> list[int]:
    """Numbers of the objects near enough to be told of, and not behind for good, in the scene's order."""
    return [place for place, one in enumerate(scene.objects) if _in_sight(one)]


def notable(scene: Scene) -> list[Notable]:
    """The objects to watch, in the scene's order.

    The car is carried on with its present acceleration, step by step as the rule has it: its speed of the first step is
    the present one. A car that slows down stands at zero and does not back off (the published rule lets it).
    """
    ways = [
        max(0.0, scene.ego.speed + scene.ego.acceleration * STEP_S * step) * STEP_S
        for step in range(NUM_FUTURE)
    ]
    places = [0.0]
    for way in ways:
        places.append(places[-1] + way)
    found = []
    for number in in_sight(scene):
        one = scene.objects[number]
        points = [(one.x, one.y), *one.expected()]
        for step, (y, point) in enumerate(zip(places, points, strict=True)):
            if _too_near(y, point, one):
                found.append(Notable(number=number, time_s=step * STEP_S))
                break
    return found


def pace_of(speed: float, plan: Sequence[Point]) -> Pace:
    """The speed class of a plan that begins at this speed."""
    end = math.dist(plan[-1], plan[-2]) / STEP_S
    if end < STILL:
        return "STOP" if speed < STILL else "DECELERATION TO ZERO"
    if abs(end - speed) < STILL:
        return "CONSTANT SPEED"
    if speed > end:
        return "QUICK DECELERATION" if speed > QUICK * end else "DECELERATION"
    return "QUICK ACCELERATION" if end > QUICK * speed else "ACCELERATION"


def way_of(plan: Sequence[Point]) -> Way:
    """The behaviour class of a plan."""
    if all(abs(x) < FORWARD_M for x, _ in plan):
        return "FORWARD"
    x = plan[-1][0]
    if abs(x) > LANE_M:
        return "TURN LEFT" if x < 0 else "TURN RIGHT"
    return "LANE LEFT" if x < 0 else "LANE RIGHT"


def meta_action(speed: float, plan: Sequence[Point]) -> str:
    """`TURN LEFT, DECELERATION`; `STOP` alone where it stands and goes on standing."""
    pace = pace_of(speed, plan)
    return pace if pace == "STOP" else f"{way_of(plan)}, {pace}"


def thoughts(scene: Scene) -> str:
    """`Notable: car (1.2,9.8) at 1.5 s.`; `Notable: none.`"""
    told = [
        f"{kind_text(scene.objects[each.number])} {place_text(scene.objects[each.number])} at {each.time_s:.1f} s"
        for each in notable(scene)
    ]
    return f"Notable: {'; '.join(told) or 'none'}."


def answer_text(plan: Sequence[Point]) -> str:
    """The answer block of a plan: six places."""
    return f"<answer>{' '.join(point_text(point) for point in plan)}</answer>"


def reference_answer(scene: Scene) -> str:
    """The whole answer: thoughts, meta action, places."""
    meta = meta_action(scene.ego.speed, scene.future)
    return f"{thoughts(scene)}\nMeta action: {meta}.\n{answer_text(scene.future)}"


def number_text(value: float) -> str:
    """One decimal; nothing is `-0.0`."""
    return f"{round(value, 1) + 0.0:.1f}"


def point_text(point: Point) -> str:
    return f"({number_text(point[0])},{number_text(point[1])})"


def place_text(one: SceneObject) -> str:
    return point_text((one.x, one.y))


def kind_text(one: SceneObject) -> str:
    """The last part of the name: `car` of `vehicle.car`."""
    return one.kind.rpartition(".")[2]


def _in_sight(one: SceneObject) -> bool:
    points = [(one.x, one.y), *one.expected()]
    ahead = any(y > 0 for _, y in points)
    return ahead and all(abs(x) <= SIGHT_M and abs(y) <= SIGHT_M for x, y in points)


def _too_near(ego_y: float, point: Point, one: SceneObject) -> bool:
    """Whether the object is ahead with too little room; its box is taken as it stands now, along the car's axes."""
    half_x, half_y = half_sides(one)
    x, y = point
    room_x, room_y = abs(x) - BOX_X_M / 2 - half_x, y - ego_y - BOX_Y_M / 2 - half_y
    return y > ego_y and room_x < CLEAR_X_M and room_y < CLEAR_Y_M


def half_sides(one: SceneObject) -> Point:
    """Half the width and half the length of the box around a turned box."""
    sine, cosine = abs(math.sin(one.heading)), abs(math.cos(one.heading))
    return (
        (one.width * cosine + one.length * sine) / 2,
        (one.width * sine + one.length * cosine) / 2,
    )

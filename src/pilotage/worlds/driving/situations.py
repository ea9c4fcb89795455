"""What kind of frame a scene is: where figures are broken down, and where skill can be earned."""

from __future__ import annotations

import math
from typing import Literal, get_args

from pilotage.worlds.driving.scene import STEP_S, Scene
from pilotage.worlds.driving.words import FORWARD_M

Situation = Literal["turn", "speed_change", "car_ahead", "steady"]
SITUATIONS: tuple[Situation, ...] = get_args(Situation)
CHANGE_M_S = 1.5
"""A change of speed by more than this within three seconds is one."""
AHEAD_M, AISLE_M = 15.0, 2.0
"""An object whose middle is so near ahead, and no farther than this to a side, is ahead."""


def situation_of(scene: Scene) -> Situation:
    """The first that holds: the car turns or changes lane, changes its speed, has something ahead; else it is steady.

    The first two are told by what was driven: they sort frames and are shown to nobody.
    """
    if any(abs(x) >= FORWARD_M for x, _ in scene.future):
        return "turn"
    end = math.dist(scene.future[-1], scene.future[-2]) / STEP_S
    if abs(end - scene.ego.speed) > CHANGE_M_S:
        return "speed_change"
    if any(0 < one.y <= AHEAD_M and abs(one.x) <= AISLE_M for one in scene.objects):
        return "car_ahead"
    return "steady"

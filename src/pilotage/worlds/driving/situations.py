"""What kind of frame a scene is: where figures are broken down, and where skill can be earned."""

from __future__ import annotations

import math
from typing import Literal, get_args

from pilotage.worlds.driving.scene import STEP_S, Scene
from pilotage.worlds.driving.words import FORWARD_M

Situation = Literal["turn", "car_ahead", "speed_change", "steady"]
SITUATIONS: tuple[Situation, ...] = get_args(Situation)
CHANGE_M_S = 1.5
"""A change of speed by more than this within three seconds is one."""
AHEAD_M, AISLE_M = 25.0, 2.0
"""An object whose middle is so near ahead, and no farther than this to a side, is ahead."""


def situation_of(scene: Scene) -> Situation:
    """The first that holds: the car turns or changes lane, has something ahead, changes its speed; else it is steady.

    The first and the third are told by what was driven: they sort frames and are shown to nobody.
    """
    if any(abs(x) >= FORWARD_M for x, _ in scene.future):
        return "turn"
    if any(0 < one.y <= AHEAD_M and abs(one.x) <= AISLE_M for one in scene.objects):
        return "car_ahead"
    end = math.dist(scene.future[-1], scene.future[-2]) / STEP_S
    return "speed_change" if abs(end - scene.ego.speed) > CHANGE_M_S else "steady"

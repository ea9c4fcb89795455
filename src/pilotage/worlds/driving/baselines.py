"""Plans that take no model: what every table shows beside the models' figures."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from pilotage.worlds.driving.roads import arc_lengths, at_arc
from pilotage.worlds.driving.scene import NUM_FUTURE, STEP_S, Scene

TIMES_S = STEP_S * np.arange(1, NUM_FUTURE + 1)
Planner = Callable[[Scene], np.ndarray]
"""Scene -> plan, float [T, D]. A planner looks at nothing that is not known at the time."""


def stand_still(scene: Scene) -> np.ndarray:
    """All six places are the present one."""
    return np.zeros((NUM_FUTURE, 2))


def constant_velocity(scene: Scene) -> np.ndarray:
    """Straight on at the present speed."""
    return np.stack([np.zeros(NUM_FUTURE), scene.ego.speed * TIMES_S], axis=1)


def constant_turn_rate(scene: Scene) -> np.ndarray:
    """On the circle of the present speed and yaw rate."""
    turned = scene.ego.yaw_rate * TIMES_S
    way = scene.ego.speed * TIMES_S
    # sin(a)/a and (1-cos(a))/a without a division by the yaw rate, which is mostly 0.
    forward, left = np.sinc(turned / np.pi), np.sinc(turned / 2 / np.pi) * np.sin(turned / 2)
    return np.stack([-way * left, way * forward], axis=1)


def route_at_constant_speed(scene: Scene) -> np.ndarray:
    """Along the path at the present speed; straight on where no path is known, and beyond its end."""
    path = np.array(scene.path).reshape(-1, 2)
    if len(path) < 2:
        return constant_velocity(scene)
    way = scene.ego.speed * TIMES_S
    end, last = arc_lengths(path)[-1], path[-1] - path[-2]
    beyond = np.maximum(way - end, 0.0)[:, None] * last / max(float(np.hypot(*last)), 1e-9)
    return at_arc(path, way) + beyond


BASELINES: Mapping[str, Planner] = {
    "stand still": stand_still,
    "constant velocity": constant_velocity,
    "constant turn rate": constant_turn_rate,
    "route at constant speed": route_at_constant_speed,
}

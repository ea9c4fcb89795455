"""Hand-made scenes, drives and their JSON forms for the tests of the pack `driving`."""

from __future__ import annotations

from typing import Any

import numpy as np

from pilotage.worlds.driving.scene import NUM_FUTURE, NUM_PAST, STEP_S, Ego, Point, Scene, SceneObject

TIMES = [STEP_S * (step + 1) for step in range(NUM_FUTURE)]


def straight(speed: float) -> tuple[Point, ...]:
    """The future of a car that goes straight on."""
    return tuple((0.0, speed * time) for time in TIMES)


def car(
    x: float, y: float, *, vx: float = 0.0, vy: float = 0.0, heading: float = 0.0, **other: Any
) -> SceneObject:
    """A car of 4 by 2 m that keeps its velocity and its heading."""
    future = tuple((x + vx * time, y + vy * time, heading) for time in TIMES)
    message: dict[str, Any] = {"kind": "car", "length": 4.0, "width": 2.0, "future": future} | other
    return SceneObject(x=x, y=y, heading=heading, vx=vx, vy=vy, **message)


def scene(
    *objects: SceneObject, speed: float = 10.0, future: tuple[Point, ...] | None = None, **other: Any
) -> Scene:
    """A scene on a straight road of one lane, on which the car goes straight on."""
    ego = {"yaw_rate": 0.0, "acceleration": 0.0} | other.pop("ego", {})
    past = tuple((0.0, -speed * STEP_S * step) for step in range(NUM_PAST, 0, -1))
    lane = ((-1.75, -20.0), (-1.75, 60.0), (1.75, 60.0), (1.75, -20.0))
    message: dict[str, Any] = {
        "id": "hand-made",
        "group": "hand",
        "lanes": (lane,),
        "route": (lane,),
        "path": tuple((0.0, 2.0 * place) for place in range(31)),
        "goal": "FORWARD",
        "future": straight(speed) if future is None else future,
    } | other
    return Scene(ego=Ego(speed=speed, past=past, **ego), objects=objects, **message)


def log_json(num_frames: int = 16, **other: Any) -> dict[str, Any]:
    """A drive straight east along the x axis at 10 m/s, and a car that goes the same way 20 m ahead at 5 m/s."""
    return {
        "id": "driving-hand-7",
        "group": "7",
        "map": "hand",
        "box": [450, 185],
        "lanes": [{"width": 350, "line": [[-2000, 0], [20000, 0]]}],
        "route": [[0]],
        "ego": [[500 * frame, 0, 0, 1000, 0, 0] for frame in range(num_frames)],
        "objects": [
            {
                "kind": "car",
                "box": [400, 200],
                "first": 2,
                "rows": [[2000 + 250 * frame, 0, 0, 500] for frame in range(2, num_frames - 2)],
            }
        ],
    } | other


def nuscenes_fields() -> dict[str, Any]:
    """A frame in GPT-Driver's form: 8 m/s forward, one car ahead to the right at 4 m/s, one pedestrian behind."""
    moves = np.zeros((2, 12))
    moves[0, 1::2] = 2.0
    return {
        "gt_boxes": np.array([[3.0, 12.0, 0, 2.0, 4.5, 1.6, -np.pi], [0.0, -9.0, 0, 0.6, 0.7, 1.7, 0.0]]),
        "gt_names": np.array(["car", "pedestrian"]),
        "gt_velocity": np.array([[0.0, 4.0], [np.nan, np.nan]]),
        "gt_agent_fut_trajs": moves,
        "gt_agent_fut_masks": np.array([[1, 1, 1, 1, 0, 0], [1, 1, 1, 1, 1, 1]], dtype=float),
        "gt_ego_lcf_feat": np.array([0.1, 8.0, 0, 0, 0.02, 4.08, 1.85, 8.0, 0.0]),
        "gt_ego_his_trajs": np.array([[0, -15.0], [0, -11.5], [0, -7.75], [0, -4.0], [0, 0]]),
        "gt_ego_his_diff": np.array([[0, 3.5], [0, 3.75], [0, 3.75], [0, 4.0]]),
        "gt_ego_fut_trajs": np.array([[0.1 * step, 4.0 * step] for step in range(7)]),
        "gt_ego_fut_masks": np.array([1, 1, 1, 1, 1, 0], dtype=float),
        "gt_ego_fut_cmd": np.array([0, 0, 1]),
        "scene_token": "scene-0061",
    }

"""Frames of nuScenes in GPT-Driver's form (`cached_nuscenes_info.pkl`), read as scenes.

The file is a dictionary, token -> fields. Read are

    gt_boxes [N, 7]             x, y, z, width, length, height, yaw; x to the right, y forward
    gt_names [N], gt_velocity [N, 2] (optional; what is not a number counts as 0)
    gt_agent_fut_trajs [N, 12]  six movements, each from the step before; gt_agent_fut_masks [N, 6]
    gt_ego_lcf_feat [9]         speeds, yaw rate at 4, length at 5, width at 6, speed forward (m/s) at 7
    gt_ego_his_trajs [5, 2], gt_ego_his_diff [4, 2], gt_ego_fut_trajs [7, 2], gt_ego_fut_masks [6] (optional)
    gt_ego_fut_cmd [3]          right, left, forward
    scene_token (optional)      the drive; without it every frame is a group of its own

The movements of objects are both what is predicted and what came: the form has no other prediction. Objects keep their
heading; there is no map, so no lanes and no path.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from pilotage.errors import BadStateError, PilotageError
from pilotage.worlds.driving.data.pickles import plain, read_pickle
from pilotage.worlds.driving.scene import (
    EGO_LENGTH,
    EGO_WIDTH,
    GOALS,
    MAX_OBJECTS,
    NUM_FUTURE,
    STEP_S,
    Scene,
    parse_scene,
)


def read_nuscenes(path: Path) -> Iterator[tuple[str, Scene | BadStateError]]:
    """(token, the scene or what is wrong with it) of every frame. Raises PilotageError for a file that is none."""
    held = read_pickle(path)
    if not isinstance(held, dict) or not all(isinstance(token, str) for token in held):
        raise PilotageError(f"{path} holds no dictionary of frames by token, which GPT-Driver's file is")
    for token, fields in held.items():
        try:
            yield token, scene_of_fields(token, fields)
        except BadStateError as error:
            yield token, error


def scene_of_fields(token: str, fields: Any) -> Scene:
    """The scene of one frame. Raises BadStateError that names the field."""
    if not isinstance(fields, Mapping):
        raise BadStateError("driving: the frame is no dictionary of fields")
    boxes = _array(fields, "gt_boxes", (None, 7))
    names = _array(fields, "gt_names", (len(boxes),), kind="U")
    moves = _array(fields, "gt_agent_fut_trajs", (len(boxes), 2 * NUM_FUTURE)).reshape(-1, NUM_FUTURE, 2)
    seen = _array(fields, "gt_agent_fut_masks", (len(boxes), NUM_FUTURE)) > 0
    velocities = np.zeros((len(boxes), 2))
    if "gt_velocity" in fields:
        velocities = np.nan_to_num(_array(fields, "gt_velocity", (len(boxes), 2), nan=True))
    places = np.cumsum(moves, axis=1) + boxes[:, None, :2]
    state = _array(fields, "gt_ego_lcf_feat", (9,))
    past = _array(fields, "gt_ego_his_trajs", (5, 2))
    steps = _array(fields, "gt_ego_his_diff", (4, 2))
    future = _array(fields, "gt_ego_fut_trajs", (NUM_FUTURE + 1, 2))
    known = np.ones(NUM_FUTURE)
    if "gt_ego_fut_masks" in fields:
        known = _array(fields, "gt_ego_fut_masks", (NUM_FUTURE,))
    right, left, _ = _array(fields, "gt_ego_fut_cmd", (3,))
    objects = []
    for number, box in enumerate(boxes):
        heading = _heading(float(box[6]))
        objects.append(
            {
                "kind": str(names[number]),
                "x": float(box[0]),
                "y": float(box[1]),
                "heading": heading,
                "width": float(box[3]),
                "length": float(box[4]),
                "vx": float(velocities[number, 0]),
                "vy": float(velocities[number, 1]),
                "predicted": places[number].tolist(),
                "future": [
                    [*place.tolist(), heading] if is_seen else None
                    for place, is_seen in zip(places[number], seen[number], strict=True)
                ],
            }
        )
    group = fields.get("scene_token", token)
    return parse_scene(
        {
            "id": token,
            "group": group,
            "ego": {
                "speed": float(state[7]),
                "yaw_rate": float(state[4]),
                "acceleration": float((steps[-1, 1] - steps[-2, 1]) / STEP_S**2),
                "past": past[:4].tolist(),
                "length": float(state[5]) or EGO_LENGTH,
                "width": float(state[6]) or EGO_WIDTH,
            },
            "objects": objects,
            "goal": GOALS[1] if right > 0 else GOALS[0] if left > 0 else GOALS[2],
            "future": future[1:].tolist(),
            "mask": [bool(x > 0) for x in known],
        }
    )


def _heading(yaw: float) -> float:
    """Ours, of a yaw as mmdetection3d once had it: clockwise, from the axis opposite to forward."""
    return -yaw % (2 * math.pi) - math.pi


def _array(
    fields: Mapping[str, Any], name: str, shape: tuple[int | None, ...], *, kind: str = "", nan: bool = False
) -> np.ndarray:
    """A field as an array of this shape; None is any length up to `MAX_OBJECTS`."""
    if name not in fields:
        raise BadStateError(f"driving: the frame has no field {name!r}")
    try:
        array = plain(fields[name])
    except ValueError as error:
        raise BadStateError(f"driving: {name}: {error}") from None
    if array.size == 0 and shape[0] in (None, 0):
        # Without objects, writers keep no second axis.
        array = np.zeros((0, *(side or 0 for side in shape[1:])), dtype=str if kind else float)
    right = array.ndim == len(shape) and all(
        have == want or (want is None and have <= MAX_OBJECTS)
        for have, want in zip(array.shape, shape, strict=True)
    )
    if not right:
        wanted = [side if side is not None else f"up to {MAX_OBJECTS}" for side in shape]
        raise BadStateError(f"driving: {name} has the shape {list(array.shape)}, not {wanted}")
    if kind:
        if array.dtype.kind not in kind:
            raise BadStateError(f"driving: {name} holds no texts")
        return array
    if array.dtype.kind not in "iufb":
        raise BadStateError(f"driving: {name} holds no numbers")
    numbers = array.astype(np.float64)
    if not nan and not np.isfinite(numbers).all():
        raise BadStateError(f"driving: {name} holds what is no number")
    return numbers

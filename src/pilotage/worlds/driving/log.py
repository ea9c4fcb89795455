"""A recorded drive: the car and all that was near it every half second, and the map; its frames are scenes.

The JSON form holds whole numbers (centimetres, milliradians, and these a second) in the map's own axes:

    {"id", "group", "map", "box": [length, width], "lanes": [{"width", "line": [[x, y], ...]}, ...],
     "route": [[lane, ...] of each road on the way], "ego": [[x, y, heading, speed, yaw rate, acceleration], ...],
     "objects": [{"kind", "box", "first": frame, "rows": [[x, y, heading, speed] or null, ...]}, ...]}
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from pilotage.errors import BadStateError
from pilotage.worlds.driving.roads import Lane, Roads, to_ego, turn_along
from pilotage.worlds.driving.scene import (
    GOALS,
    MAX_CORNERS,
    MAX_OBJECTS,
    MAX_POLYGONS,
    NUM_FUTURE,
    NUM_PAST,
    Ego,
    Goal,
    Point,
    Pose,
    Scene,
    SceneObject,
)
from pilotage.worlds.grid import shorten

REACH_M = 50.0
"""What is farther from the car is in no scene."""
GOAL_M, GOAL_RAD = 40.0, 0.35
"""A path that turns by more than this over so much of its length is a goal to the left or right."""
PATH_M = 60.0
MAX_FRAMES = 20_000
_MAX_CM = 10_000_000
EGO_COLUMNS, OBJECT_COLUMNS = 6, 4


@dataclass(frozen=True, kw_only=True, eq=False)
class LogObject:
    """Something else on the road."""

    kind: str
    length: float
    width: float
    rows: np.ndarray
    """float [frames of the log, 4]: x, y, heading, speed; NaN where it was not seen."""


@dataclass(frozen=True, kw_only=True, eq=False)
class DriveLog:
    """A drive in metres and radians, in the map's axes."""

    id: str
    group: str
    """The map's seed."""
    map: str
    """Its kind of roads."""
    length: float
    width: float
    roads: Roads
    ego: np.ndarray
    """float [frames, 6]: x, y, heading, speed, yaw rate, acceleration."""
    objects: tuple[LogObject, ...]

    @property
    def frames(self) -> range:
        """Those with a whole past and a whole future."""
        return range(NUM_PAST, len(self.ego) - NUM_FUTURE)


def scenes(log: DriveLog, stride: int = 1) -> Iterator[Scene]:
    """Every `stride`-th of the log's frames, as scenes."""
    for frame in log.frames[::stride]:
        yield scene_at(log, frame)


def scene_at(log: DriveLog, frame: int) -> Scene:
    """What there was at a frame, and its future, in the car's own axes."""
    x, y, heading, speed, yaw_rate, acceleration = (float(value) for value in log.ego[frame])
    pose = x, y, heading
    past = to_ego(log.ego[frame - NUM_PAST : frame, :2], pose)
    future = to_ego(log.ego[frame + 1 : frame + 1 + NUM_FUTURE, :2], pose)
    here = log.ego[frame, :2]
    distances = log.roads.distances(here)
    road, lane = log.roads.nearest(distances)
    path = to_ego(log.roads.follow(road, lane, here, PATH_M), pose)
    polygons = log.roads.polygons(pose)
    near = [int(number) for number in np.flatnonzero(distances <= REACH_M)]
    ahead = {number for of_road in log.roads.route[road:] for number in of_road}
    return Scene(
        id=f"{log.id}-{frame:03d}",
        group=log.group,
        ego=Ego(
            speed=speed,
            yaw_rate=yaw_rate,
            acceleration=acceleration,
            past=_points(past),
            length=log.length,
            width=log.width,
        ),
        objects=tuple(filter(None, (_object_at(one, frame, pose) for one in log.objects))),
        lanes=tuple(_points(polygons[each]) for each in near),
        route=tuple(_points(polygons[each]) for each in near if each in ahead),
        path=_points(path),
        goal=_goal(path),
        future=_points(future),
    )


def mirrored(log: DriveLog) -> DriveLog:
    """The same drive with left and right exchanged, as it would be on the other side of the road."""
    flip_line, flip_ego, flip_row = (
        np.array([1.0, -1.0]),
        np.array([1.0, -1.0, -1.0, 1.0, -1.0, 1.0]),
        np.array([1.0, -1.0, -1.0, 1.0]),
    )
    return replace(
        log,
        id=f"{log.id}-m",
        roads=replace(
            log.roads, lanes=tuple(replace(lane, line=lane.line * flip_line) for lane in log.roads.lanes)
        ),
        ego=log.ego * flip_ego,
        objects=tuple(replace(one, rows=one.rows * flip_row) for one in log.objects),
    )


def parse_log(data: Mapping[str, Any]) -> DriveLog:
    """The log in `data`, the JSON form. Raises BadStateError, and nothing else, that names the field."""
    try:
        ego = _table(data["ego"], "ego", EGO_COLUMNS, MAX_FRAMES)
        num_frames = len(ego)
        if num_frames <= NUM_PAST + NUM_FUTURE:
            raise BadStateError(
                f"driving: ego has {num_frames} frames: a log has more than {NUM_PAST + NUM_FUTURE}"
            )
        lanes = tuple(
            Lane(
                line=_line(lane["line"], f"lanes[{place}].line"),
                width=_length(lane["width"], f"lanes[{place}].width"),
            )
            for place, lane in enumerate(_list(data["lanes"], "lanes", MAX_POLYGONS))
        )
        route = tuple(
            tuple(_lane_number(number, len(lanes)) for number in _list(road, "route", MAX_POLYGONS))
            for road in _list(data["route"], "route", MAX_POLYGONS)
        )
        if not lanes or not route or not all(route):
            raise BadStateError("driving: route is empty: it lists the lanes of each road on the way")
        objects = _list(data["objects"], "objects", 16 * MAX_OBJECTS)
        length, width = _box(data["box"], "box")
        return DriveLog(
            id=_name(data["id"], "id"),
            group=_name(data["group"], "group"),
            map=_name(data["map"], "map"),
            length=length,
            width=width,
            roads=Roads(lanes=lanes, route=route),
            ego=ego / np.array([100, 100, 1000, 100, 1000, 100]),
            objects=tuple(
                _parse_object(one, f"objects[{place}]", num_frames) for place, one in enumerate(objects)
            ),
        )
    except KeyError as error:
        raise BadStateError(f"driving: the log has no field {error.args[0]!r}") from None
    except TypeError:
        raise BadStateError(
            "driving: the log's lanes and objects are JSON objects, and one of them is not"
        ) from None


def _parse_object(data: Mapping[str, Any], where: str, num_frames: int) -> LogObject:
    first, told = data["first"], _list(data["rows"], f"{where}.rows", num_frames)
    if not isinstance(first, int) or not 0 <= first <= num_frames - len(told):
        raise BadStateError(
            f"driving: {where}.first is {shorten(first)} with {len(told)} rows, in a log of {num_frames} frames"
        )
    rows = np.full((num_frames, OBJECT_COLUMNS), np.nan)
    seen = [place for place, row in enumerate(told) if row is not None]
    if seen:
        table = _table([told[place] for place in seen], f"{where}.rows", OBJECT_COLUMNS, num_frames)
        rows[[first + place for place in seen]] = table / np.array([100, 100, 1000, 100])
    length, width = _box(data["box"], f"{where}.box")
    return LogObject(kind=_name(data["kind"], f"{where}.kind"), length=length, width=width, rows=rows)


def _object_at(one: LogObject, frame: int, pose: Pose) -> SceneObject | None:
    x, y, heading, speed = one.rows[frame]
    if np.isnan(x):
        return None
    (place,) = to_ego(np.array([[x, y]]), pose)
    if np.hypot(*place) > REACH_M:
        return None
    turned = _wrapped(heading - pose[2])
    after = one.rows[frame + 1 : frame + 1 + NUM_FUTURE]
    places, headings = to_ego(after[:, :2], pose), _wrapped(after[:, 2] - pose[2])
    return SceneObject(
        kind=one.kind,
        x=float(place[0]),
        y=float(place[1]),
        heading=float(turned),
        length=one.length,
        width=one.width,
        vx=float(-speed * np.sin(turned)),
        vy=float(speed * np.cos(turned)),
        future=tuple(
            None if np.isnan(at[0]) else (float(at[0]), float(at[1]), float(angle))
            for at, angle in zip(places, headings, strict=True)
        ),
    )


def _goal(path: np.ndarray) -> Goal:
    left, right, forward = GOALS
    turned = turn_along(path, GOAL_M)
    return forward if abs(turned) <= GOAL_RAD else left if turned > 0 else right


def _wrapped(angle: Any) -> Any:
    return (angle + np.pi) % (2 * np.pi) - np.pi


def _points(points: np.ndarray) -> tuple[Point, ...]:
    return tuple((x, y) for x, y in points.tolist())


def _table(value: Any, where: str, num_columns: int, most: int) -> np.ndarray:
    """float [rows, columns] of rows of whole numbers."""
    rows = _list(value, where, most)
    for row in rows:
        is_row = isinstance(row, list) and len(row) == num_columns
        if not is_row or not all(type(x) is int and abs(x) <= _MAX_CM for x in row):
            raise BadStateError(
                f"driving: {where} holds {shorten(row)}, not {num_columns} whole numbers up to {_MAX_CM}"
            )
    if not rows:
        raise BadStateError(f"driving: {where} is empty")
    return np.array(rows, dtype=np.float64)


def _line(value: Any, where: str) -> np.ndarray:
    line = _table(value, where, 2, MAX_CORNERS // 2) / 100
    if len(line) < 2:
        raise BadStateError(f"driving: {where} has one point: a lane has a beginning and an end")
    return line


def _list(value: Any, where: str, most: int) -> list[Any]:
    if not isinstance(value, list) or len(value) > most:
        told = f"{len(value)} entries" if isinstance(value, list) else shorten(value)
        raise BadStateError(f"driving: {where} is {told}, not a list of at most {most}")
    return value


def _length(value: Any, where: str) -> float:
    if type(value) is not int or not 0 < value <= 5_000:
        raise BadStateError(f"driving: {where} is {shorten(value)}, not a whole number of cm from 1 to 5000")
    return value / 100


def _box(value: Any, where: str) -> tuple[float, float]:
    sides = _list(value, where, 2)
    if len(sides) != 2:
        raise BadStateError(f"driving: {where} is {shorten(value)}, not [length, width] in cm")
    return _length(sides[0], where), _length(sides[1], where)


def _lane_number(value: Any, num_lanes: int) -> int:
    if type(value) is not int or not 0 <= value < num_lanes:
        raise BadStateError(f"driving: route names lane {shorten(value)}; there are {num_lanes}")
    return value


def _name(value: Any, where: str) -> str:
    if not isinstance(value, str) or not 0 < len(value) <= 80 or not value.isprintable():
        raise BadStateError(
            f"driving: {where} is {shorten(value)}, not a printable text of 1 to 80 characters"
        )
    return value

"""One frame of a drive, as the ego car has it: what is around, where it is to go, and what came of it.

Frame of the ego car: the origin is the middle of the car, x points to its right, y forward, in metres. Headings are
angles from the forward axis, in radians, positive to the left; yaw rates likewise. Steps are half a second long: four
of the past, six of the future.

The JSON form has the names of the fields. `future` (of the ego car and of objects) and `mask` are what nobody can know
at the time: `public_json` leaves them out.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from pilotage.errors import BadStateError
from pilotage.worlds.grid import shorten

STEP_S = 0.5
NUM_PAST, NUM_FUTURE = 4, 6
EGO_LENGTH, EGO_WIDTH = 4.084, 1.85
"""The box of the public evaluator's car, which stands in where a file does not tell the car's own."""

Goal = Literal["LEFT", "RIGHT", "FORWARD"]
GOALS: tuple[Goal, ...] = get_args(Goal)
Point = tuple[float, float]
Pose = tuple[float, float, float]
"""x, y, heading."""
Polygon = tuple[Point, ...]

MAX_PLACE_M = 1_000.0
MAX_SPEED = 100.0
MAX_BOX_M = 50.0
MAX_OBJECTS, MAX_POLYGONS, MAX_CORNERS = 512, 2_048, 512
MAX_NAME = 120


@dataclass(frozen=True, kw_only=True)
class Ego:
    """The car that plans."""

    speed: float
    """Forward, m/s."""
    yaw_rate: float
    """rad/s, positive to the left."""
    acceleration: float
    """Forward, m/s^2."""
    past: tuple[Point, ...]
    """Where it was 2, 1.5, 1 and 0.5 s ago."""
    length: float = EGO_LENGTH
    width: float = EGO_WIDTH


@dataclass(frozen=True, kw_only=True)
class SceneObject:
    """Whatever else is on the road."""

    kind: str
    """`car`, `truck`, `pedestrian`, …"""
    x: float
    y: float
    heading: float
    length: float
    width: float
    vx: float
    """Over ground, along the ego car's axes, m/s."""
    vy: float
    predicted: tuple[Point, ...] | None = None
    """Where somebody expects it at the six steps, known at the time; None where nobody says."""
    future: tuple[Pose | None, ...] | None = None
    """Where it was then; None of a step at which it was not seen."""

    @property
    def speed(self) -> float:
        return math.hypot(self.vx, self.vy)

    def expected(self) -> tuple[Point, ...]:
        """`predicted`, or a straight line at its velocity."""
        if self.predicted is not None:
            return self.predicted
        times = [STEP_S * (step + 1) for step in range(NUM_FUTURE)]
        return tuple((self.x + self.vx * t, self.y + self.vy * t) for t in times)


@dataclass(frozen=True, kw_only=True)
class Scene:
    """A frame with its surroundings and its future."""

    id: str
    group: str
    """What no split and no interval may cut through: the map's seed, the recorded drive."""
    ego: Ego
    objects: tuple[SceneObject, ...] = ()
    lanes: tuple[Polygon, ...] = ()
    route: tuple[Polygon, ...] = ()
    """Those of the lanes that lead to the goal."""
    path: tuple[Point, ...] = ()
    """The middle of the lane that the car is to follow, from beside it onwards; empty where no map is known."""
    goal: Goal
    future: tuple[Point, ...]
    """Where the ego car was at the six steps."""
    mask: tuple[bool, ...] = (True,) * NUM_FUTURE
    """False at steps for which `future` is not known."""


def to_json(scene: Scene) -> dict[str, Any]:
    """The canonical JSON form, numbers to the millimetre; `parse_scene` is its inverse."""
    objects = [_object_json(one, with_future=True) for one in scene.objects]
    return {
        **public_json(scene),
        "objects": objects,
        "future": _points_json(scene.future),
        **({} if all(scene.mask) else {"mask": list(scene.mask)}),
    }


def public_json(scene: Scene) -> dict[str, Any]:
    """The same without what is not known at the time."""
    ego = scene.ego
    return {
        "id": scene.id,
        "group": scene.group,
        "ego": {
            "speed": _round(ego.speed),
            "yaw_rate": _round(ego.yaw_rate),
            "acceleration": _round(ego.acceleration),
            "past": _points_json(ego.past),
            "length": _round(ego.length),
            "width": _round(ego.width),
        },
        "objects": [_object_json(one, with_future=False) for one in scene.objects],
        "lanes": [_points_json(polygon) for polygon in scene.lanes],
        "route": [_points_json(polygon) for polygon in scene.route],
        "path": _points_json(scene.path),
        "goal": scene.goal,
    }


def parse_scene(data: Any) -> Scene:
    """The scene in `data`, its JSON form. Raises BadStateError, and nothing else, that names the field."""
    fields = _Fields(data, "scene")
    future = fields.points("future", NUM_FUTURE)
    mask = fields.get("mask", [True] * NUM_FUTURE)
    if not isinstance(mask, list) or len(mask) != NUM_FUTURE or not all(isinstance(x, bool) for x in mask):
        raise BadStateError(f"driving: mask is {shorten(mask)}, not {NUM_FUTURE} of true and false")
    return _parse(fields, future, tuple(mask))


def parse_public(data: Any) -> Scene:
    """The same of the public form; the future is told as standing still, and masked."""
    return _parse(_Fields(data, "scene"), ((0.0, 0.0),) * NUM_FUTURE, (False,) * NUM_FUTURE)


def _parse(fields: _Fields, future: tuple[Point, ...], mask: tuple[bool, ...]) -> Scene:
    ego = _Fields(fields.need("ego"), "ego")
    goal = fields.need("goal")
    if goal not in GOALS:
        raise BadStateError(f"driving: goal is {shorten(goal)}, not one of {', '.join(GOALS)}")
    objects = fields.list("objects", MAX_OBJECTS)
    return Scene(
        id=fields.name("id"),
        group=fields.name("group"),
        ego=Ego(
            speed=ego.number("speed", MAX_SPEED),
            yaw_rate=ego.number("yaw_rate", 10.0),
            acceleration=ego.number("acceleration", MAX_SPEED),
            past=ego.points("past", NUM_PAST),
            length=ego.side("length", EGO_LENGTH),
            width=ego.side("width", EGO_WIDTH),
        ),
        objects=tuple(_parse_object(one, f"objects[{place}]") for place, one in enumerate(objects)),
        lanes=fields.polygons("lanes"),
        route=fields.polygons("route"),
        path=_points(fields.get("path", []), "path", most=MAX_CORNERS),
        goal=goal,
        future=future,
        mask=mask,
    )


def _parse_object(data: Any, where: str) -> SceneObject:
    fields = _Fields(data, where)
    predicted, future = fields.get("predicted"), fields.get("future")
    if future is not None and (not isinstance(future, list) or len(future) != NUM_FUTURE):
        raise BadStateError(f"driving: {where}.future is {shorten(future)}, not {NUM_FUTURE} poses or nulls")
    return SceneObject(
        kind=fields.name("kind"),
        x=fields.number("x", MAX_PLACE_M),
        y=fields.number("y", MAX_PLACE_M),
        heading=fields.number("heading", 10.0),
        length=fields.side("length"),
        width=fields.side("width"),
        vx=fields.number("vx", MAX_SPEED),
        vy=fields.number("vy", MAX_SPEED),
        predicted=None if predicted is None else fields.points("predicted", NUM_FUTURE),
        future=None if future is None else tuple(_pose(pose, f"{where}.future") for pose in future),
    )


def _pose(value: Any, where: str) -> Pose | None:
    if value is None:
        return None
    if not isinstance(value, list) or len(value) != 3:
        raise BadStateError(f"driving: {where} holds {shorten(value)}, not [x, y, heading] or null")
    x, y, heading = (_number(part, where, MAX_PLACE_M) for part in value)
    return x, y, heading


class _Fields:
    """An object of the JSON form, read field by field; every error says which."""

    def __init__(self, data: Any, where: str) -> None:
        if not isinstance(data, Mapping):
            raise BadStateError(f"driving: {where} is {shorten(data)}, not an object")
        self._data = data
        self._where = where

    def need(self, field: str) -> Any:
        if field not in self._data:
            raise BadStateError(
                f"driving: {self._where} has no field {field!r}; it has "
                f"{shorten(sorted(map(str, self._data)), 200)}"
            )
        return self._data[field]

    def get(self, field: str, default: Any = None) -> Any:
        return self._data.get(field, default)

    def name(self, field: str) -> str:
        value = self.need(field)
        if not isinstance(value, str) or not 0 < len(value) <= MAX_NAME or not value.isprintable():
            raise BadStateError(
                f"driving: {self._of(field)} is {shorten(value)}, not a printable text of 1 to {MAX_NAME} characters"
            )
        return value

    def number(self, field: str, most: float) -> float:
        return _number(self.need(field), self._of(field), most)

    def side(self, field: str, default: float | None = None) -> float:
        value = _number(
            self.need(field) if default is None else self.get(field, default), self._of(field), MAX_BOX_M
        )
        if value <= 0:
            raise BadStateError(f"driving: {self._of(field)} is {value}: a box has sides longer than 0")
        return value

    def list(self, field: str, most: int) -> Sequence[Any]:
        value = self.get(field, [])
        if not isinstance(value, list) or len(value) > most:
            told = (
                f"{len(value)} entries, more than {most}" if isinstance(value, list) else f"{shorten(value)}"
            )
            raise BadStateError(f"driving: {self._of(field)} is {told}; a list of at most {most} is meant")
        return value

    def points(self, field: str, num: int) -> tuple[Point, ...]:
        points = _points(self.need(field), self._of(field), most=num)
        if len(points) != num:
            raise BadStateError(f"driving: {self._of(field)} has {len(points)} points, not {num}")
        return points

    def polygons(self, field: str) -> tuple[Polygon, ...]:
        polygons = self.list(field, MAX_POLYGONS)
        return tuple(
            _points(one, f"{self._of(field)}[{place}]", most=MAX_CORNERS)
            for place, one in enumerate(polygons)
        )

    def _of(self, field: str) -> str:
        return field if self._where == "scene" else f"{self._where}.{field}"


def _points(value: Any, where: str, *, most: int) -> tuple[Point, ...]:
    if not isinstance(value, list) or len(value) > most:
        told = f"{len(value)} entries" if isinstance(value, list) else shorten(value)
        raise BadStateError(f"driving: {where} is {told}, not a list of at most {most} points [x, y]")
    found = []
    for point in value:
        if not isinstance(point, list) or len(point) != 2:
            raise BadStateError(f"driving: {where} holds {shorten(point)}, not a point [x, y]")
        found.append((_number(point[0], where, MAX_PLACE_M), _number(point[1], where, MAX_PLACE_M)))
    return tuple(found)


def _number(value: Any, where: str, most: float) -> float:
    """A finite number of at most this size."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not -most <= value <= most:
        raise BadStateError(f"driving: {where} is {shorten(value)}, not a number from {-most:g} to {most:g}")
    return float(value)


def _object_json(one: SceneObject, *, with_future: bool) -> dict[str, Any]:
    told: dict[str, Any] = {"kind": one.kind}
    names = ("x", "y", "heading", "length", "width", "vx", "vy")
    told |= {name: _round(getattr(one, name)) for name in names}
    if one.predicted is not None:
        told["predicted"] = _points_json(one.predicted)
    if with_future and one.future is not None:
        told["future"] = [None if pose is None else [_round(x) for x in pose] for pose in one.future]
    return told


def _points_json(points: Sequence[Point]) -> list[list[float]]:
    return [[_round(x), _round(y)] for x, y in points]


def _round(value: float) -> float:
    # + 0.0: a rounded -0.0001 would be written as -0.0.
    return round(float(value), 3) + 0.0

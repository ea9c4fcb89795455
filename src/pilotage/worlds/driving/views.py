"""Who sees what of a frame: the planner's views, in words or as a picture, and one that knows what came of it.

Placeholders of the prompt files: `$rules`, `$form` and `$legend` are of the world alone; `$ego`, `$objects` and `$path`
of the frame. Views are made of the public scene; only `scene_privileged` is given the true futures of objects, which
exist in no car: it can teach and be measured, and nobody can drive by it (`DRIVABLE` has the others). No view tells the
future of the car itself.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from PIL import Image

from pilotage.errors import PilotageError
from pilotage.records import Moment, View
from pilotage.views.prompts import PromptSet, prompt_template
from pilotage.views.registry import ViewSpec
from pilotage.worlds.driving.render import LEGEND
from pilotage.worlds.driving.scene import Point, Scene, SceneObject, parse_public, parse_scene
from pilotage.worlds.driving.words import (
    PACES,
    WAYS,
    in_sight,
    kind_text,
    number_text,
    place_text,
    point_text,
    reference_answer,
)
from pilotage.worlds.driving.world import scene_of

RULES: Mapping[PromptSet, str] = {
    "full": "You drive a car. Places are (x,y) in metres from the middle of your car, x to the right and y ahead; "
    "speeds are in m/s. Plan the next three seconds: where your car is to be after 0.5, 1, 1.5, 2, 2.5 and 3 seconds. "
    "Reach the goal and hit nothing.",
    "brief": "Drive: six places (x right, y ahead, metres), half a second apart.",
}
FORM: Mapping[PromptSet, str] = {
    "full": "Answer in three lines, numbers with one decimal.\n"
    "Notable: each object that you might come too near, with its place and the time; or none.\n"
    f"Meta action: one of {', '.join(WAYS)}, then a comma and one of {', '.join(PACES[1:])}; for standing STOP alone.\n"
    "<answer>(x,y) (x,y) (x,y) (x,y) (x,y) (x,y)</answer>",
    "brief": "Notable: ... Meta action: ... <answer>six places</answer>",
}
PATH_STRIDE = 2
"""Every second point of the path is told: every four metres."""


def _text(moment: Moment, prompts: PromptSet) -> View:
    """The car's state, and the objects near it with where they are expected: what the papers' planners read."""
    scene = _known(moment)
    told = [f"{_named(one)} to {point_text(one.expected()[-1])}" for one in _seen(scene)]
    return _words("scene_text", prompts, scene, objects=_listed(told))


def _causal(moment: Moment, prompts: PromptSet) -> View:
    """All that can be known at the time: every object with its box and its motion, and the path to be followed."""
    scene = _known(moment)
    near_first = sorted(scene.objects, key=lambda one: (one.x**2 + one.y**2, one.kind))
    path = " ".join(point_text(point) for point in scene.path[::PATH_STRIDE])
    return _words(
        "scene_causal", prompts, scene, objects=_listed(map(_moving, near_first)), path=path or "not known"
    )


def _privileged(moment: Moment, prompts: PromptSet) -> View:
    """The paper's view with where the objects truly were at each of the six steps."""
    scene = _whole(moment)
    told = [f"{_named(one)} then {_future_text(one)}" for one in _seen(scene)]
    return _words("scene_privileged", prompts, scene, objects=_listed(told))


def _pixels(moment: Moment, prompts: PromptSet) -> View:
    """The picture, and the car's own state, which no picture shows."""
    if not moment.seen.images:
        raise PilotageError(f"{moment.example.id} has no picture for the scene_pixels view to show")
    return _picture("scene_pixels", moment, prompts, moment.seen.images)


def _zeroed(moment: Moment, prompts: PromptSet) -> View:
    """The same with a black picture of the same size: what a planner does without looking."""
    return _picture("scene_zeroed", moment, prompts, tuple(map(black, moment.seen.images)))


def black(png: bytes) -> bytes:
    """A black PNG of the same size."""
    with Image.open(io.BytesIO(png)) as image:
        size = image.size
    file = io.BytesIO()
    Image.new("RGB", size).save(file, "PNG")
    return file.getvalue()


def _words(name: str, prompts: PromptSet, scene: Scene, **told: str) -> View:
    text = _fill(name, prompts, ego=ego_text(scene), **told)
    return View(name=name, messages=[{"role": "user", "content": text}])


def _picture(name: str, moment: Moment, prompts: PromptSet, images: tuple[bytes, ...]) -> View:
    text = _fill("scene_pixels", prompts, ego=ego_text(_known(moment)))
    content: list[dict[str, Any]] = [*({"type": "image"} for _ in images), {"type": "text", "text": text}]
    return View(name=name, messages=[{"role": "user", "content": content}], images=images)


def _fill(name: str, prompts: PromptSet, **told: str) -> str:
    legend = ", ".join(f"{what} {colour.name}" for what, colour in LEGEND.items())
    known = {"rules": RULES[prompts], "form": FORM[prompts], "legend": legend}
    return prompt_template("pilotage.worlds.driving", prompts, name).substitute(known | told)


def ego_text(scene: Scene) -> str:
    """`Goal: LEFT. Speed: 6.4. Yaw rate: 0.00. Acceleration: 0.2. Past: (0.0,-12.8) …`, the past from 2 s ago on."""
    ego = scene.ego
    past = " ".join(map(point_text, ego.past))
    turning = f"{round(ego.yaw_rate, 2) + 0.0:.2f}"
    return (
        f"Goal: {scene.goal}. Speed: {number_text(ego.speed)}. Yaw rate: {turning}. "
        f"Acceleration: {number_text(ego.acceleration)}. Past: {past}."
    )


def _seen(scene: Scene) -> list[SceneObject]:
    return [scene.objects[number] for number in in_sight(scene)]


def _named(one: SceneObject) -> str:
    return f"{kind_text(one)} {place_text(one)}"


def _moving(one: SceneObject) -> str:
    size = f"{number_text(one.width)} by {number_text(one.length)}"
    heading = f"{round(one.heading, 2) + 0.0:.2f}"
    return f"{_named(one)}, {size}, heading {heading}, velocity {point_text((one.vx, one.vy))}"


def _future_text(one: SceneObject) -> str:
    poses: Sequence[Any] = one.future or (None,) * len(one.expected())
    places: list[Point | None] = [None if pose is None else pose[:2] for pose in poses]
    return " ".join("unknown" if place is None else point_text(place) for place in places)


def _listed(told: Any) -> str:
    return "; ".join(told) or "none"


def _known(moment: Moment) -> Scene:
    """What can be known of the moment's scene. Raises PilotageError for an example without one."""
    if "scene" not in moment.example.data:
        raise PilotageError(f"{moment.example.id} has no scene to show")
    return parse_public(moment.example.data["scene"])


def _whole(moment: Moment) -> Scene:
    state = None if moment.seen.privileged is None else moment.seen.privileged.state
    if state is None:
        raise PilotageError(f"{moment.example.id}: the scene_privileged view needs the true futures")
    return parse_scene(state)


def _reference(moment: Moment) -> str:
    return reference_answer(scene_of(moment.example))


def _spec(
    name: str,
    make: Callable[[Moment, PromptSet], View],
    *,
    privileged: bool = False,
    shows_picture: bool = False,
) -> ViewSpec:
    return ViewSpec(
        name=name, make=make, privileged=privileged, shows_picture=shows_picture, reference=_reference
    )


VIEWS: Mapping[str, ViewSpec] = {
    spec.name: spec
    for spec in (
        _spec("scene_text", _text),
        _spec("scene_pixels", _pixels, shows_picture=True),
        _spec("scene_causal", _causal),
        _spec("scene_privileged", _privileged, privileged=True),
        _spec("scene_zeroed", _zeroed, shows_picture=True),
    )
}
DRIVABLE = tuple(name for name, spec in VIEWS.items() if not spec.privileged)
"""Views that can be made while a car drives."""

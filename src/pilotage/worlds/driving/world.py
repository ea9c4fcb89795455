"""The world of logged frames: one look at the road, one plan. A frame is an episode of one turn.

What is public is the scene as it can be known at the time, and its picture; what came of it is privileged. An answer
that cannot be read fails in every figure: it misses, it hits something at every step, and its distances are those of a
car that stays where it is. `parsed` says apart how many answers are so.
"""

from __future__ import annotations

import numpy as np

from pilotage.errors import PilotageError
from pilotage.records import Condition, Example, Measure, Observation, Outcome, Privileged
from pilotage.worlds.driving.answers import PROBLEMS, parse_meta_action, parse_plan
from pilotage.worlds.driving.openloop import (
    CONVENTIONS,
    averaged,
    geometric_hits,
    published_hits,
    step_errors,
)
from pilotage.worlds.driving.render import picture
from pilotage.worlds.driving.scene import NUM_FUTURE, Scene, parse_scene, public_json, to_json
from pilotage.worlds.driving.situations import situation_of
from pilotage.worlds.driving.split import split_of_group
from pilotage.worlds.driving.words import meta_action
from pilotage.worlds.world import OneAnswer

DRIVE = "drive"
"""No `plan`: rows of that role are of symbolic states, and are explained field by field."""
WORLD = "driving"
SIDE_PX = 128
MISS_M = 2.0
"""A plan whose last place is farther than this from where the car was is a miss."""


def _metres(name: str, title: str) -> Measure:
    return Measure(name=name, title=title, better="lower", unit="m", bounds=None, is_flag=False)


def _share(name: str, title: str) -> Measure:
    return Measure(name=name, title=title, better="lower", is_flag=False)


class Driving:
    """Planning from logged frames; examples come from logs (`pilotage data driving`) or from files of scenes."""

    name = WORLD
    title = "Driving"
    roles = (DRIVE,)
    reasons = ("success", "missed", "collision", *PROBLEMS)
    answer_form = "block"
    """Six places stand in an answer block."""
    measures = (
        Measure(name="parsed", title="parsed"),
        Measure(name="missed", title="last place missed by over 2 m", better="lower"),
        Measure(name="collided", title="turned boxes meet", better="lower"),
        Measure(name="meta_right", title="meta action right"),
        _metres("l2_stp3", "L2 by STP-3"),
        _metres("l2_uniad", "L2 by UniAD"),
        *(_metres(f"l2_step_{step}", f"L2 at {step / 2:g} s") for step in range(1, NUM_FUTURE + 1)),
        _share("collision_stp3", "collision by STP-3"),
        _share("collision_uniad", "collision by UniAD"),
    )
    usual = ("image", "text")
    conditions = (
        Condition(name="image", title="from the picture and the car's state", views={DRIVE: "scene_pixels"}),
        Condition(name="text", title="from objects and predictions in words", views={DRIVE: "scene_text"}),
        Condition(name="causal", title="from all that can be known, in words", views={DRIVE: "scene_causal"}),
        Condition(
            name="privileged",
            title="from words with true futures (cannot drive)",
            views={DRIVE: "scene_privileged"},
        ),
        Condition(name="no_picture", title="with a black picture", views={DRIVE: "scene_zeroed"}),
    )

    def open(self, example: Example, *, role: str | None = None, strict: bool = False) -> FrameSession:
        if role not in (None, DRIVE):
            raise PilotageError(f"driving has no role {role!r}; there is {DRIVE}")
        return FrameSession(example)


class FrameSession(OneAnswer):
    """One frame under way."""

    def __init__(self, example: Example) -> None:
        super().__init__(example)
        self._scene = scene_of(example)

    def outcome(self) -> Outcome:
        return judge_plan(self._scene, self._text or "")


def judge_plan(scene: Scene, text: str) -> Outcome:
    """What an answer is worth. Never raises on any text."""
    parsed = parse_plan(text)
    points = parsed.points or ((0.0, 0.0),) * NUM_FUTURE
    figures = plan_figures(scene, np.array(points), is_read=parsed.points is not None)
    right = meta_action(scene.ego.speed, scene.future)
    said = parse_meta_action(text)
    figures["meta_right"] = said == right
    if parsed.problem is not None:
        reason = parsed.problem
    elif figures["collided"]:
        reason = "collision"
    else:
        reason = "missed" if figures["missed"] else "success"
    return Outcome(
        success=reason == "success",
        reason=reason,
        measures=figures,
        fields={} if said is None else {"Meta action": said},
        right={"Meta action": said == right},
    )


def plan_figures(scene: Scene, plan_TD: np.ndarray, *, is_read: bool = True) -> dict[str, float]:
    """The measures of a plan, whoever made it; of a planner that wrote none, `is_read` is False."""
    mask = np.array(scene.mask)
    errors = step_errors(plan_TD, np.array(scene.future), mask)
    everywhere = dict.fromkeys(CONVENTIONS, np.ones(NUM_FUTURE, dtype=bool))
    hits = published_hits(plan_TD, scene) if is_read else everywhere
    return {
        "parsed": is_read,
        "missed": not is_read or bool(errors[-1] > MISS_M),
        "collided": not is_read or bool(geometric_hits(plan_TD, scene).any()),
        "l2_stp3": float(averaged(errors, "stp3")),
        "l2_uniad": float(averaged(errors, "uniad")),
        **{f"l2_step_{step + 1}": float(error) for step, error in enumerate(errors)},
        **{f"collision_{each}": float(averaged(hits[each], each)) for each in CONVENTIONS},
    }


def make_example(scene: Scene, *, log: str = "", side_px: int = SIDE_PX, split: str | None = None) -> Example:
    """The example of a scene, its picture drawn. The split is that of its group unless it is given."""
    return Example(
        id=scene.id,
        world=WORLD,
        split=split or split_of_group(scene.group),  # pyright: ignore[reportArgumentType]
        axes={
            "log": log or scene.group,
            "group": scene.group,
            "goal": scene.goal,
            "situation": situation_of(scene),
        },
        start=Observation(
            images=(picture(scene, side_px),) if side_px else (), privileged=Privileged(state=to_json(scene))
        ),
        data={"scene": public_json(scene)},
    )


def scene_of(example: Example) -> Scene:
    """The scene of an example, its future included. Raises PilotageError for an example that is not of this world."""
    if example.world != WORLD:
        raise PilotageError(f"{example.id} is an example of the world {example.world!r}, not of {WORLD}")
    if not example.state:
        raise PilotageError(f"{example.id} has no scene with a future to be judged on")
    return parse_scene(example.state)

"""Views for worlds of one's own that are acted on word by word: a world names this module as its `views_module`.

The world needs `rules` (a text), `actions` (words) and, for views without pictures, `facts` in its observations. Its
example's `data["window"]` says how many pictures are shown, the last of the past and this turn's; 1 by default.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pilotage.errors import PilotageError
from pilotage.records import Moment, Privileged, View
from pilotage.views.prompts import PromptSet, prompt_template
from pilotage.views.registry import ViewSpec
from pilotage.worlds.answers import last_answer_block
from pilotage.worlds.registry import get_world
from pilotage.worlds.task import state_text

NUM_PAST = 8
"""Actions of the past that are told in words."""


def _student(moment: Moment, prompts: PromptSet) -> View:
    """The rules, the last actions and the picture."""
    window = int(moment.example.data.get("window", 1))
    earlier = [
        turn.seen.images[0] for turn in moment.past[len(moment.past) - window + 1 :] if turn.seen.images
    ]
    images = (*(earlier if window > 1 else ()), *moment.seen.images)
    if not moment.seen.images:
        raise PilotageError(f"{moment.example.id}: this turn has no picture for the student view to show")
    text = _fill("acting_student", moment, prompts)
    content: list[dict[str, Any]] = [{"type": "text", "text": text}, *({"type": "image"} for _ in images)]
    return View(name="student", messages=[{"role": "user", "content": content}], images=images)


def _symbolic(moment: Moment, prompts: PromptSet) -> View:
    """The same with the facts in words in place of the picture."""
    text = _fill("acting_symbolic", moment, prompts, facts=_facts(moment))
    return View(name="symbolic", messages=[{"role": "user", "content": text}])


def _teacher(moment: Moment, prompts: PromptSet) -> View:
    """The facts and the expert's actions from this turn's state."""
    plan = " ".join(_privileged(moment).plan) or "none"
    text = _fill("acting_teacher", moment, prompts, facts=_facts(moment), plan=plan)
    return View(name="teacher", messages=[{"role": "user", "content": text}])


def _teacher_no_plan(moment: Moment, prompts: PromptSet) -> View:
    symbolic = _symbolic(moment, prompts)
    return View(name="teacher_no_plan", messages=symbolic.messages)


def _reference(moment: Moment) -> str:
    plan = _privileged(moment).plan
    if not plan:
        raise PilotageError(f"{moment.example.id}: no expert knows what to do here")
    return f"<answer>{plan[0]}</answer>"


VIEWS: Mapping[str, ViewSpec] = {
    spec.name: spec
    for spec in (
        ViewSpec(name="student", make=_student, shows_picture=True, reference=_reference),
        ViewSpec(name="symbolic", make=_symbolic, privileged=True, reference=_reference),
        ViewSpec(
            name="teacher",
            make=_teacher,
            privileged=True,
            without_plan="teacher_no_plan",
            reference=_reference,
        ),
        ViewSpec(name="teacher_no_plan", make=_teacher_no_plan, privileged=True, reference=_reference),
    )
}


def _privileged(moment: Moment) -> Privileged:
    if moment.seen.privileged is None:
        raise PilotageError(f"{moment.example.id}: a privileged view was given a moment without its state")
    return moment.seen.privileged


def _facts(moment: Moment) -> str:
    return state_text(_privileged(moment).facts)


def _fill(name: str, moment: Moment, prompts: PromptSet, **more: str) -> str:
    world = get_world(moment.example.world)
    rules = world.rules if isinstance(world.rules, str) else world.rules[prompts]
    said = [(last_answer_block(turn.text) or "?").strip()[:40] for turn in moment.past[-NUM_PAST:]]
    return prompt_template("pilotage.views", prompts, name).substitute(
        rules=rules,
        actions=", ".join(world.actions),
        past=" ".join(said) or "none",
        seen=moment.seen.text,
        **more,
    )

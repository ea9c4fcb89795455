"""Views for worlds of one's own that are acted on word by word, or answered with a plan of such words: a world names
this module as its `views_module`.

The world needs `rules` (a text, or one for each prompt set), `actions` (words) and, for views without pictures, `facts`
or a `state` in its observations; without facts the state is told as JSON. Its example's `data["window"]` says how many
pictures are shown, the last of the past and this turn's; 1 by default.
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
from pilotage.worlds.score import PLAN
from pilotage.worlds.task import told_facts

NUM_PAST = 8
"""Actions of the past that are told in words."""


def _student(moment: Moment, prompts: PromptSet) -> View:
    """The rules, the last actions and the picture."""
    return _picture_view("student", moment, prompts)


def _student_with_plan(moment: Moment, prompts: PromptSet) -> View:
    """The student's own view and the expert's actions besides."""
    return _picture_view("student_with_plan", moment, prompts, plan=_plan(moment))


def _picture_view(name: str, moment: Moment, prompts: PromptSet, **more: str) -> View:
    window = int(moment.example.data.get("window", 1))
    earlier = [
        turn.seen.images[0] for turn in moment.past[len(moment.past) - window + 1 :] if turn.seen.images
    ]
    images = (*(earlier if window > 1 else ()), *moment.seen.images)
    if not moment.seen.images:
        raise PilotageError(f"{moment.example.id}: this turn has no picture for the {name} view to show")
    text = _fill(name, moment, prompts, **more)
    content: list[dict[str, Any]] = [{"type": "text", "text": text}, *({"type": "image"} for _ in images)]
    return View(name=name, messages=[{"role": "user", "content": content}], images=images)


def _symbolic(moment: Moment, prompts: PromptSet) -> View:
    """The same with the facts in words in place of the picture."""
    text = _fill("symbolic", moment, prompts, facts=_facts(moment))
    return View(name="symbolic", messages=[{"role": "user", "content": text}])


def _teacher(moment: Moment, prompts: PromptSet) -> View:
    """The facts and the expert's actions from this turn's state."""
    text = _fill("teacher", moment, prompts, facts=_facts(moment), plan=_plan(moment))
    return View(name="teacher", messages=[{"role": "user", "content": text}])


def _teacher_no_plan(moment: Moment, prompts: PromptSet) -> View:
    symbolic = _symbolic(moment, prompts)
    return View(name="teacher_no_plan", messages=symbolic.messages)


def _reference(moment: Moment) -> str:
    plan = _privileged(moment).plan
    if not plan:
        raise PilotageError(f"{moment.example.id}: no expert knows what to do here")
    return f"<answer>{' '.join(plan if _is_planned(moment) else plan[:1])}</answer>"


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
        ViewSpec(
            name="student_with_plan",
            make=_student_with_plan,
            privileged=True,
            shows_picture=True,
            without_plan="student",
            reference=_reference,
        ),
        ViewSpec(name="teacher_no_plan", make=_teacher_no_plan, privileged=True, reference=_reference),
    )
}


def _privileged(moment: Moment) -> Privileged:
    if moment.seen.privileged is None:
        raise PilotageError(f"{moment.example.id}: a privileged view was given a moment without its state")
    return moment.seen.privileged


def _is_planned(moment: Moment) -> bool:
    """Whether the turn's answer is a whole plan and not the next action."""
    return (moment.role or get_world(moment.example.world).roles[0]) == PLAN


def _plan(moment: Moment) -> str:
    return " ".join(_privileged(moment).plan) or "none"


def _facts(moment: Moment) -> str:
    told = _privileged(moment)
    return told_facts(told.facts, told.state)


def _fill(name: str, moment: Moment, prompts: PromptSet, **more: str) -> str:
    world = get_world(moment.example.world)
    rules = world.rules if isinstance(world.rules, str) else world.rules[prompts]
    said = [(last_answer_block(turn.text) or "?").strip()[:40] for turn in moment.past[-NUM_PAST:]]
    file = f"planning_{name}" if _is_planned(moment) else f"acting_{name}"
    return prompt_template("pilotage.views", prompts, file).substitute(
        rules=rules,
        actions=", ".join(world.actions),
        past=" ".join(said) or "none",
        seen=moment.seen.text,
        **more,
    )

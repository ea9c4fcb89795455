"""Who sees what of a household mission, whatever role is asked: one name a view, one prompt file a role.

Placeholders of the prompt files: `$rules` and `$actions` come from the world, `$seen` is the mission and what was done
last, `$query` what the role is asked for, and `$past`, `$history`, `$explored`, `$scene`, `$log` what the agent notes.
A view that is told more has it behind the role's own text: `told_state` (what is in view, in words), `told_answer`
(what an expert would answer).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pilotage.errors import PilotageError
from pilotage.records import Moment, Privileged, View
from pilotage.views.prompts import PromptSet, prompt_template
from pilotage.views.registry import ViewSpec
from pilotage.worlds.answers import last_answer_block
from pilotage.worlds.household.babyai import OPTIONS
from pilotage.worlds.household.grammar import ACT, CAPABILITIES
from pilotage.worlds.household.labels import label_of, usual_query
from pilotage.worlds.household.missions import ACTIONS
from pilotage.worlds.task import state_text

PACKAGE = "pilotage.worlds.household"
NUM_PAST = 8
"""Actions of the past that are told to who acts directly."""
SEES_AS_RELEASED = (ACT, "locate", "describe", "summarise")
"""Roles that are shown the picture in the published code; there, scheduler, directions and actions are words alone."""


def _student(moment: Moment, prompts: PromptSet) -> View:
    """The role's question and the picture: what the model has at inference."""
    return _with_picture("student", moment, prompts)


def _released(moment: Moment, prompts: PromptSet) -> View:
    """The same, with the picture for the roles that have it in the published code."""
    if (moment.role or ACT) in SEES_AS_RELEASED:
        return _with_picture("released", moment, prompts)
    return _of_words("released", _asked(moment, prompts))


def _symbolic(moment: Moment, prompts: PromptSet) -> View:
    """The question with what is in view in words, in place of the picture."""
    return _of_words("symbolic", f"{_asked(moment, prompts)}\n\n{_told_state(moment, prompts)}")


def _teacher(moment: Moment, prompts: PromptSet) -> View:
    """The same, and what an expert would answer from this very state."""
    told = _fill("told_answer", moment, prompts, answer=_expert_answer(moment))
    return _of_words("teacher", f"{_asked(moment, prompts)}\n\n{_told_state(moment, prompts)}\n{told}")


def _teacher_no_plan(moment: Moment, prompts: PromptSet) -> View:
    return _of_words("teacher_no_plan", _symbolic(moment, prompts).messages[0]["content"])


def _student_with_plan(moment: Moment, prompts: PromptSet) -> View:
    """The student's own view, and what an expert would answer: the privileged view that still has the picture."""
    told = _fill("told_answer", moment, prompts, answer=_expert_answer(moment))
    return _with_picture("student_with_plan", moment, prompts, told)


def reference(moment: Moment) -> str:
    """The right answer of the moment's role. Raises PilotageError where no expert knows it."""
    role = moment.role or ACT
    privileged = _privileged(moment)
    if role == ACT:
        if not privileged.plan:
            raise PilotageError(f"{moment.example.id}: no expert knows what to do here")
        return f"<answer>{privileged.plan[0]}</answer>"
    state = privileged.state
    assert state is not None, "checked where the privileged part is taken"
    query = str(moment.notes.get("query") or usual_query(role, state))
    tile_px = int(moment.example.data.get("tile_px", OPTIONS["tile_px"][0]))
    return label_of(role, state, query, tile_px=tile_px)


VIEWS: Mapping[str, ViewSpec] = {
    spec.name: spec
    for spec in (
        ViewSpec(name="student", make=_student, shows_picture=True, reference=reference),
        ViewSpec(name="released", make=_released, shows_picture=True, reference=reference),
        ViewSpec(name="symbolic", make=_symbolic, privileged=True, reference=reference),
        ViewSpec(
            name="teacher",
            make=_teacher,
            privileged=True,
            without_plan="teacher_no_plan",
            reference=reference,
        ),
        ViewSpec(name="teacher_no_plan", make=_teacher_no_plan, privileged=True, reference=reference),
        ViewSpec(
            name="student_with_plan",
            make=_student_with_plan,
            privileged=True,
            shows_picture=True,
            without_plan="student",
            reference=reference,
        ),
    )
}


def _asked(moment: Moment, prompts: PromptSet) -> str:
    notes = moment.notes
    return _fill(
        moment.role or ACT,
        moment,
        prompts,
        actions=", ".join(ACTIONS),
        seen=moment.seen.text,
        past=_past(moment),
        query=_query(moment),
        history=str(notes.get("history") or "none"),
        explored=", ".join(notes.get("explored", ())) or "none",
        scene=str(notes.get("scene") or "not told"),
        log=str(notes.get("log") or "none"),
    )


def _query(moment: Moment) -> str:
    """What the role is asked for; a role that is asked by itself is asked for everything, or for the mission."""
    if told := moment.notes.get("query"):
        return str(told)
    if moment.role == "describe":
        return "everything"
    return moment.seen.text.partition(".")[0].removeprefix("Mission: ") if moment.role in CAPABILITIES else ""


def _past(moment: Moment) -> str:
    said = [(last_answer_block(turn.text) or "?").strip()[:40] for turn in moment.past[-NUM_PAST:]]
    return " ".join(said) or "none"


def _told_state(moment: Moment, prompts: PromptSet) -> str:
    return _fill("told_state", moment, prompts, facts=state_text(_privileged(moment).facts))


def _expert_answer(moment: Moment) -> str:
    """The right answer as a teacher is told it: to who acts directly, the whole plan."""
    if (moment.role or ACT) == ACT:
        return " ".join(_privileged(moment).plan) or "none"
    try:
        return reference(moment)
    except PilotageError:
        return "none"


def _with_picture(name: str, moment: Moment, prompts: PromptSet, more: str = "") -> View:
    if not moment.seen.images:
        raise PilotageError(f"{moment.example.id}: this turn has no picture for the {name} view to show")
    text = _asked(moment, prompts) + (f"\n\n{more}" if more else "")
    content: list[dict[str, Any]] = [{"type": "text", "text": text}]
    content += [{"type": "image"}] * len(moment.seen.images)
    return View(name=name, messages=[{"role": "user", "content": content}], images=moment.seen.images)


def _of_words(name: str, text: str) -> View:
    return View(name=name, messages=[{"role": "user", "content": text}])


def _privileged(moment: Moment) -> Privileged:
    if moment.seen.privileged is None or moment.seen.privileged.state is None:
        raise PilotageError(f"{moment.example.id}: a privileged view was given a moment without its state")
    return moment.seen.privileged


def _fill(name: str, moment: Moment, prompts: PromptSet, **told: str) -> str:
    template = prompt_template(PACKAGE, prompts, name)
    return template.substitute(rules=prompt_template(PACKAGE, prompts, "rules").template, **told)

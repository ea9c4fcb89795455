"""Who sees what of a grid world. The worlds own the content; nothing here knows one of them from another.

Placeholders of the prompt files: `$rules`, `$title`, `$actions`, `$fields`, `$worked_example` and `$worked_perception`
come from the world alone; `$state` and `$plan` from the moment, and only the files of views that may show them hold
these; `$past`, the cells of earlier turns, stands in `memory` alone.

Where the turns of an episode show pictures, every view with a picture shows the last `window` of them, the oldest
first: a number in the example's `data` or in the moment's notes, which come first.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any

from pilotage.errors import PilotageError
from pilotage.records import Moment, Privileged, View
from pilotage.views.prompts import PromptSet, prompt_template
from pilotage.views.registry import ViewSpec
from pilotage.worlds.capabilities import need
from pilotage.worlds.grid import cell_text
from pilotage.worlds.registry import planning_task
from pilotage.worlds.score import read_recital
from pilotage.worlds.task import Task, reference_response, state_text, worked_state


def _student(moment: Moment, prompts: PromptSet) -> View:
    """The task's rules and the picture, nothing else: what the model has at inference."""
    return _picture_view("student", moment, prompts)


def _student_with_state(moment: Moment, prompts: PromptSet) -> View:
    """The student's view, its answer begun with the true state: whoever misread it can now plan as if it had not.

    The prefill ends with the line, so that what follows is tokenised as in an answer of the model's own.
    """
    seen = _student(moment, prompts)
    return replace(seen, name="student_with_state", prefill=_state_of(moment) + "\n")


def _student_with_plan(moment: Moment, prompts: PromptSet) -> View:
    """The student's own view and the reference plan besides: the privileged view that still has the picture."""
    return _picture_view("student_with_plan", moment, prompts, plan=_plan_of(moment))


def _picture(moment: Moment, prompts: PromptSet) -> View:
    """The picture and not a word: a teacher so shown can teach what is seen, and nothing that a question gives away."""
    asked = _student(moment, prompts)
    content = [{"type": "image"}] * len(asked.images)
    return replace(asked, name="picture", messages=[{"role": "user", "content": content}])


def _memory(moment: Moment, prompts: PromptSet) -> View:
    """The student's view and, in words, the cells that the student itself said it was in, the oldest first.

    It may have misread them: at inference there is nobody to tell the true ones.
    """
    return _with_past(_student(moment, prompts), "memory", moment, prompts, _cells_said(moment))


def _symbolic_memory(moment: Moment, prompts: PromptSet) -> View:
    """The same in words."""
    return _with_past(_symbolic(moment, prompts), "symbolic_memory", moment, prompts, _cells_said(moment))


def _memory_true(moment: Moment, prompts: PromptSet) -> View:
    """The same with the cells that the player truly was in: what a memory without misreadings is worth."""
    task = task_of(moment.example.world)
    states = (turn.seen.privileged.state for turn in moment.past if turn.seen.privileged is not None)
    cells = [cell_text(task.trace(task.parse_state(state), ())[0]) for state in states if state is not None]
    return _with_past(_student(moment, prompts), "memory_true", moment, prompts, cells)


def _cells_said(moment: Moment) -> list[str]:
    task = task_of(moment.example.world)
    field = mover_field(task)
    recitals = (read_recital(turn.text, tuple(task.facts(worked_state(task)))) for turn in moment.past)
    return [said[field] for said in recitals if said.get(field)]


def _with_past(seen: View, name: str, moment: Moment, prompts: PromptSet, cells: Sequence[str]) -> View:
    """A view of one message with the cells of earlier turns behind its text."""
    if not cells:
        return replace(seen, name=name)
    (message,) = seen.messages
    content = message["content"]
    past = _fill("memory", moment, prompts, past=" ".join(cells))
    if isinstance(content, str):
        content_with_past: Any = f"{content}\n\n{past}"
    else:
        text, *pictures = content
        content_with_past = [{**text, "text": f"{text['text']}\n\n{past}"}, *pictures]
    return replace(seen, name=name, messages=[{**message, "content": content_with_past}])


def _perception(moment: Moment, prompts: PromptSet) -> View:
    """The picture and the request to describe it in numbered parts."""
    return _picture_view("perception", moment, prompts)


def _symbolic(moment: Moment, prompts: PromptSet) -> View:
    """The state in words, no picture and no plan: the text side of the modality gap."""
    text = _fill("symbolic", moment, prompts, state=_state_of(moment))
    return View(name="symbolic", messages=[{"role": "user", "content": text}])


def _description(moment: Moment, prompts: PromptSet) -> View:
    """The perception question with the state in words in place of the picture: who sees nothing reads it off."""
    text = _fill("description", moment, prompts, state=_state_of(moment))
    return View(name="description", messages=[{"role": "user", "content": text}])


def _teacher(moment: Moment, prompts: PromptSet) -> View:
    """The state in words and the reference plan: the teacher's view in MGSD's second stage."""
    return _teacher_view("teacher_user", "teacher", moment, prompts)


def _teacher_no_plan(moment: Moment, prompts: PromptSet) -> View:
    """The teacher's view with the state alone."""
    return _teacher_view("teacher_user_no_plan", "teacher_no_plan", moment, prompts)


def _teacher_stale_plan(moment: Moment, prompts: PromptSet) -> View:
    """This turn's state and the plan from the episode's start: what a teacher knows that was told once."""
    plan = moment.example.start.privileged
    return _teacher_view("teacher_user", "teacher_stale_plan", moment, prompts, plan and plan.plan)


def _teacher_at_start(moment: Moment, prompts: PromptSet) -> View:
    """State and plan of the episode's start, in every turn."""
    began = replace(moment, seen=moment.example.start)
    return _teacher_view("teacher_user", "teacher_at_start", began, prompts)


def _reference_plan(moment: Moment) -> str:
    privileged = privileged_of(moment)
    task = task_of(moment.example.world)
    return reference_response(task, task.parse_state(privileged.state or {}), privileged.plan)


def _reference_description(moment: Moment) -> str:
    return numbered(privileged_of(moment).facts)


def _spec(
    name: str,
    make: Callable[[Moment, PromptSet], View],
    *,
    reference: Callable[[Moment], str] = _reference_plan,
    **more: Any,
) -> ViewSpec:
    return ViewSpec(name=name, make=make, reference=reference, **more)


VIEWS: Mapping[str, ViewSpec] = {
    spec.name: spec
    for spec in (
        _spec("student", _student, shows_picture=True),
        _spec("symbolic", _symbolic, privileged=True),
        _spec("teacher", _teacher, privileged=True, without_plan="teacher_no_plan"),
        _spec("teacher_no_plan", _teacher_no_plan, privileged=True),
        _spec("teacher_stale_plan", _teacher_stale_plan, privileged=True, without_plan="teacher_no_plan"),
        _spec("teacher_at_start", _teacher_at_start, privileged=True),
        _spec("perception", _perception, shows_picture=True, reference=_reference_description),
        _spec("description", _description, privileged=True, reference=_reference_description),
        _spec("student_with_state", _student_with_state, shows_picture=True, privileged=True),
        _spec(
            "student_with_plan",
            _student_with_plan,
            shows_picture=True,
            privileged=True,
            without_plan="student",
        ),
        _spec("picture", _picture, shows_picture=True),
        _spec("memory", _memory, shows_picture=True),
        _spec("symbolic_memory", _symbolic_memory, privileged=True),
        _spec("memory_true", _memory_true, shows_picture=True, privileged=True),
    )
}


def task_of(world: str) -> Task[Any]:
    """The planning task of a grid world. Raises PilotageError for one that can do less than these views tell of."""
    task = planning_task(world)
    assert task is not None, f"{world} is no planning world"
    return need(task, Task)


@lru_cache(maxsize=16)
def mover_field(task: Task[Any]) -> str:
    """The recited field that tells where the player is: the one that is the cell where every trace begins."""
    state = worked_state(task)
    start = cell_text(task.trace(state, ())[0])
    return next(field for field, text in task.recital(state).items() if text == start)


def numbered(facts: Mapping[str, str]) -> str:
    """Facts as a perception answer: `1. Size: 4.` and so on, one a line."""
    return "\n".join(f"{i}. {name}: {text}." for i, (name, text) in enumerate(facts.items(), start=1))


def privileged_of(moment: Moment) -> Privileged:
    """The privileged part of a moment, for the views that may see it."""
    privileged = moment.seen.privileged
    if privileged is None or privileged.state is None:
        raise PilotageError(f"{moment.example.id}: a privileged view was given a moment without its state")
    return privileged


@lru_cache(maxsize=64)
def task_content(world: str, prompts: PromptSet) -> dict[str, str]:
    """What a prompt may say of a world whatever the example: a function of the world and the prompt set."""
    task = task_of(world)
    state = worked_state(task)
    solution = task.solve(state)
    assert solution is not None, "generators only give solvable states"
    fields = task.facts(state)
    return {
        "title": task.title,
        "rules": task.rules[prompts],
        "actions": ", ".join(task.actions),
        "fields": "\n".join(f"{i}. {name}" for i, name in enumerate(fields, start=1)),
        "worked_example": reference_response(task, state, solution.plan),
        "worked_perception": numbered(fields),
    }


def _picture_view(name: str, moment: Moment, prompts: PromptSet, **privileged: str) -> View:
    if not moment.seen.images:
        raise PilotageError(
            f"example {moment.example.id} has no picture for the {name} view to show; build it with one"
        )
    content: list[dict[str, Any]] = [{"type": "text", "text": _fill(name, moment, prompts, **privileged)}]
    images = pictures_of(moment)
    content += [{"type": "image"}] * len(images)
    return View(name=name, messages=[{"role": "user", "content": content}], images=images)


def pictures_of(moment: Moment) -> tuple[bytes, ...]:
    """This turn's pictures behind those of the `window - 1` turns before it that were asked, the oldest first."""
    window = moment.notes.get("window", moment.example.data.get("window", 1))
    if isinstance(window, bool) or not isinstance(window, int) or window < 1:
        raise PilotageError(f"{moment.example.id}: window is {window!r}; it must be a whole number from 1 on")
    past = moment.past[-(window - 1) :] if window > 1 else ()
    return (*(image for turn in past for image in turn.seen.images), *moment.seen.images)


def _teacher_view(
    user_file: str, name: str, moment: Moment, prompts: PromptSet, plan: Sequence[str] | None = None
) -> View:
    """`plan` in place of the one from this turn's state."""
    system = _fill("teacher_system", moment, prompts)
    plan_text = _plan_of(moment) if plan is None else " ".join(plan)
    user = _fill(user_file, moment, prompts, state=_state_of(moment), plan=plan_text)
    messages = [{"role": "system", "content": system}, {"role": "user", "content": user}]
    return View(name=name, messages=messages)


def _plan_of(moment: Moment) -> str:
    return " ".join(privileged_of(moment).plan)


def _state_of(moment: Moment) -> str:
    task = task_of(moment.example.world)
    return state_text(task.recital(task.parse_state(privileged_of(moment).state or {})))


def _fill(name: str, moment: Moment, prompts: PromptSet, **privileged: str) -> str:
    template = prompt_template("pilotage.worlds.grids", prompts, name)
    return template.substitute(task_content(moment.example.world, prompts), **privileged)

"""Who sees what of an example. Tasks own the content; nothing here knows one task from another."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from types import MappingProxyType

from pilotage.errors import PilotageError
from pilotage.records import Example, View
from pilotage.views.prompts import PromptSet, numbered, prompt_template, task_content
from pilotage.worlds import get_task
from pilotage.worlds.task import reference_response, state_text

ViewMaker = Callable[[Example, PromptSet], View]


def student_view(example: Example, prompts: PromptSet) -> View:
    """The task's rules and the picture, nothing else: what the model has at inference."""
    return _picture_view("student", example, prompts)


def student_view_with_state(example: Example, prompts: PromptSet) -> View:
    """The student's view, its answer begun with the true state: whoever misread it can now plan as if it had not.

    The prefill ends with the line, so that what follows is tokenised as in an answer of the model's own.
    """
    seen = student_view(example, prompts)
    return replace(seen, name="student_with_state", prefill=_state_of(example) + "\n")


def student_view_with_plan(example: Example, prompts: PromptSet) -> View:
    """The student's own view and the reference plan besides: the privileged reader who still sees the picture."""
    return _picture_view("student_with_plan", example, prompts, plan=" ".join(example.plan))


def picture_view(example: Example, prompts: PromptSet) -> View:
    """The picture and not a word: a reader who can teach what is seen, and nothing that a question gives away."""
    asked = _picture_view("student", example, prompts)
    return replace(asked, name="picture", messages=[{"role": "user", "content": [{"type": "image"}]}])


def perception_view(example: Example, prompts: PromptSet) -> View:
    """The picture and the request to describe it in numbered parts."""
    return _picture_view("perception", example, prompts)


def symbolic_view(example: Example, prompts: PromptSet) -> View:
    """The state in words, no picture and no plan: the text side of the modality gap."""
    text = _fill("symbolic", example, prompts, state=_state_of(example))
    return View(name="symbolic", messages=[{"role": "user", "content": text}])


def description_view(example: Example, prompts: PromptSet) -> View:
    """The perception question with the state in words in place of the picture: who sees nothing reads it off."""
    text = _fill("description", example, prompts, state=_state_of(example))
    return View(name="description", messages=[{"role": "user", "content": text}])


def teacher_view(example: Example, prompts: PromptSet) -> View:
    """The state in words and the reference plan: the privileged reader of MGSD's second stage."""
    return _teacher_view("teacher_user", "teacher", example, prompts)


def teacher_view_without_plan(example: Example, prompts: PromptSet) -> View:
    """The privileged reader with the state alone."""
    return _teacher_view("teacher_user_no_plan", "teacher_no_plan", example, prompts)


_VIEWS: dict[str, ViewMaker] = {
    "student": student_view,
    "symbolic": symbolic_view,
    "teacher": teacher_view,
    "teacher_no_plan": teacher_view_without_plan,
    "perception": perception_view,
    "description": description_view,
    "student_with_state": student_view_with_state,
    "student_with_plan": student_view_with_plan,
    "picture": picture_view,
}
_WITHOUT_PLAN = {"teacher": "teacher_no_plan", "student_with_plan": "student"}
_PICTURE_VIEWS: dict[str, bool] = dict.fromkeys(
    ("student", "student_with_state", "student_with_plan", "picture", "perception"), True
)

VIEWS: Mapping[str, ViewMaker] = MappingProxyType(_VIEWS)
"""Name -> what makes the view."""
WITHOUT_PLAN: Mapping[str, str] = MappingProxyType(_WITHOUT_PLAN)
"""View that holds the reference plan, or a part of it -> the same reader's view without it."""
PICTURE_VIEWS: Collection[str] = _PICTURE_VIEWS.keys()
"""Those that show the picture."""


def register_view(
    name: str, maker: ViewMaker, *, shows_picture: bool = False, without_plan: str | None = None
) -> None:
    """Makes a view known by name, for routes and `pilotage palr`. Raises PilotageError for a name that is taken.

    `without_plan` names the view of the same reader without the reference plan, if this one tells of it.
    """
    if name in _VIEWS and _VIEWS[name] is not maker:
        raise PilotageError(f"there is a view {name!r} already; give yours another name")
    if without_plan is not None and without_plan not in _VIEWS:
        raise PilotageError(f"without_plan {without_plan!r} is not a view; there are {', '.join(_VIEWS)}")
    _VIEWS[name] = maker
    if shows_picture:
        _PICTURE_VIEWS[name] = True
    if without_plan is not None:
        _WITHOUT_PLAN[name] = without_plan


def reference_answer(example: Example, view_name: str) -> str:
    """The text that a perfect reader of the named view would write, the view's prefill included."""
    if view_name in ("perception", "description"):
        return numbered(dict(example.facts))
    if view_name not in VIEWS:
        raise PilotageError(f"unknown view {view_name!r}; there are {', '.join(VIEWS)}")
    task = get_task(example.task)
    return reference_response(task, task.parse_state(example.state), example.plan)


def _picture_view(name: str, example: Example, prompts: PromptSet, **privileged: str) -> View:
    if not example.image:
        raise PilotageError(
            f"example {example.id} has no picture for the {name} view to show; build it with one"
        )
    content = [{"type": "text", "text": _fill(name, example, prompts, **privileged)}, {"type": "image"}]
    return View(name=name, messages=[{"role": "user", "content": content}], images=(example.image,))


def _teacher_view(user_file: str, name: str, example: Example, prompts: PromptSet) -> View:
    system = _fill("teacher_system", example, prompts)
    user = _fill(user_file, example, prompts, state=_state_of(example), plan=" ".join(example.plan))
    messages = [{"role": "system", "content": system}, {"role": "user", "content": user}]
    return View(name=name, messages=messages)


def _state_of(example: Example) -> str:
    task = get_task(example.task)
    return state_text(task.recital(task.parse_state(example.state)))


def _fill(name: str, example: Example, prompts: PromptSet, **privileged: str) -> str:
    return prompt_template(prompts, name).substitute(task_content(example.task, prompts), **privileged)

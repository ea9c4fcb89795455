"""Views of the misbehaving world, installed beside it: its processes need none."""

from __future__ import annotations

from pilotage.records import Moment, View
from pilotage.views.registry import ViewSpec


def _student(moment: Moment, prompts: str) -> View:
    content = [{"type": "image"}, {"type": "text", "text": moment.seen.text}]
    return View(
        name="student", messages=[{"role": "user", "content": content}], images=moment.seen.images[:1]
    )


def _teacher(moment: Moment, prompts: str) -> View:
    assert moment.seen.privileged is not None
    text = f"{moment.seen.text} Plan: {' '.join(moment.seen.privileged.plan)}."
    return View(name="teacher", messages=[{"role": "user", "content": [{"type": "text", "text": text}]}])


VIEWS = {
    "student": ViewSpec(name="student", make=_student, shows_picture=True),
    "teacher": ViewSpec(name="teacher", make=_teacher, privileged=True),
}

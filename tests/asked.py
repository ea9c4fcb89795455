"""Questions for tests: an example of the world `questions`, changed in its content."""

from __future__ import annotations

from typing import Any

from pilotage.records import Example
from pilotage.worlds.questions.question import make_question, question_of


def altered(example: Example, **changes: Any) -> Example:
    """The question with other content, by the keywords of `make_question`."""
    told = question_of(example)
    fields: dict[str, Any] = {
        "id": example.id,
        "task": example.task,
        "level": example.level,
        "split": example.split,
        "kind": told.kind,
        "question": told.text,
        "options": told.options,
        "answer": told.answer,
        "accepted": told.accepted,
        "solution": told.solution,
        "state": example.state or None,
        "image": example.image,
    }
    return make_question(**fields | changes)

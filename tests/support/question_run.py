"""Questions about pictures, and answers to them of which a third is right."""

from __future__ import annotations

from pilotage.records import Example
from pilotage.rollouts import ReplayEngine
from pilotage.worlds import TASKS
from pilotage.worlds.questions.asked import QUESTION_KINDS
from pilotage.worlds.questions.data.build import iter_questions
from pilotage.worlds.questions.views import vqa_reference_response
from tiny import tiny_backbone, written


def questions() -> list[Example]:
    """One of each kind about each world."""
    worlds = [(task, task.levels[0]) for task in TASKS]
    return list(iter_questions(worlds, QUESTION_KINDS, len(worlds) * len(QUESTION_KINDS), "train", 0))


def answers(asked: list[Example]) -> ReplayEngine:
    """Of the questions in turn: the right answer in full, a wrong one in full, and one that breaks the form."""
    backbone = tiny_backbone()
    prefill = "<description>"
    rollouts = []
    for number, question in enumerate(asked):
        text = vqa_reference_response(question).removeprefix(prefill)
        if number % 3 == 1:
            text = text[: text.index(r"\boxed")] + r"\boxed{nowhere}"
        if number % 3 == 2:
            text = "no idea"
        rollouts.append(written(backbone, question.id, text))
    return ReplayEngine(rollouts, off_policy=True)

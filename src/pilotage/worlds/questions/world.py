"""The world of questions about pictures: one question, one answer in a box."""

from __future__ import annotations

import re
import zlib
from dataclasses import replace

import numpy as np

from pilotage.errors import ImpossibleRequestError, PilotageError
from pilotage.records import Condition, Example, Measure, Outcome
from pilotage.worlds.questions.grading import GRADE_REASONS, LETTERS, grade, grade_answer
from pilotage.worlds.questions.math_compare import require_math
from pilotage.worlds.questions.question import question_of
from pilotage.worlds.registry import get_world, world_names
from pilotage.worlds.world import OneAnswer

ANSWER = "answer"
NUM_NEAR = 4
"""How far wrong numbers and cells reach at least."""
_CELL = re.compile(r"\(([0-9]{1,2}),([0-9]{1,2})\)")


class Questions:
    """Visual question answering; examples come from `pilotage data questions` or `pilotage data import vqa`."""

    name = "questions"
    title = "Questions"
    roles = (ANSWER,)
    reasons = tuple("success" if reason == "right" else reason for reason in GRADE_REASONS)
    answer_form = "box"
    """Answers stand in a box; other worlds read answer blocks."""
    usual = ("question",)
    measures = (Measure(name="parsed", title="parsed"),)
    conditions = (
        Condition(name="question", title="from the picture and the question", views={ANSWER: "vqa_student"}),
    )

    def open(self, example: Example, *, role: str | None = None, strict: bool = False) -> QuestionSession:
        return QuestionSession(example, role or ANSWER)

    def wrong(self, example: Example, num: int, *, seed: int) -> tuple[Example, ...]:
        """The example told `num` wrong answers of the right one's kind: other options, cells, numbers, actions."""
        question = question_of(example)
        found = [said for said in _wrong_answers(example) if not grade_answer(question, said).success]
        if len(found) < num:
            raise ImpossibleRequestError(
                f"{example.id} has {len(found)} known wrong answers, not {num}", num_found=len(found)
            )
        order = np.random.default_rng([seed, zlib.crc32(example.id.encode())]).permutation(len(found))
        wrong_answers = [found[place] for place in order[:num]]
        return tuple(
            replace(example, hidden={**example.hidden, "answer": said, "accepted": (), "solution": ""})
            for said in wrong_answers
        )

    def check(self, examples: list[Example]) -> None:
        """Raises PilotageError where answers are mathematical texts and what compares them is not installed."""
        if any(not example.state and not example.data.get("options") for example in examples):
            require_math()


def _wrong_answers(example: Example) -> list[str]:
    """Answers that might be wrong, of the form that the right one has; none where its form is not known."""
    question = question_of(example)
    answer = question.answer
    if question.options:
        return list(LETTERS[: len(question.options)])
    if answer.lower() in ("yes", "no"):
        return ["yes", "no"]
    if (cell := _CELL.fullmatch(answer)) is not None:
        reach = max(int(cell[1]), int(cell[2]), NUM_NEAR - 1)
        return [f"({row},{column})" for row in range(reach + 1) for column in range(reach + 1)]
    if answer.isascii() and answer.isdigit():
        number = int(answer)
        return [str(other) for other in range(max(1, number - NUM_NEAR), number + NUM_NEAR + 1)]
    if example.task in world_names():
        actions = getattr(get_world(example.task), "actions", ())
        return list(actions) if answer in actions else []
    return []


class QuestionSession(OneAnswer):
    """One question under way."""

    def __init__(self, example: Example, role: str) -> None:
        if role != ANSWER:
            raise PilotageError(f"questions has no role {role!r}; there is {ANSWER}")
        super().__init__(example)
        self._question = question_of(example)
        if not self._question.answer:
            raise PilotageError(f"{example.id} has no answer to be judged on")

    def outcome(self) -> Outcome:
        return grade(self._question, self._text or "")

"""The world of questions about pictures: one question, one answer in a box."""

from __future__ import annotations

from pilotage.errors import PilotageError
from pilotage.records import Condition, Example, Measure, Observation, Outcome
from pilotage.worlds.questions.grading import GRADE_REASONS, grade
from pilotage.worlds.questions.math_compare import require_math
from pilotage.worlds.questions.question import question_of

ANSWER = "answer"


class Questions:
    """Visual question answering; examples come from `pilotage data questions` or `pilotage data import vqa`."""

    name = "questions"
    title = "Questions"
    roles = (ANSWER,)
    reasons = tuple("success" if reason == "right" else reason for reason in GRADE_REASONS)
    measures = (Measure(name="parsed", title="parsed"),)
    conditions = (
        Condition(name="question", title="the picture and the question", views={ANSWER: "vqa_student"}),
    )

    def open(self, example: Example, *, role: str | None = None, strict: bool = False) -> QuestionSession:
        return QuestionSession(example, role or ANSWER)

    def check(self, examples: list[Example]) -> None:
        """Raises PilotageError where answers are mathematical texts and what compares them is not installed."""
        if any(example.state is None and not example.data.get("options") for example in examples):
            require_math()


class QuestionSession:
    """One question under way."""

    def __init__(self, example: Example, role: str) -> None:
        if role != ANSWER:
            raise PilotageError(f"questions has no role {role!r}; there is {ANSWER}")
        self._example, self._question = example, question_of(example)
        self._text: str | None = None

    def observe(self) -> Observation | None:
        return self._example.start if self._text is None else None

    def act(self, text: str) -> float | None:
        self._text = text
        return None

    def outcome(self) -> Outcome:
        return grade(self._question, self._text or "")

    def close(self) -> None:
        pass

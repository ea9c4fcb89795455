"""Who sees what of a question: the student the picture and the question, each teacher what it is given beside.

The views of ViGOS (arXiv 2606.19120): a student that describes, thinks and answers in a box; a teacher of perception
that sees the picture alone; one of reasoning that sees the answer; one of form that sees all. Question texts may be of
strangers: they stand in the prompt as they are, and no placeholder in them is filled.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from pilotage.errors import PilotageError
from pilotage.records import Question, View
from pilotage.views.prompts import PromptSet, prompt_template
from pilotage.worlds import get_task
from pilotage.worlds.questions.grading import LETTERS
from pilotage.worlds.task import state_text

QuestionViewMaker = Callable[[Question, PromptSet], View]

DESCRIPTION_PREFILL = "<description>"
THINK_PREFILL = "<think>"


def vqa_student_view(question: Question, prompts: PromptSet) -> View:
    """The picture, the question and the form of the answer: what the model has at inference."""
    return _view("vqa_student", question, prompts, prefill=DESCRIPTION_PREFILL)


def vqa_perception_view(question: Question, prompts: PromptSet) -> View:
    """The picture alone: neither question nor answer, so that no token of a description can be taught by them."""
    return _view("vqa_perception", question, prompts, sees_question=False)


def vqa_reasoning_view(question: Question, prompts: PromptSet) -> View:
    """The picture, the question and the reference answer."""
    return _view("vqa_reasoning", question, prompts, prefill=THINK_PREFILL, reference=reference_of(question))


def vqa_solution_view(question: Question, prompts: PromptSet) -> View:
    """The same with the worked solution in place of the answer. Raises PilotageError where there is none."""
    if not question.solution:
        raise PilotageError(
            f"question {question.id} has no worked solution for the vqa_solution view to show; use vqa_reasoning"
        )
    return _view("vqa_solution", question, prompts, prefill=THINK_PREFILL, reference=question.solution)


def vqa_reference_view(question: Question, prompts: PromptSet) -> View:
    """The picture, the question, the answer and the form: the teacher of rows that do not keep to the form."""
    return _view(
        "vqa_reference", question, prompts, prefill=DESCRIPTION_PREFILL, reference=reference_of(question)
    )


VQA_VIEWS: Mapping[str, QuestionViewMaker] = {
    "vqa_student": vqa_student_view,
    "vqa_perception": vqa_perception_view,
    "vqa_reasoning": vqa_reasoning_view,
    "vqa_solution": vqa_solution_view,
    "vqa_reference": vqa_reference_view,
}


def vqa_reference_response(question: Question) -> str:
    r"""What a perfect student would write, the prefill included; for questions of our own tasks.

    `<description> the state </description> <think> the solution </think> \boxed{answer}`. Raises PilotageError for
    questions from elsewhere: nobody knows what their pictures show.
    """
    if question.state is None:
        raise PilotageError(
            f"question {question.id} is of no task of ours: there is no reference description of it"
        )
    task = get_task(question.task)
    described = state_text(task.recital(task.parse_state(question.state)))
    return (
        f"{DESCRIPTION_PREFILL}{described}</description>{THINK_PREFILL}{question.solution}</think>"
        rf"\boxed{{{question.answer}}}"
    )


def reference_of(question: Question) -> str:
    """The reference answer as a reader is shown it: with options the letter and its text."""
    if not question.options:
        return question.answer
    return f"{question.answer}. {question.options[LETTERS.index(question.answer)]}"


def question_text(question: Question, prompts: PromptSet) -> str:
    """The rules of the world for a question of our own tasks, the question, and its options line by line."""
    lines = [get_task(question.task).rules[prompts]] if question.state is not None else []
    lines.append(question.question)
    lines += [f"{letter}. {option}" for letter, option in zip(LETTERS, question.options, strict=False)]
    if question.options:
        lines.append("Answer with the letter of one option.")
    return "\n".join(lines)


def _view(
    name: str,
    question: Question,
    prompts: PromptSet,
    *,
    sees_question: bool = True,
    prefill: str = "",
    reference: str | None = None,
) -> View:
    if not question.image:
        raise PilotageError(f"question {question.id} has no picture for the {name} view to show")
    shown = {"question": question_text(question, prompts)} if sees_question else {}
    if reference is not None:
        shown["reference"] = reference
    text = prompt_template(prompts, name).substitute(shown)
    content: list[dict[str, Any]] = [{"type": "image"}, {"type": "text", "text": text}]
    return View(
        name=name, messages=[{"role": "user", "content": content}], images=(question.image,), prefill=prefill
    )

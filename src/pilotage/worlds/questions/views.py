"""Who sees what of a question: the student the picture and the question, each teacher what it is given beside.

The views of ViGOS (arXiv 2606.19120): a student that describes, thinks and answers in a box; a teacher of perception
that sees the picture alone; one of reasoning that sees the answer; one of form that sees all. Beside them
OPSD's teacher, which sees the worked solution, and MGSD's, which reads the state in words. Question texts may be of
strangers: they stand in the prompt as they are, and no placeholder in them is filled.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from pilotage.errors import ImpossibleRequestError, PilotageError
from pilotage.records import Example, Moment, View
from pilotage.views.prompts import PromptSet, prompt_template
from pilotage.views.registry import ViewSpec
from pilotage.worlds.questions.grading import LETTERS
from pilotage.worlds.questions.question import FOREIGN, Question, question_of
from pilotage.worlds.registry import planning_world
from pilotage.worlds.task import Plans, Recites, state_text

DESCRIPTION_PREFILL = "<description>"
THINK_PREFILL = "<think>"


def _student(moment: Moment, prompts: PromptSet) -> View:
    """The picture, the question and the form of the answer: what the model has at inference."""
    return _view("vqa_student", moment, prompts, prefill=DESCRIPTION_PREFILL)


def _perception(moment: Moment, prompts: PromptSet) -> View:
    """The picture alone: neither question nor answer, so that no token of a description can be taught by them."""
    return _view("vqa_perception", moment, prompts, sees_question=False)


def _reasoning(moment: Moment, prompts: PromptSet) -> View:
    """The picture, the question and the reference answer."""
    reference = reference_of(question_of(moment.example))
    return _view("vqa_reasoning", moment, prompts, prefill=THINK_PREFILL, reference=reference)


def _solution(moment: Moment, prompts: PromptSet) -> View:
    """The same with the worked solution in place of the answer. Raises ImpossibleRequestError where there is none."""
    question = question_of(moment.example)
    if not question.solution:
        raise ImpossibleRequestError(
            f"question {moment.example.id} has no worked solution for the vqa_solution view to show; use vqa_reasoning"
        )
    return _view("vqa_solution", moment, prompts, prefill=THINK_PREFILL, reference=question.solution)


def _symbolic(moment: Moment, prompts: PromptSet) -> View:
    """The state in words in place of the picture, the question, the answer and the form: MGSD's teacher."""
    state, reference = described(moment.example), reference_of(question_of(moment.example))
    return _view(
        "vqa_symbolic",
        moment,
        prompts,
        sees_picture=False,
        prefill=DESCRIPTION_PREFILL,
        state=state,
        reference=reference,
    )


def _reference(moment: Moment, prompts: PromptSet) -> View:
    """The picture, the question, the answer and the form: the teacher of rows that do not keep to the form."""
    reference = reference_of(question_of(moment.example))
    return _view("vqa_reference", moment, prompts, prefill=DESCRIPTION_PREFILL, reference=reference)


def vqa_reference_response(example: Example) -> str:
    r"""What a perfect student would write, the prefill included; for questions of our own worlds.

    `<description> the state </description> <think> the solution </think> \boxed{answer}`. Raises PilotageError for
    questions from elsewhere: nobody knows what their pictures show.
    """
    return _reference_description(example) + _reference_thought(example)


def described(example: Example) -> str:
    """What the picture of a question shows, in words. Raises PilotageError for questions from elsewhere."""
    if not example.state:
        raise PilotageError(
            f"question {example.id} is of no world of ours: there is no reference description of it"
        )
    task = planning_world(example.task, Recites)
    return state_text(task.recital(task.parse_state(example.state)))


def _reference_description(example: Example) -> str:
    return f"{DESCRIPTION_PREFILL}{described(example)}</description>"


def _reference_thought(example: Example) -> str:
    question = question_of(example)
    return rf"{THINK_PREFILL}{question.solution}</think>\boxed{{{question.answer}}}"


def _spec(
    name: str,
    make: Any,
    reference: Callable[[Example], str] = vqa_reference_response,
    *,
    privileged: bool = False,
    shows_picture: bool = True,
) -> ViewSpec:
    return ViewSpec(
        name=name,
        make=make,
        privileged=privileged,
        shows_picture=shows_picture,
        reference=lambda moment: reference(moment.example),
    )


VIEWS: Mapping[str, ViewSpec] = {
    spec.name: spec
    for spec in (
        _spec("vqa_student", _student),
        _spec("vqa_perception", _perception, _reference_description),
        _spec("vqa_reasoning", _reasoning, _reference_thought, privileged=True),
        _spec("vqa_solution", _solution, _reference_thought, privileged=True),
        _spec("vqa_reference", _reference, privileged=True),
        _spec("vqa_symbolic", _symbolic, privileged=True, shows_picture=False),
    )
}


def reference_of(question: Question) -> str:
    """The reference answer as a view shows it: with options the letter and its text."""
    if not question.options:
        return question.answer
    return f"{question.answer}. {question.options[LETTERS.index(question.answer)]}"


def question_text(example: Example, prompts: PromptSet) -> str:
    """The rules of the world for a question of our own worlds, the question, and its options line by line."""
    question = question_of(example)
    lines = [] if example.task == FOREIGN else [planning_world(example.task, Plans).rules[prompts]]
    lines.append(question.text)
    lines += [f"{letter}. {option}" for letter, option in zip(LETTERS, question.options, strict=False)]
    if question.options:
        lines.append("Answer with the letter of one option.")
    return "\n".join(lines)


def _view(
    name: str,
    moment: Moment,
    prompts: PromptSet,
    *,
    sees_picture: bool = True,
    sees_question: bool = True,
    prefill: str = "",
    **texts: str,
) -> View:
    """A view of the template of its name; `texts` fill what it has besides the question."""
    pictures = moment.seen.images if sees_picture else ()
    if sees_picture and not pictures:
        raise PilotageError(f"question {moment.example.id} has no picture for the {name} view to show")
    shown = {"question": question_text(moment.example, prompts)} if sees_question else {}
    shown |= texts
    text = prompt_template("pilotage.worlds.questions", prompts, name).substitute(shown)
    content: list[dict[str, Any]] = [*({"type": "image"} for _ in pictures), {"type": "text", "text": text}]
    message: dict[str, Any] = {"role": "user", "content": content if pictures else text}
    return View(name=name, messages=[message], images=pictures, prefill=prefill)

"""Who sees what of a question: the student never its answer, the teacher of perception not even the question."""

from __future__ import annotations

from dataclasses import replace
from string import Template
from typing import Any

import numpy as np
import pytest

from pilotage.distill.vigos_spans import VigosLayout, cut_turn
from pilotage.errors import PilotageError
from pilotage.records import Example, View
from pilotage.views import PROMPT_SETS, reference_of_view
from pilotage.views.prompts import prompt_template
from pilotage.worlds import TASKS
from pilotage.worlds.questions.asked import QUESTION_KINDS
from pilotage.worlds.questions.data.build import iter_questions
from pilotage.worlds.questions.grading import grade
from pilotage.worlds.questions.question import make_question, question_of
from pilotage.worlds.questions.views import (
    DESCRIPTION_PREFILL,
    THINK_PREFILL,
    VIEWS,
    described,
    reference_of,
    vqa_reference_response,
)

every_set = pytest.mark.parametrize("prompts", PROMPT_SETS)
SEES = {
    "vqa_student": {"question"},
    "vqa_perception": set(),
    "vqa_reasoning": {"question", "reference"},
    "vqa_solution": {"question", "reference"},
    "vqa_reference": {"question", "reference"},
    "vqa_symbolic": {"question", "state", "reference"},
}
ANSWER, SOLUTION, ACCEPTED = "Zanzibar", "Look left, then see Zanzibar.", "Unguja"
QUESTION = "Which $island is this? It costs $5."


def foreign(**changes: Any) -> Example:
    """A question from elsewhere."""
    content: dict[str, Any] = {
        "question": QUESTION,
        "answer": ANSWER,
        "accepted": (ACCEPTED,),
        "solution": SOLUTION,
        "image": b"png",
    }
    return make_question(id="vqa-1", split="test", **(content | changes))


FOREIGN = foreign()
CHOICE = foreign(options=("Malta", "Zanzibar"), answer="B", accepted=())
STUDENT, PERCEPTION = VIEWS["vqa_student"], VIEWS["vqa_perception"]


def texts(view: View) -> str:
    [message] = view.messages
    if isinstance(message["content"], str):
        return message["content"] + view.prefill
    return "\n".join(part["text"] for part in message["content"] if part["type"] == "text") + view.prefill


@every_set
@pytest.mark.parametrize("name", VIEWS)
def test_only_teachers_that_may_see_it_have_a_place_for_the_reference(prompts: Any, name: str) -> None:
    template: Template = prompt_template("pilotage.worlds.questions", prompts, name)
    assert set(template.get_identifiers()) == SEES[name]


@every_set
def test_the_student_sees_the_same_whatever_answer_solution_and_state(prompts: Any) -> None:
    rng = np.random.default_rng(0)
    worlds = [(task, task.levels[0]) for task in TASKS]
    own = list(iter_questions(worlds, QUESTION_KINDS, 12, "test", 0))
    for question in (FOREIGN, CHOICE, *own):
        changed = replace(
            question,
            start=replace(question.start, privileged=None),
            hidden={
                "answer": "A" if question.data["options"] else str(rng.integers(10**9)),
                "accepted": ("other",),
                "solution": "another way",
            },
            id="another-id",
        )
        assert question_of(changed) != question_of(question)
        for view in (STUDENT, PERCEPTION):
            assert view(question, prompts) == view(changed, prompts)


@every_set
def test_no_word_of_answer_or_solution_is_in_the_student_s_view(prompts: Any) -> None:
    for view in (STUDENT, PERCEPTION):
        seen = texts(view(FOREIGN, prompts))
        for hidden in (ANSWER, SOLUTION, ACCEPTED, FOREIGN.id):
            assert hidden not in seen
    worlds = [(task, task.levels[-1]) for task in TASKS]
    for example in iter_questions(worlds, ("cell", "length"), 24, "test", 1):
        seen, question = texts(STUDENT(example, prompts)), question_of(example)
        assert question.solution not in seen and example.id not in seen
        if question.kind == "cell" and question.answer != "(0,0)":  # which every question names as the corner
            assert question.answer not in seen


@every_set
def test_the_perception_teacher_sees_the_picture_alone(prompts: Any) -> None:
    asked_other = foreign(question="Something else?", options=("x", "y"), answer="A")
    view = PERCEPTION(FOREIGN, prompts)
    assert view == PERCEPTION(asked_other, prompts)
    assert view.images == (b"png",) and view.prefill == "" and "island" not in texts(view)


@every_set
def test_teachers_see_what_they_are_given(prompts: Any) -> None:
    views = {name: make(FOREIGN, prompts) for name, make in VIEWS.items() if make.shows_picture}
    assert {name: view.prefill for name, view in views.items()} == {
        "vqa_student": DESCRIPTION_PREFILL,
        "vqa_perception": "",
        "vqa_reasoning": THINK_PREFILL,
        "vqa_solution": THINK_PREFILL,
        "vqa_reference": DESCRIPTION_PREFILL,
    }
    for name, view in views.items():
        seen = texts(view)
        assert view.name == name and view.images == (b"png",)
        assert [part["type"] for part in view.messages[0]["content"]] == ["image", "text"]
        assert (QUESTION in seen) == (name != "vqa_perception")
        assert (ANSWER in seen) == ("reference" in SEES[name])
        assert (SOLUTION in seen) == (name == "vqa_solution")
        assert ("<description>" in seen) == (
            name in ("vqa_student", "vqa_reference") or (name, prompts) == ("vqa_perception", "full")
        )
    for name in ("vqa_reasoning", "vqa_reference"):
        assert "B. Zanzibar" in texts(VIEWS[name](CHOICE, prompts))


@every_set
def test_who_reads_the_state_sees_no_picture_and_all_else(prompts: Any) -> None:
    [question] = iter_questions([(TASKS[0], 4)], ("length",), 1, "val", 0)
    view = VIEWS["vqa_symbolic"](question, prompts)
    assert view.images == () and view.prefill == DESCRIPTION_PREFILL
    seen, content = texts(view), question_of(question)
    assert content.text in seen and content.answer in seen and described(question) in seen
    with pytest.raises(PilotageError, match="no reference description"):
        VIEWS["vqa_symbolic"](FOREIGN, prompts)


def test_every_view_is_answered_by_the_parts_that_it_asks_for() -> None:
    """Behind its prefill: the description of the picture alone, thought and answer of who was told, else all of it."""
    [question] = iter_questions([(TASKS[0], 4)], ("length",), 1, "val", 0)
    whole = vqa_reference_response(question)
    description, closing, thought = whole.partition("</description>")
    for name, view in VIEWS.items():
        answer = reference_of_view(question, name)
        assert answer.startswith(view(question, "brief").prefill)
        if name == "vqa_perception":
            assert answer == description + closing
        elif name in ("vqa_reasoning", "vqa_solution"):
            assert answer == thought
        else:
            assert answer == whole


@every_set
def test_options_are_lettered_and_rules_come_with_our_own_tasks(prompts: Any) -> None:
    seen = texts(STUDENT(CHOICE, prompts))
    assert "A. Malta\nB. Zanzibar\nAnswer with the letter of one option." in seen
    for task in TASKS:
        [question] = iter_questions([(task, task.levels[0])], ("cell",), 1, "val", 0)
        assert task.rules[prompts] in texts(STUDENT(question, prompts))
        assert task.rules[prompts] not in texts(PERCEPTION(question, prompts))


def test_what_cannot_be_shown_is_an_error() -> None:
    with pytest.raises(PilotageError, match="vqa-1 has no picture for the vqa_student view"):
        STUDENT(foreign(image=b""), "brief")
    with pytest.raises(PilotageError, match="no worked solution"):
        VIEWS["vqa_solution"](foreign(solution=""), "brief")
    with pytest.raises(PilotageError, match="no reference description"):
        vqa_reference_response(FOREIGN)


def test_the_reference_response_keeps_to_the_form_and_is_right() -> None:
    worlds = [(task, task.levels[0]) for task in TASKS]
    for question in iter_questions(worlds, QUESTION_KINDS, 12, "train", 3):
        response, content = vqa_reference_response(question), question_of(question)
        assert grade(content, response).success
        behind = response.removeprefix(DESCRIPTION_PREFILL)
        layout = VigosLayout(checker="exact")
        spans = layout.find([bytes([b]) for b in behind.encode()], behind, prefill=DESCRIPTION_PREFILL)
        assert spans.valid, spans.problem
        assert cut_turn(response).part("answer") == reference_of(content) == content.answer

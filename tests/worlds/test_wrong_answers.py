"""Wrong answers that PALR compares the right one with: none is right, as many as asked for, the same whenever asked."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from pilotage.data.examples import make_example
from pilotage.errors import ImpossibleRequestError
from pilotage.records import Example
from pilotage.worlds import TASKS, get_task
from pilotage.worlds.questions.asked import QUESTION_KINDS
from pilotage.worlds.questions.data.build import iter_questions
from pilotage.worlds.questions.grading import grade_answer
from pilotage.worlds.questions.question import make_question, question_of
from pilotage.worlds.questions.world import Questions
from pilotage.worlds.task import Task
from pilotage.worlds.world import HasWrongAnswers

WORLD = Questions()
every_task = pytest.mark.parametrize("task", TASKS, ids=lambda task: task.name)


def foreign(answer: str, *options: str, id: str = "q") -> Example:
    """A question from elsewhere."""
    return make_question(
        id=id, split="test", question="?", options=options, answer=answer, solution="So it is.", image=b"png"
    )


def wrong_answers(example: Example, num: int, *, seed: int = 0) -> list[str]:
    return [question_of(wrong).answer for wrong in WORLD.wrong(example, num, seed=seed)]


@every_task
@pytest.mark.parametrize("kind", QUESTION_KINDS)
def test_no_wrong_answer_to_a_question_of_ours_is_graded_right(task: Task[Any], kind: Any) -> None:
    for example in iter_questions([(task, task.levels[0])], (kind,), 8, "test", 0, cell_px=None):
        num = 1 if kind in ("safe", "first_move") else 4
        try:
            found = wrong_answers(example, num)
        except ImpossibleRequestError:
            assert kind == "first_move"  # where every move begins a shortest plan but those that are right
            continue
        assert len(set(found)) == num
        right = question_of(example)
        assert not any(grade_answer(right, said).success for said in found)


def test_each_is_the_same_example_told_another_answer_and_no_solution() -> None:
    example = next(iter_questions([(get_task("maze"), 3)], ("cell",), 1, "test", 0, cell_px=8))
    for wrong in WORLD.wrong(example, 3, seed=1):
        content = question_of(wrong)
        assert wrong == replace(example, hidden={"answer": content.answer, "accepted": (), "solution": ""}), (
            "what others see of it is unchanged"
        )
        assert grade_answer(content, content.answer).success, "it passes for the right one"


@pytest.mark.parametrize(
    ("example", "wrong"),
    [
        (foreign("B", "Rome", "Paris", "Oslo"), {"A", "C"}),
        (foreign("yes"), {"no"}),
        (foreign("No"), {"yes"}),
        (foreign("2"), {"1", "3", "4", "5", "6"}),
        (foreign("9"), {"5", "6", "7", "8", "10", "11", "12", "13"}),
        (foreign("(0,1)"), {f"({r},{c})" for r in range(4) for c in range(4)} - {"(0,1)"}),
        (foreign("a red bus"), set()),
        (foreign("R"), set()),
    ],
    ids=lambda x: question_of(x).answer if isinstance(x, Example) else "",
)
def test_all_wrong_answers_by_hand(example: Example, wrong: set[str]) -> None:
    if wrong:
        assert set(wrong_answers(example, len(wrong))) == wrong
    with pytest.raises(
        ImpossibleRequestError, match=f"q has {len(wrong)} known wrong answers, not {len(wrong) + 1}"
    ):
        wrong_answers(example, len(wrong) + 1)


def test_accepted_answers_are_not_among_the_wrong_ones() -> None:
    """On a lake where D and R both begin a shortest plan, L and U alone are wrong."""
    lake = get_task("frozenlake")
    asked = make_question(
        id="q",
        task="frozenlake",
        split="test",
        kind="first_move",
        question="?",
        answer="R",
        accepted=("D", "right", "down"),
        state=lake.to_json(lake.parse_state({"map": ["SFF", "FFF", "FFG"]})),
        image=b"png",
    )
    assert set(wrong_answers(asked, 2)) == {"L", "U"}
    with pytest.raises(ImpossibleRequestError, match="q has 2 known wrong answers, not 3"):
        wrong_answers(asked, 3)


def test_example_and_seed_decide_and_more_begin_with_the_fewer() -> None:
    asked = foreign("(3,3)")
    first = wrong_answers(asked, 6, seed=4)
    assert first == wrong_answers(asked, 6, seed=4) and first[:2] == wrong_answers(asked, 2, seed=4)
    assert first != wrong_answers(asked, 6, seed=5) and first != wrong_answers(
        foreign("(3,3)", id="r"), 6, seed=4
    )


@every_task
def test_a_level_is_told_plans_of_its_plan_s_length_that_fail(task: Task[Any]) -> None:
    assert isinstance(task, HasWrongAnswers) and isinstance(WORLD, HasWrongAnswers)
    rng, num_wrong = np.random.default_rng(3), 0
    for _ in range(6):
        example = make_example(task, task.generate(task.levels[1], rng), cell_px=None)
        try:
            wrong = task.wrong(example, 3, seed=2)
        except ImpossibleRequestError:
            assert len(example.plan) <= 2
            continue
        num_wrong += 1
        assert wrong == task.wrong(example, 3, seed=2) and len({each.plan for each in wrong}) == 3
        state = task.parse_state(example.state)
        for each in wrong:
            assert each.with_plan(example.plan) == example, "the plan alone is another"
            assert len(each.plan) == len(example.plan) and not task.execute(state, each.plan).success
    assert num_wrong > 2
    with pytest.raises(ImpossibleRequestError, match="100000 legal plans"):
        task.wrong(example, 100_000, seed=2)

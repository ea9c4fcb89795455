"""Questions about states are exact, for every task, and their texts do not tell the answer."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from pilotage.worlds import TASKS, Task, get_task
from pilotage.worlds.questions.asked import (
    QUESTION_KINDS,
    Asked,
    ask,
    changed_plans,
    first_moves,
    one_cell_fields,
    spellings,
)
from pilotage.worlds.questions.grading import grade
from pilotage.worlds.questions.question import Question

every_task = pytest.mark.parametrize("task", TASKS, ids=lambda task: task.name)
every_kind = pytest.mark.parametrize("kind", QUESTION_KINDS)


def states(task: Task[Any], num: int, seed: int = 0) -> Iterator[Any]:
    rng = np.random.default_rng(seed)
    for i in range(num):
        yield task.generate(task.levels[i % 2], rng)


def as_question(asked: Asked) -> Question:
    return Question(text=asked.question, answer=asked.answer, accepted=asked.accepted, kind=asked.kind)


def begins_a_shortest_plan(task: Task[Any], state: Any, action: str, length: int) -> bool:
    """By trying every plan."""

    def search(plan: tuple[str, ...]) -> bool:
        outcome = task.execute(state, plan)
        if outcome.success:
            return True
        longer = outcome.legal and len(plan) < length
        return longer and any(search((*plan, action)) for action in task.actions)

    return search((action,))


@every_task
def test_first_moves_are_those_that_a_search_over_all_plans_finds(task: Task[Any]) -> None:
    checked = 0
    for state in states(task, 150):
        solution = task.solve(state)
        assert solution is not None
        length = len(solution.plan)
        if length > 5:
            continue
        plans = first_moves(task, state, solution, np.random.default_rng(0))
        if plans is None:
            continue
        checked += 1
        assert list(plans) == [a for a in task.actions if begins_a_shortest_plan(task, state, a, length)]
        for action, plan in plans.items():
            outcome = task.execute(state, plan)
            assert plan[0] == action and outcome.success and outcome.num_executed == len(plan) == length
    assert checked > 20


def test_hand_made_first_moves() -> None:
    lake, house = get_task("frozenlake"), get_task("minibehaviour")
    rng = np.random.default_rng(0)
    free = lake.parse_state({"map": ["SFF", "FFF", "FFG"]})
    solution = lake.solve(free)
    assert solution is not None
    assert list(first_moves(lake, free, solution, rng) or ()) == ["D", "R"]
    asked = ask(lake, free, "first_move", rng)
    assert asked is not None and {asked.answer, *asked.accepted} == {"D", "R", "down", "right"}
    barred = lake.parse_state({"map": ["SFF", "HFF", "FFG"]})
    solution = lake.solve(barred)
    assert solution is not None
    assert list(first_moves(lake, barred, solution, rng) or ()) == ["R"]
    # The printer lies beside the agent: it can be picked at once, and that is no longer than any other way.
    beside = house.parse_state(
        {
            "level": 5,
            "agent": [0, 0],
            "printer": [0, 1],
            "table": [[3, 1], [3, 2], [3, 3], [4, 1], [4, 2], [4, 3]],
        }
    )
    solution = house.solve(beside)
    assert solution is not None
    assert "PICK" in (first_moves(house, beside, solution, rng) or {})
    assert spellings(house, "PICK") == ("pickup",) and spellings(house, "U") == ("up",)


@every_task
def test_changed_plans_are_one_that_fails_and_one_that_does_not_of_one_length(task: Task[Any]) -> None:
    rng, found = np.random.default_rng(1), 0
    for state in states(task, 40):
        plans = changed_plans(task, state, rng)
        if plans is None:
            continue
        found += 1
        solution = task.solve(state)
        assert solution is not None
        assert [task.execute(state, plan).legal for plan in plans] == [True, False]
        assert {len(plan) for plan in plans} == {len(solution.plan)}
    assert found > 10


def test_a_state_where_no_plan_can_fail_has_no_question_of_safety() -> None:
    lake = get_task("frozenlake")
    free = lake.parse_state({"map": ["SFF", "FFF", "FFG"]})
    for safe in (True, False, None):
        assert ask(lake, free, "safe", np.random.default_rng(0), safe=safe) is None


@every_task
@every_kind
def test_the_answer_follows_from_the_state_and_is_graded_right(task: Task[Any], kind: Any) -> None:
    rng, num = np.random.default_rng(2), 0
    for i, state in enumerate(states(task, 24)):
        asked = ask(task, state, kind, rng, safe=bool(i % 2))
        if asked is None:
            continue
        num += 1
        question = as_question(asked)
        for right in (asked.answer, *asked.accepted):
            assert grade(question, rf"\boxed{{{right}}}").success
        for empty in ("", r"\boxed{}", asked.question, asked.answer):
            assert not grade(question, empty).success
        solution, recital = task.solve(state), task.recital(state)
        assert solution is not None
        if kind == "cell":
            [field] = [f for f in one_cell_fields(task) if f"the {f.lower()}?" in asked.question]
            assert asked.answer == recital[field]
            assert not grade(question, r"\boxed{(99,99)}").success
        elif kind == "safe":
            shown = re.search(r"safe: ([A-Z ]+)\?", asked.question)
            assert shown is not None
            legal = task.execute(state, shown[1].split()).legal
            assert (asked.answer == "yes") == legal == bool(i % 2)
            other = {"yes": "no", "no": "yes"}[asked.answer]
            both = ("yes or no", "yes, no", "safe/unsafe", other)
            assert not any(grade(question, rf"\boxed{{{said}}}").success for said in both)
        elif kind == "first_move":
            wrong = set(task.actions) - {asked.answer, *asked.accepted}
            assert not any(grade(question, rf"\boxed{{{action}}}").success for action in wrong)
            assert not grade(question, rf"\boxed{{{', '.join(task.actions)}}}").success
        else:
            assert asked.answer == str(len(solution.plan))
            assert not grade(question, rf"\boxed{{{len(solution.plan) + 1}}}").success
    assert num > 5


@every_task
@every_kind
def test_the_question_is_a_function_of_state_kind_and_seed(task: Task[Any], kind: Any) -> None:
    state = next(states(task, 1, seed=5))
    first = [ask(task, state, kind, np.random.default_rng(s)) for s in range(5)]
    assert first == [ask(task, state, kind, np.random.default_rng(s)) for s in range(5)]


@every_task
def test_one_cell_fields_are_fields_of_every_recital(task: Task[Any]) -> None:
    fields = one_cell_fields(task)
    assert len(fields) >= 1
    for state in states(task, 10, seed=9):
        assert all(re.fullmatch(r"\(\d+,\d+\)", task.recital(state)[field]) for field in fields)

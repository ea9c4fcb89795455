"""Wrong plans: legal to their end, without success, the same for the same seed, an error where there are none."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from pilotage.errors import ImpossibleRequestError
from pilotage.worlds import TASKS, get_task
from pilotage.worlds.judge import judge_plan
from pilotage.worlds.task import Task
from pilotage.worlds.wrong_plans import wrong_plans

every_task = pytest.mark.parametrize("task", TASKS, ids=lambda task: task.name)


@every_task
def test_wrong_plans_are_legal_distinct_and_fail(task: Task[Any]):
    for seed in range(12):
        level = task.levels[seed % len(task.levels)]
        state = task.generate(level, np.random.default_rng(seed))
        solution = task.solve(state)
        assert solution is not None
        try:
            plans = wrong_plans(task, state, 3, seed=seed)
        except ImpossibleRequestError:
            assert len(solution.plan) == 1  # a single step has few alternatives
            continue
        assert len(set(plans)) == 3
        for plan in plans:
            verdict = judge_plan(task, state, plan)
            assert (not verdict.is_("illegal"), verdict.success, verdict.reason) == (
                True,
                False,
                "not_reached",
            )
            assert len(plan) == verdict.measures["num_executed"] == len(solution.plan)


@every_task
def test_the_same_seed_gives_the_same_plans_and_another_one_others(task: Task[Any]):
    state = task.generate(task.levels[-1], np.random.default_rng(5))
    first = wrong_plans(task, state, 2, num_actions=6, seed=1)
    assert first == wrong_plans(task, state, 2, num_actions=6, seed=1)
    others = {wrong_plans(task, state, 2, num_actions=6, seed=seed) for seed in range(2, 8)}
    assert others != {first}


def lake(*rows: str) -> Any:
    return get_task("frozenlake").parse_state({"map": list(rows)})


def test_all_wrong_plans_of_a_small_lake_by_hand():
    """From (0,0) of a 2x2 lake with goal (1,0), one step: R moves, L and U bump, D succeeds."""
    task, state = get_task("frozenlake"), lake("SF", "GF")
    assert wrong_plans(task, state, 1) == (("R",),)
    assert set(wrong_plans(task, state, 3)) == {("R",), ("L",), ("U",)}
    with pytest.raises(ImpossibleRequestError, match="4 legal plans of 1 actions .* and the state has 3;"):
        wrong_plans(task, state, 4)
    # Two steps without a bump: R then back L, or R then D; behind a bump come R, L and U again.
    assert set(wrong_plans(task, state, 2, num_actions=2)) == {("R", "L"), ("R", "D")}


def test_bumps_are_only_used_where_nothing_else_is_left():
    task, state = get_task("frozenlake"), lake("SH", "GF")
    assert wrong_plans(task, state, 1)[0] in {("L",), ("U",)}


def test_plans_do_not_share_their_first_moves():
    task = get_task("frozenlake")
    state = lake("FFFFF", "FFFFF", "FFSFF", "FFFFF", "FFFFG")
    first_moves = {plan[:2] for plan in wrong_plans(task, state, 6, num_actions=8, seed=0)}
    assert len(first_moves) >= 3


def test_state_without_wrong_plans_is_an_error_that_says_so():
    """The maze's player stands in a dead end whose one way out is the goal."""
    task = get_task("maze")
    # N 1, S 2, W 4, E 8: a 2x2 corridor (0,0) - (0,1) - (1,1) - (1,0).
    state = task.parse_state({"start": [0, 0], "target": [0, 1], "walls": [[7, 9], [7, 10]]})
    with pytest.raises(ImpossibleRequestError, match="the state has 0; ask for fewer"):
        wrong_plans(task, state, 1)


def test_numbers_that_make_no_sense_are_refused():
    task, state = get_task("frozenlake"), lake("SF", "GF")
    with pytest.raises(ImpossibleRequestError, match="num_plans 0"):
        wrong_plans(task, state, 0)
    with pytest.raises(ImpossibleRequestError, match="num_actions 0"):
        wrong_plans(task, state, 1, num_actions=0)


def test_search_that_may_not_go_on_says_so(monkeypatch):
    monkeypatch.setattr("pilotage.worlds.wrong_plans.MAX_EXECUTIONS", 5)
    with pytest.raises(ImpossibleRequestError, match="among those tried"):
        wrong_plans(get_task("frozenlake"), lake("SFF", "FFF", "FFG"), 30)

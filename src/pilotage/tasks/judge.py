"""The one judge: a state and a response in, a verdict out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pilotage.records import Verdict
from pilotage.tasks.answers import parse_answer
from pilotage.tasks.task import Task

REASONS = (
    "success",
    "no_answer_block",
    "empty_answer",
    "unknown_token",
    "hole",
    "wall",
    "off_board",
    "object",
    "bad_pick",
    "bad_drop",
    "not_reached",
)
"""Why an answer got its verdict: the first three failures are unparsed answers, the next six are illegal."""


def judge(task: Task[Any], state: Any, text: str, *, strict_edges: bool = False) -> Verdict:
    """The verdict on one response. Never raises on any `text`.

    `strict_edges` makes a step off the FrozenLake board a failure (MGSD's own benchmark script) instead of
    a wasted move (Gymnasium's rule and both published scorers').
    """
    answer = parse_answer(text, task.actions)
    if answer.plan is None:
        return Verdict(
            parsed=False, legal=False, success=False, optimal=False, num_executed=0, reason=answer.problem
        )
    return judge_plan(task, state, answer.plan, strict_edges=strict_edges)


def judge_plan(task: Task[Any], state: Any, plan: Sequence[str], *, strict_edges: bool = False) -> Verdict:
    """The verdict on a plan that is already a sequence of the task's actions."""
    outcome = task.execute(state, plan, strict_edges=strict_edges)
    optimal = False
    if outcome.success:
        solution = task.solve(state)
        assert solution is not None, "an executed success contradicts the solver"
        optimal = outcome.num_executed == len(solution.plan)
    return Verdict(
        parsed=True,
        legal=outcome.legal,
        success=outcome.success,
        optimal=optimal,
        num_executed=outcome.num_executed,
        reason=outcome.reason,
    )

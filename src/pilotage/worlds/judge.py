"""The one judge: a state and a response in, a verdict out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pilotage.records import Verdict
from pilotage.worlds.answers import parse_answer
from pilotage.worlds.task import Task

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


class Judged:
    """One state to judge many answers on: what does not depend on the answer is worked out once."""

    __slots__ = ("_optimal_length", "state", "task")

    def __init__(self, task: Task[Any], state: Any) -> None:
        self.task = task
        self.state = state
        self._optimal_length = -1

    @property
    def optimal_length(self) -> int:
        """Steps of a shortest plan; only for a state that some plan solves."""
        if self._optimal_length < 0:
            solution = self.task.solve(self.state)
            assert solution is not None, "an executed success contradicts the solver"
            self._optimal_length = len(solution.plan)
        return self._optimal_length

    def judge(self, text: str, *, strict_edges: bool = False) -> Verdict:
        """See `judge`."""
        answer = parse_answer(text, self.task.actions)
        if answer.plan is None:
            return _UNPARSED[answer.problem]
        return self.judge_plan(answer.plan, strict_edges=strict_edges)

    def judge_plan(self, plan: Sequence[str], *, strict_edges: bool = False) -> Verdict:
        """See `judge_plan`."""
        outcome = self.task.execute(self.state, plan, strict_edges=strict_edges)
        return Verdict(
            parsed=True,
            legal=outcome.legal,
            success=outcome.success,
            optimal=outcome.success and outcome.num_executed == self.optimal_length,
            num_executed=outcome.num_executed,
            reason=outcome.reason,
        )


def judge(task: Task[Any], state: Any, text: str, *, strict_edges: bool = False) -> Verdict:
    """The verdict on one response. Never raises on any `text`.

    `strict_edges` makes a step off the FrozenLake board a failure (MGSD's own benchmark script) instead of
    a wasted move (Gymnasium's rule and both published scorers').
    """
    return Judged(task, state).judge(text, strict_edges=strict_edges)


def judge_plan(task: Task[Any], state: Any, plan: Sequence[str], *, strict_edges: bool = False) -> Verdict:
    """The verdict on a plan that is already a sequence of the task's actions."""
    return Judged(task, state).judge_plan(plan, strict_edges=strict_edges)


_UNPARSED = {
    problem: Verdict(parsed=False, legal=False, success=False, optimal=False, num_executed=0, reason=problem)
    for problem in ("no_answer_block", "empty_answer", "unknown_token")
}

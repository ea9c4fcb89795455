"""The one judge of plans: a state and a response in, an outcome out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pilotage.records import Measure, Outcome
from pilotage.worlds.answers import parse_answer
from pilotage.worlds.capabilities import able
from pilotage.worlds.task import Plans, Solves

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
"""Why an answer got its outcome: the first three failures are unparsed answers, the next six are illegal."""

MEASURES = (
    Measure(name="optimal", title="optimal"),
    Measure(name="illegal", title="illegal", better="lower"),
    Measure(name="parsed", title="parsed"),
    Measure(name="num_executed", title="actions executed", unit="actions", bounds=None, is_flag=False),
)
"""Of a plan. `parsed`: an answer block was found and every token in it is an action of the task. `illegal`: parsed, and
an executed action was illegal (hole, wall, edge, object, misplaced PICK or DROP). `optimal`: success with as few
executed actions as any plan. `num_executed`: actions until success, failure or the end of the plan, the failing one
counted. `optimal` is not there in a world that solves nothing (`Solves`)."""


class StateJudge:
    """One state to judge many answers on: what does not depend on the answer is worked out once."""

    __slots__ = ("_optimal_length", "_solver", "state", "task")

    def __init__(self, task: Plans[Any], state: Any) -> None:
        self.task = task
        self.state = state
        self._solver = able(task, Solves)
        self._optimal_length = -1

    @property
    def optimal_length(self) -> int:
        """Steps of a shortest plan; only for a state that some plan solves, in a world that finds it."""
        if self._optimal_length < 0:
            solution = None if self._solver is None else self._solver.solve(self.state)
            assert solution is not None, "an executed success contradicts the solver"
            self._optimal_length = len(solution.plan)
        return self._optimal_length

    def judge(self, text: str, *, strict_edges: bool = False) -> Outcome:
        """See `judge`."""
        answer = parse_answer(text, self.task.actions)
        if answer.plan is None:
            return (_UNPARSED if self._solver else _UNPARSED_UNSOLVED)[answer.problem]
        return self.judge_plan(answer.plan, strict_edges=strict_edges)

    def judge_plan(self, plan: Sequence[str], *, strict_edges: bool = False) -> Outcome:
        """See `judge_plan`."""
        done = self.task.execute(self.state, plan, strict_edges=strict_edges)
        is_shortest = None
        if self._solver is not None:
            is_shortest = done.success and done.num_executed == self.optimal_length
        return plan_outcome(
            parsed=True,
            legal=done.legal,
            success=done.success,
            optimal=is_shortest,
            num_executed=done.num_executed,
            reason=done.reason,
        )


def judge(task: Plans[Any], state: Any, text: str, *, strict_edges: bool = False) -> Outcome:
    """The outcome of one response. Never raises on any `text`.

    `strict_edges` makes a step off the FrozenLake board a failure (MGSD's own benchmark script) instead of
    a wasted move (Gymnasium's rule and both published scorers').
    """
    return StateJudge(task, state).judge(text, strict_edges=strict_edges)


def judge_plan(task: Plans[Any], state: Any, plan: Sequence[str], *, strict_edges: bool = False) -> Outcome:
    """The outcome of a plan that is already a sequence of the task's actions."""
    return StateJudge(task, state).judge_plan(plan, strict_edges=strict_edges)


def plan_outcome(
    *, parsed: bool, legal: bool, success: bool, optimal: bool | None, num_executed: int, reason: str
) -> Outcome:
    """An outcome with all measures of a plan; `optimal` None where the world cannot tell."""
    return Outcome(
        success=success,
        reason=reason,
        measures={
            "parsed": parsed,
            "illegal": parsed and not legal,
            **({} if optimal is None else {"optimal": optimal}),
            "num_executed": num_executed,
        },
    )


_UNPARSED, _UNPARSED_UNSOLVED = (
    {
        problem: plan_outcome(
            parsed=False, legal=False, success=False, optimal=optimal, num_executed=0, reason=problem
        )
        for problem in ("no_answer_block", "empty_answer", "unknown_token")
    }
    for optimal in (False, None)
)

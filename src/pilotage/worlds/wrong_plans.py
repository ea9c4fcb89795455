"""Plans that a world allows and that do not reach its goal: wrong answers to a state, as a model might give them.

They stand in for the reference plan where one asks how much a teacher leans on the answer it was shown.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from pilotage.errors import ImpossibleRequestError
from pilotage.worlds.capabilities import need
from pilotage.worlds.task import Plans, Solves

MAX_EXECUTIONS = 20_000
"""Plans tried before a search gives up, so that no state can make it loop."""


def wrong_plans(
    task: Plans[Any], state: Any, num_plans: int, *, num_actions: int | None = None, seed: int = 0
) -> tuple[tuple[str, ...], ...]:
    """Distinct random plans of one length, each legal to its end and without success.

    `num_actions` is the length; None takes the reference plan's, so that length does not give a wrong plan away. A
    function of state, length and seed. Plans that waste no move against the board's edge are preferred; where there
    are too few of them, harmless bumps are allowed. Raises ImpossibleRequestError when the state has fewer such
    plans, saying how many it has.
    """
    if num_plans < 1:
        raise ImpossibleRequestError(f"num_plans {num_plans} must be at least 1")
    if num_actions is None:
        solution = need(task, Solves).solve(state)
        if solution is None:
            raise ImpossibleRequestError(f"{task.name}: the state has no plan, so no length to take from it")
        num_actions = len(solution.plan)
    if num_actions < 1:
        raise ImpossibleRequestError(f"num_actions {num_actions} must be at least 1")
    rng = np.random.default_rng([seed & (2**64 - 1), num_actions])
    found: dict[tuple[str, ...], None] = {}
    complete = True
    for strict_edges in (True, False):
        # Every walk is a fresh descent, so that plans do not share their first moves as neighbours in one search do.
        walks = _Walks(task, state, num_actions, rng, strict_edges=strict_edges)
        for _ in range(8 * num_plans):
            plan = next(walks.search(), None)
            if plan is not None:
                found.setdefault(plan)
            if len(found) == num_plans:
                return tuple(found)
            if plan is None or walks.exhausted:
                break
        for plan in walks.search():
            found.setdefault(plan)
            if len(found) == num_plans:
                return tuple(found)
        complete = not walks.exhausted
    raise ImpossibleRequestError(
        f"{task.name}: {num_plans} legal plans of {num_actions} actions that fail were asked for, and the state has "
        f"{len(found) if complete else f'{len(found)} among those tried'}; ask for fewer, or for another num_actions",
        num_found=len(found),
    )


class _Walks:
    """Depth-first search over legal plans that have not succeeded, in random order."""

    def __init__(
        self, task: Plans[Any], state: Any, num_actions: int, rng: np.random.Generator, *, strict_edges: bool
    ) -> None:
        self.task, self.state, self.num_actions, self.rng = task, state, num_actions, rng
        self.strict_edges = strict_edges
        self.num_executed = 0

    @property
    def exhausted(self) -> bool:
        """The search stopped because it may not try any more."""
        return self.num_executed >= MAX_EXECUTIONS

    def search(self) -> Iterator[tuple[str, ...]]:
        """Every plan of the wanted length once, the order drawn anew each time."""
        stack: list[tuple[tuple[str, ...], list[str]]] = [((), self._shuffled())]
        while stack and not self.exhausted:
            plan, untried = stack[-1]
            if not untried:
                stack.pop()
                continue
            longer = (*plan, untried.pop())
            self.num_executed += 1
            outcome = self.task.execute(self.state, longer, strict_edges=self.strict_edges)
            if not outcome.legal or outcome.success:
                continue
            if len(longer) == self.num_actions:
                yield longer
            else:
                stack.append((longer, self._shuffled()))

    def _shuffled(self) -> list[str]:
        return [self.task.actions[index] for index in self.rng.permutation(len(self.task.actions))]

"""Answerers whose faults are planted: they misread, misplan and break the form as often as they are told to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from pilotage.errors import BadStateError
from pilotage.records import Example, Rollout, View
from pilotage.rollouts import Decoding, Request
from pilotage.worlds import Task, get_task
from pilotage.worlds.grids.views import numbered
from pilotage.worlds.task import state_text

GOAL = {"frozenlake": "Goal", "maze": "Goal", "minibehaviour": "Printer"}
"""The field whose cell is misread."""


class PlantedEngine:
    """Misreads the goal with probability `misread`, plans wrongly for what it read with probability `misplan`, and
    leaves the plan out with probability `garble`, each independently of the others.

    A misread state is one in which the best plan fails in the true state, and a bad plan fails in both: whatever is
    planted, shows. `planted` keeps (id, view) -> the fault that was planted.
    """

    def __init__(
        self,
        examples: Sequence[Example],
        *,
        misread: float = 0.0,
        misplan: float = 0.0,
        garble: float = 0.0,
        seed: int = 0,
    ) -> None:
        self.examples = {example.id: example for example in examples}
        self.rates = (misread, misplan, garble)
        self.rng = np.random.default_rng(seed)
        self.planted: dict[tuple[str, str], str] = {}

    def generate(self, requests: Sequence[Request], decoding: Decoding) -> list[Rollout]:
        rollouts = []
        for request in requests:
            text = self._answer(self.examples[request.example_id], request.view)
            rollouts.append(Rollout(example_id=request.example_id, token_ids=(1,), text=text, finished=True))
        return rollouts

    def _answer(self, example: Example, view: View) -> str:
        """What follows the view's prefill. Who is told the state does not misread it."""
        task = get_task(example.task)
        state = task.parse_state(example.state)
        misreads, misplans, garbles = (bool(x) for x in self.rng.random(3) < self.rates)
        misreads = misreads and bool(view.images) and not view.prefill
        believed = misread_goal(task, state, self.rng) if misreads else state
        if view.name == "perception":
            return numbered(task.facts(believed))
        plan = bad_plan(task, state, believed, self.rng) if misplans else best_plan(task, believed)
        self.planted[example.id, view.name] = (
            "format"
            if garbles
            else {(0, 0): "none", (1, 0): "misread", (0, 1): "misplanned", (1, 1): "both"}[misreads, misplans]
        )
        recited = "" if view.prefill else state_text(task.recital(believed)) + "\n"
        answer = f"so I go {plan[0]}." if garbles else f"<answer>{' '.join(plan)}</answer>"
        return f"{recited}{task.route(believed, plan)}\n{answer}"


def best_plan(task: Task[Any], state: Any) -> tuple[str, ...]:
    solution = task.solve(state)
    assert solution is not None
    return solution.plan


def misread_goal(task: Task[Any], state: Any, rng: np.random.Generator) -> Any:
    """The state with its goal in another cell, so that the best plan for it fails in the true state."""
    recital, level = task.recital(state), task.level_of(state)
    for place in rng.permutation(level * level):
        r, c = divmod(int(place), level)
        try:
            believed = task.parse_recital(recital | {GOAL[task.name]: f"({r},{c})"})
        except BadStateError:
            continue
        solution = task.solve(believed)
        if believed != state and solution and not task.execute(state, solution.plan).success:
            return believed
    raise AssertionError(f"no goal of {state} can be misread with a consequence")


def bad_plan(task: Task[Any], state: Any, believed: Any, rng: np.random.Generator) -> tuple[str, ...]:
    """A plan that succeeds neither in the true state nor in the believed one."""
    for _ in range(1000):
        plan = tuple(str(action) for action in rng.choice(task.actions, size=int(rng.integers(1, 8))))
        if not task.execute(believed, plan).success and not task.execute(state, plan).success:
            return plan
    raise AssertionError(f"every plan succeeds in {state}")


def misreadable(examples: Sequence[Example]) -> list[Example]:
    """Those whose goal can be misread with a consequence (on tiny boards every way may pass every cell)."""
    kept = []
    for example in examples:
        task = get_task(example.task)
        try:
            misread_goal(task, task.parse_state(example.state), np.random.default_rng(0))
        except AssertionError:
            continue
        kept.append(replace(example))
    return kept

"""Questions about a state's picture, with exact answers, of any planning world that can do all of `Task`.

* `cell`: which cell holds a thing, for every recited field that is one cell ("Which cell holds the goal?");
* `safe`: whether a plan can be executed without a failure, yes and no equally likely whatever the state;
* `first_move`: an action that begins a shortest plan; every action that does is right;
* `length`: how many actions a shortest plan has.

The question's text says nothing of the state; whoever answers has the picture.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal, get_args

import numpy as np

from pilotage.errors import BadStateError, ImpossibleRequestError
from pilotage.worlds.answers import parse_answer
from pilotage.worlds.grid import cell_text
from pilotage.worlds.task import Solution, Task, state_text

QuestionKind = Literal["cell", "safe", "first_move", "length"]
QUESTION_KINDS: tuple[QuestionKind, ...] = get_args(QuestionKind)

NUM_PROBES = 12
"""States by which a field is found to be one cell in all of them."""
NUM_CHANGED_PLANS = 100
"""Changed plans tried for one that fails and one that does not."""
NUM_SHORTEST_PLANS = 32
"""Random shortest plans looked at for first moves that nothing else proves."""

_CELL = re.compile(r"\([0-9]+,[0-9]+\)")
_WORDS = ("left", "down", "right", "up", "pickup")


@dataclass(frozen=True, kw_only=True)
class Asked:
    """A question about a state and its answer."""

    kind: QuestionKind
    question: str
    answer: str
    accepted: tuple[str, ...] = ()
    """Other right answers, and other words for right ones."""
    solution: str
    """How one comes to the answer: the state in words, what follows, the answer."""


def ask(
    task: Task[Any],
    state: Any,
    kind: QuestionKind,
    rng: np.random.Generator,
    *,
    solution: Solution | None = None,
    safe: bool | None = None,
) -> Asked | None:
    """One question of the kind, or None where the state has none with an exact answer.

    `rng` picks what is asked for and the plans that are shown. `safe` is what the answer to a `safe` question shall
    be; None leaves it to `rng`. A state of which only one of both can be asked has no `safe` question, so that the
    state alone never tells the answer. Raises BadStateError for a state without a plan.
    """
    solution = solution or task.solve(state)
    if solution is None:
        raise BadStateError(f"{task.name}: no plan reaches the goal of this state")
    if kind == "cell":
        return _ask_cell(task, state, rng)
    if kind == "safe":
        return _ask_safe(task, state, rng, bool(rng.integers(2)) if safe is None else safe)
    if kind == "first_move":
        return _ask_first_move(task, state, rng, solution)
    return _ask_length(task, state, solution)


def _ask_cell(task: Task[Any], state: Any, rng: np.random.Generator) -> Asked | None:
    recital, fields = task.recital(state), one_cell_fields(task)
    if not fields:
        return None
    field = fields[int(rng.integers(len(fields)))]
    cell = recital[field]
    return Asked(
        kind="cell",
        question=f"Which cell holds the {field.lower()}? Answer as (row,column), counted from (0,0) in the upper "
        "left corner.",
        answer=cell,
        accepted=(f"[{cell[1:-1]}]",),
        solution=f"{state_text(recital)} So the {field.lower()} is in {cell}.",
    )


def _ask_safe(task: Task[Any], state: Any, rng: np.random.Generator, safe: bool) -> Asked | None:
    plans = changed_plans(task, state, rng)
    if plans is None:
        return None
    plan = plans[0] if safe else plans[1]
    outcome = task.execute(state, plan)
    assert outcome.legal == safe
    executed = plan[: outcome.num_executed]
    end = (
        "No action fails, so it is safe."
        if safe
        else f"Action {outcome.num_executed}, {executed[-1]}, fails ({outcome.reason}), so it is not safe."
    )
    return Asked(
        kind="safe",
        question=f"Is this plan safe: {' '.join(plan)}? A plan is safe when none of its actions fails. "
        "Answer yes or no.",
        answer="yes" if safe else "no",
        accepted=("safe", "it is safe") if safe else ("unsafe", "not safe", "it is not safe"),
        solution=f"{state_text(task.recital(state))} The plan goes through "
        f"{' '.join(map(cell_text, task.trace(state, executed)))}. {end}",
    )


def _ask_first_move(
    task: Task[Any], state: Any, rng: np.random.Generator, solution: Solution
) -> Asked | None:
    plans = first_moves(task, state, solution, rng)
    if plans is None:
        return None
    # Any of them, so that the order in which the solver breaks ties does not show in the answers.
    answer = list(plans)[int(rng.integers(len(plans)))]
    plan = plans[answer]
    return Asked(
        kind="first_move",
        question=f"What is the first move of a shortest plan? Answer with one of {', '.join(task.actions)}.",
        answer=answer,
        accepted=tuple(x for move in plans for x in (move, *spellings(task, move)) if x != answer),
        solution=f"{state_text(task.recital(state))} {task.route(state, plan)} The plan is {' '.join(plan)}, so its "
        f"first move is {answer}.",
    )


def _ask_length(task: Task[Any], state: Any, solution: Solution) -> Asked:
    num_actions = len(solution.plan)
    return Asked(
        kind="length",
        question="How many actions has a shortest plan? Answer with a number.",
        answer=str(num_actions),
        solution=f"{state_text(task.recital(state))} {task.route(state, solution.plan)} The plan is "
        f"{' '.join(solution.plan)}: {num_actions} in all.",
    )


@lru_cache(maxsize=32)
def one_cell_fields(task: Task[Any]) -> tuple[str, ...]:
    """The recited fields that are one cell in every state, in the recital's order."""
    rng = np.random.default_rng(NUM_PROBES)
    states = [task.generate(task.levels[i % len(task.levels)], rng) for i in range(NUM_PROBES)]
    recitals = [task.recital(state) for state in states]
    return tuple(
        field for field in recitals[0] if all(_CELL.fullmatch(recital.get(field, "")) for recital in recitals)
    )


def changed_plans(
    task: Task[Any], state: Any, rng: np.random.Generator
) -> tuple[tuple[str, ...], tuple[str, ...]] | None:
    """(a plan without a failure, a plan that fails), both made from one random shortest plan in the same way.

    One or two of its moves are replaced, or two are exchanged; actions that do not move (taking, putting down) keep
    their places, or the words alone would tell a plan that fails. None where one of both is not found.
    """
    solution = task.solve(state, rng=rng)
    assert solution is not None
    plan, cells = solution.plan, task.trace(state, solution.plan)
    places = [
        i for i in range(len(plan)) if cells[min(i, len(cells) - 1)] != cells[min(i + 1, len(cells) - 1)]
    ]
    resting = {plan[i] for i in range(len(plan)) if i not in places}
    moves = [action for action in task.actions if action not in resting]
    found: dict[bool, tuple[str, ...]] = {}
    for _ in range(NUM_CHANGED_PLANS if places and moves else 0):
        changed = list(plan)
        if rng.integers(2):
            a, b = rng.choice(places, size=2)
            changed[a], changed[b] = changed[b], changed[a]
        else:
            for place in rng.choice(places, size=min(len(places), 1 + int(rng.integers(2))), replace=False):
                changed[place] = moves[int(rng.integers(len(moves)))]
        if tuple(changed) != plan:
            found.setdefault(task.execute(state, changed).legal, tuple(changed))
        if len(found) == 2:
            return found[True], found[False]
    return None


def first_moves(
    task: Task[Any], state: Any, solution: Solution, rng: np.random.Generator
) -> dict[str, tuple[str, ...]] | None:
    """Action -> a shortest plan that it begins, for every such action in the task's order; None if one is undecided.

    An action is right when a plan that begins with it succeeds in as many steps as a shortest one: that is executed,
    not concluded. It is wrong when it fails, or when the state that it leads to is farther from the goal; that state
    is the same with the mover's cell changed, and a plan from there must succeed after the action, or nothing is
    concluded (as where the action moves or takes a thing). Random shortest plans decide some of the rest.
    """
    right = {solution.plan[0]: solution.plan}
    undecided = []
    for action in task.actions:
        outcome = task.execute(state, (action,))
        if action in right or not outcome.legal:
            continue
        plan = (action,) if outcome.success else _plan_after(task, state, action)
        if plan is None:
            undecided.append(action)
        elif len(plan) == len(solution.plan):
            right[action] = plan
    for _ in range(NUM_SHORTEST_PLANS):
        if right.keys() >= set(undecided):
            break
        other = task.solve(state, rng=rng)
        if other is not None:
            right.setdefault(other.plan[0], other.plan)
    return {a: right[a] for a in task.actions if a in right} if right.keys() >= set(undecided) else None


def _plan_after(task: Task[Any], state: Any, action: str) -> tuple[str, ...] | None:
    """A plan that begins with the action and goes on as short as it can, executed with success; None if unknown."""
    try:
        following = task.parse_recital(_moved(task, state, action))
        rest = task.solve(following)
    except (BadStateError, ImpossibleRequestError):
        return None
    if rest is None:
        return None
    plan = (action, *rest.plan)
    outcome = task.execute(state, plan)
    return plan if outcome.success and outcome.num_executed == len(plan) else None


def _moved(task: Task[Any], state: Any, action: str) -> Mapping[str, str]:
    """The recital with the mover where the action leads: the mover's field is the one that is the trace's start."""
    recital = task.recital(state)
    start, end = cell_text(task.trace(state, ())[0]), cell_text(task.trace(state, (action,))[-1])
    movers = [field for field in one_cell_fields(task) if recital[field] == start]
    if len(movers) != 1:
        raise BadStateError(f"{task.name}: {len(movers)} fields are in {start}, where the trace starts")
    return {**recital, movers[0]: end}


@lru_cache(maxsize=256)
def spellings(task: Task[Any], action: str) -> tuple[str, ...]:
    """Words that the answer grammar reads as this action alone."""
    return tuple(
        word
        for word in _WORDS
        if word.upper() != action and parse_answer(f"<answer>{word}</answer>", task.actions).plan == (action,)
    )

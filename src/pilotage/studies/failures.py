"""Why episodes played move by move are lost: how they end, what was misread, what their first mistake was.

A mistake is a move behind which the goal is no nearer. It is a misreading where any field of the state was recited
wrong in that turn, and else the plan was wrong.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from pilotage.studies.episode_tables import of_seeds
from pilotage.studies.study import Study, StudyTable
from pilotage.studies.tables import cell, not_run
from pilotage.worlds.answers import parse_answer
from pilotage.worlds.grids.views import mover_field, task_of
from pilotage.worlds.registry import get_task
from pilotage.worlds.score import score
from pilotage.worlds.task import Task

Failures = Mapping[str, bool]
"""What is told of one episode, by the keys of `TITLES`. `misread`: the state of some turn was recited wrong, and
`misplaced` the player of some turn; `first_misread`: it failed, and its first mistake was made behind a wrong state, or
`first_misplanned` behind the right one."""
TITLES = {
    "hole": "in a hole",
    "circled": "in circles",
    "other": "not there in time",
    "misread": "some state misread",
    "misplaced": "the player misread",
    "first_misread": "first mistake: misread",
    "first_misplanned": "first mistake: misplanned",
}


def failures_table(study: Study, out: Path, seeds: Sequence[int]) -> StudyTable:
    """How episodes end and what their first mistake was, in per cent of all episodes."""
    rows = []
    for variant in study.variants:
        per_seed = of_seeds(out, seeds, variant)
        if per_seed is None:
            rows.append(not_run(variant.title, len(TITLES)))
            continue
        found = [[failures_of(row) for row in of_seed] for of_seed in per_seed]
        shares = [[[np.array([float(one[name]) for one in of_seed])] for of_seed in found] for name in TITLES]
        rows.append([variant.title, *map(cell, shares)])
    return StudyTable(
        title="Why episodes are lost, per cent of all episodes",
        head=["variant", *TITLES.values()],
        rows=rows,
        note=(
            "A mistake is a move behind which the goal is no nearer. Misread: some field of the state was recited "
            "wrong in that turn; misplanned: none was."
        ),
    )


def failures_of(row: Mapping[str, Any]) -> Failures:
    """How an episode's row ended and where it went wrong first."""
    task = task_of(row["world"])
    outcome = row["outcome"]
    # A row of one turn is that turn.
    turns = [
        _read_turn(task.name, json.dumps(turn["state"], sort_keys=True), turn["response"])
        for turn in row.get("turns") or [row]
    ]
    failed = not outcome["success"]
    first = next((turn for turn in turns if turn.is_mistake), None) if failed else None
    return {
        "hole": failed and outcome["reason"] == "hole",
        "circled": failed and bool(outcome["circled"]),
        "other": failed and outcome["reason"] != "hole" and not outcome["circled"],
        "misread": any(not turn.is_read for turn in turns),
        "misplaced": any(not turn.is_placed for turn in turns),
        "first_misread": first is not None and not first.is_read,
        "first_misplanned": first is not None and first.is_read,
    }


@dataclass(frozen=True, kw_only=True)
class _Turn:
    is_read: bool
    is_placed: bool
    is_mistake: bool


@cache
def _read_turn(task_name: str, state_json: str, response: str) -> _Turn:
    task = get_task(task_name)
    state = task.parse_state(json.loads(state_json))
    right = dict(score(task, state, response).right)
    plan = parse_answer(response, task.actions).plan or ()
    return _Turn(
        is_read=bool(right) and all(right.values()),
        is_placed=bool(right.get(mover_field(task), False)),
        is_mistake=not plan or not _is_nearer(task, state, plan[0]),
    )


def _is_nearer(task: Task[Any], state: Any, action: str) -> bool:
    before = task.solve(state)
    after, reason = task.after(state, action)  # pyright: ignore[reportAttributeAccessIssue]
    if reason or before is None:
        return reason == "success"
    then = task.solve(after)
    return then is not None and len(then.plan) < len(before.plan)

"""A state becomes an example: its id, its split, its facts, its plan and its picture."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from itertools import accumulate
from typing import Any

from pilotage.errors import BadStateError, PilotageError
from pilotage.records import SPLITS, Example, Observation, Privileged, Split
from pilotage.worlds.drawing import render_png
from pilotage.worlds.task import Solution, Task, state_hash

SPLIT_SHARES: Mapping[Split, float] = {"train": 0.8, "val": 0.1, "test": 0.1}
"""Share of all states that belongs to each split. Builds never change it, so that all data sets agree."""

ID_DIGITS = 12
"""Hex digits of the state's hash in an id. The split is read off the same digits, so one id has one split."""


def split_of(state_hash: str, shares: Mapping[Split, float] = SPLIT_SHARES) -> Split:
    """The split that owns a state, by nothing but its hash (hex, see `pilotage.worlds.task.state_hash`).

    A fixed pure function: seeds, levels, counts and the order of drawing play no part.
    """
    place = key_of(state_hash) / 16**ID_DIGITS
    return next(split for split, edge in _edges(tuple(shares.items())) if place < edge)


def key_of(state_hash: str) -> int:
    """The 48 bits of a hash that make ids and splits."""
    return int(state_hash[:ID_DIGITS], 16)


def example_id(task: str, level: int, state_hash: str) -> str:
    return f"{task}-{level}-{state_hash[:ID_DIGITS]}"


def make_example(
    task: Task[Any],
    state: Any,
    split: Split | None = None,
    *,
    cell_px: int | None = 32,
    side_px: int | None = None,
    solution: Solution | None = None,
    hash_: str | None = None,
) -> Example:
    """The example of one state; `split` defaults to the one that owns it.

    The picture has `cell_px` pixels per cell, or `side_px` pixels a side where that is given; with both None
    there is none. `solution` and `hash_` spare the work of finding them again. Raises BadStateError when the
    goal cannot be reached.
    """
    hash_ = hash_ or state_hash(task, state)
    solution = solution or task.solve(state)
    level = task.level_of(state)
    if solution is None:
        raise BadStateError(f"{example_id(task.name, level, hash_)}: no plan reaches the goal of this state")
    return Example(
        id=example_id(task.name, level, hash_),
        world=task.name,
        split=split or split_of(hash_),
        axes={"level": level, "difficulty": task.difficulty(state, len(solution.plan))},
        start=Observation(
            images=_pictures(task, state, cell_px, side_px),
            privileged=Privileged(state=task.to_json(state), facts=task.facts(state), plan=solution.plan),
        ),
    )


def _pictures(task: Task[Any], state: Any, cell_px: int | None, side_px: int | None) -> tuple[bytes, ...]:
    if side_px is not None:
        return (render_png(task, state, side_px=side_px),)
    if cell_px is not None:
        return (render_png(task, state, cell_px=cell_px),)
    return ()


@lru_cache(maxsize=8)
def _edges(shares: tuple[tuple[Split, float], ...]) -> tuple[tuple[Split, float], ...]:
    """Where each split's part of the unit interval ends, in the order of SPLITS."""
    share: dict[Split, float] = dict(shares)
    used: list[Split] = [split for split in SPLITS if share.get(split)]
    if set(share) - set(SPLITS) or min(share.values(), default=-1) < 0 or abs(sum(share.values()) - 1) > 1e-9:
        raise PilotageError(f"split shares {share} must be non-negative, sum to 1 and be named {SPLITS}")
    edges = accumulate(share[split] for split in used)
    # Shares may sum to a hair less than one; the last split takes the rest of the range.
    return (*zip(used[:-1], edges, strict=False), (used[-1], 1.0))

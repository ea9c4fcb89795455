"""A state becomes an example: its id, its split, its facts, its plan and its picture."""

from __future__ import annotations

from typing import Any

from pilotage.errors import BadStateError
from pilotage.records import Example, Observation, Privileged, Split
from pilotage.worlds.capabilities import able, need
from pilotage.worlds.drawing import encode_png, render_png
from pilotage.worlds.split import ID_DIGITS, SPLIT_SHARES, key_of, split_of
from pilotage.worlds.task import Draws, DrawsTiles, Recites, Solution, Solves, state_hash

__all__ = ["ID_DIGITS", "SPLIT_SHARES", "example_id", "key_of", "make_example", "split_of"]


def example_id(task: str, level: int, state_hash: str) -> str:
    """`task-level-hash`, with the first `ID_DIGITS` hex digits of the state's hash."""
    return f"{task}-{level}-{state_hash[:ID_DIGITS]}"


def make_example(
    task: Solves[Any],
    state: Any,
    split: Split | None = None,
    *,
    cell_px: int | None = 32,
    side_px: int | None = None,
    solution: Solution | None = None,
    hash_: str | None = None,
) -> Example:
    """The example of one state; `split` defaults to the one that owns it.

    The picture has `cell_px` pixels per cell, or `side_px` pixels a side where that is given; with both None there is
    none, and none of a world that draws nothing. `solution` and `hash_` spare the work of finding them again. Raises
    BadStateError when the goal cannot be reached, and PilotageError for `side_px` in a world without tiles.
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
            privileged=_privileged(task, state, solution),
        ),
    )


def _privileged(task: Solves[Any], state: Any, solution: Solution) -> Privileged:
    """The state, its facts where the world tells any, and a best plan."""
    reciting = able(task, Recites)
    facts = {} if reciting is None else reciting.facts(state)
    return Privileged(state=task.to_json(state), facts=facts, plan=solution.plan)


def _pictures(task: Solves[Any], state: Any, cell_px: int | None, side_px: int | None) -> tuple[bytes, ...]:
    tiles, draws = able(task, DrawsTiles), able(task, Draws)
    if draws is None or (cell_px is None and side_px is None):
        return ()
    if side_px is not None:
        return (render_png(need(task, DrawsTiles), state, side_px=side_px),)
    assert cell_px is not None
    if tiles is not None:
        return (render_png(tiles, state, cell_px=cell_px),)
    return (encode_png(draws.draw(state, cell_px)),)

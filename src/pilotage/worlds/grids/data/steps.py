"""Examples of grid worlds that are played move by move.

The split belongs to the map, which no episode can change: all states that episodes of one map visit are of one split,
whoever plays them. A state alone would not do: a good part of the states on the way have a hash of another split. (A
MiniBehaviour state with the printer in hand does not tell where it was picked up, so rooms that differ in that alone
share such states.)
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from pilotage.data.examples import ID_DIGITS, split_of
from pilotage.data.exclude import excluded_states
from pilotage.errors import BadStateError, ImpossibleRequestError, PilotageError
from pilotage.records import SPLITS, Example, Observation, Split
from pilotage.worlds.grids.steps import StepWorld, checked_options, map_hash, picture, privileged_of_state
from pilotage.worlds.registry import get_world
from pilotage.worlds.task import Stepwise, state_hash, worked_state

Starts = Literal["anywhere", "corner"]
STARTS: tuple[Starts, ...] = get_args(Starts)
START_DIGITS = 8
"""Hex digits of the start's hash in an id, behind those of its map."""
PATIENCE = 20_000
"""Draws without a new example, one after the other, after which there is taken to be none."""


def step_examples(
    world_name: str,
    levels: Sequence[int],
    count: int,
    split: Split,
    seed: int,
    *,
    starts: Starts = "anywhere",
    fog: int = 0,
    burst: int = 1,
    window: int = 1,
    cell_px: int = 32,
    exclude: Collection[str] = frozenset(),
) -> list[Example]:
    """`count` distinct examples of each level, a function of the arguments; more of them begin with the same ones.

    `corner`: the player at the upper left and the goal at the lower right (FrozenLake, Maze); the agent at the upper
    left, table and printer anywhere (MiniBehaviour). The map of the prompts' worked example is left out, and those
    whose hash is in `exclude` (see `excluded_maps`). Raises ImpossibleRequestError where a level has not as many.
    """
    if starts not in STARTS:
        raise PilotageError(f"starts {starts!r} must be one of {', '.join(STARTS)}")
    if split not in SPLITS:
        raise PilotageError(f"split {split!r} must be one of {', '.join(SPLITS)}")
    if count < 0:
        raise PilotageError(f"count {count} must be at least 0")
    options = {"fog": fog, "burst": burst, "window": window, "cell_px": cell_px}
    found = []
    for level in levels:
        drawn = _draw(_world(world_name), level, split, seed, starts, options, exclude)
        found += [next(drawn) for _ in range(count)]
    return found


def excluded_maps(paths: Iterable[Path | str]) -> frozenset[str]:
    """Hashes of the maps of all states in the files or folders, which are those of `pilotage.data.exclude`.

    Raises PilotageError for what cannot be read as a state.
    """
    return frozenset(map_hash(task.fixed(state), task.name) for task, state in _stepwise(paths))


def _stepwise(paths: Iterable[Path | str]) -> Iterator[tuple[Any, Any]]:
    return ((task, state) for task, state in excluded_states(paths) if isinstance(task, Stepwise))


def make_step_example(
    world_name: str, state: Any, *, map_: str | None = None, starts: str = "anywhere", **options: int
) -> Example:
    """The example that begins in a state. `map_` is the hash of its map where the state does not tell it all.

    `options` are the world's: `burst`, `fog`, `cell_px`, `window`. Raises BadStateError where the goal cannot be
    reached.
    """
    world = _world(world_name)
    task = world.task
    map_ = map_ or map_hash(task.fixed(state), task.name)
    level = task.level_of(state)
    privileged = privileged_of_state(task, state)
    checked = checked_options(world_name, options)
    fog, cell_px = checked["fog"], checked["cell_px"]
    id_ = f"{world_name}-{level}-{map_[:ID_DIGITS]}-{state_hash(task, state)[:START_DIGITS]}"
    if fog:
        id_ += f"-fog{fog}"
    if not privileged.plan:
        raise BadStateError(f"{id_}: no plan reaches the goal of this state")
    return Example(
        id=id_,
        world=world_name,
        split=split_of(map_),
        axes={"level": level, "difficulty": task.difficulty(state, len(privileged.plan))},
        start=Observation(
            images=(picture(task, state, cell_px, fog),) if cell_px else (),
            privileged=privileged,
        ),
        data={"map": map_, "starts": starts, **options},
    )


def every_start(example: Example) -> list[Example]:
    """One example for each cell of the example's map from which the goal can be reached, in row-major order.

    A start with the printer in hand gives such starts.
    """
    task = _world(example.world).task
    state = task.parse_state(example.state or {})
    side = range(task.level_of(state))
    map_ = str(example.data["map"])
    options = {name: value for name, value in example.data.items() if name not in ("map", "starts")}
    placed = (task.placed(state, (r, c)) for r in side for c in side)
    return [
        make_step_example(example.world, other, map_=map_, starts="every", **options)
        for other in placed
        if other is not None and task.solve(other) is not None
    ]


def _draw(
    world: StepWorld,
    level: int,
    split: Split,
    seed: int,
    starts: Starts,
    options: dict[str, int],
    exclude: Collection[str],
) -> Iterator[Example]:
    task = world.task
    rng = np.random.default_rng([seed & (2**64 - 1), level, STARTS.index(starts)])
    worked = map_hash(task.fixed(worked_state(task)), task.name)
    seen: set[str] = set()
    num_tries = 0
    while num_tries < PATIENCE:
        num_tries += 1
        state = task.generate(level, rng)
        if starts == "corner":
            state = task.cornered(state)
        if state is None:
            continue
        map_ = map_hash(task.fixed(state), task.name)
        if split_of(map_) != split or map_ == worked or map_ in exclude:
            continue
        hash_ = state_hash(task, state)
        if hash_ in seen or task.solve(state) is None:
            continue
        seen.add(hash_)
        num_tries = 0
        yield make_step_example(world.name, state, map_=map_, starts=starts, **options)
    raise ImpossibleRequestError(
        f"{world.name}: level {level} gives {len(seen)} examples of split {split} with starts {starts!r} and no more "
        f"in {PATIENCE} draws; ask for fewer"
    )


def _world(name: str) -> StepWorld:
    world = get_world(name)
    if not isinstance(world, StepWorld):
        raise PilotageError(f"{name} is not played move by move; its examples are made elsewhere")
    return world

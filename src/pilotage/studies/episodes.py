"""Whose episodes teach? FrozenLake move by move on the nano model: start states, the expert's episodes, one's own.

    pilotage study episodes runs/episodes --seeds 0 1 2                 from the corner: positions are not yet learnt
    pilotage study episodes_anywhere runs/anywhere --seeds 0 1 2 3 4 5  starts anywhere: the null control
    pilotage study episodes_fog runs/fog --seeds 0 1 2                  only cells within two steps are drawn

All seeds branch off one model, MGSD's two stages with seed 0: a seed varies what comes after.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from pilotage.recipes.nano import nano_mgsd
from pilotage.recipes.steps import STAGE, nano_steps
from pilotage.records import Example
from pilotage.runs.measurement import TEST_SEED, examples_of
from pilotage.runs.recipe import Recipe
from pilotage.runs.runner import engine_of, measure
from pilotage.studies.episode_tables import CELLS, MOVED, NUM_MOVES, PLAN, episodes_table, pairs_table
from pilotage.studies.failures import failures_table
from pilotage.studies.study import Study, Variant
from pilotage.worlds.grids.data.steps import every_start, make_step_example
from pilotage.worlds.registry import get_world

NUM_MAPS = 6
"""Of each level, whose every cell is a start."""


def measure_episodes(recipe: Recipe, run_dir: Path) -> None:
    """What the trained model does from the same starts in one plan, after random moves, and from every cell."""
    if recipe.stages[-1].stage != STAGE:
        return
    engine = None
    for name, make in also_measured(examples_of(recipe, "test")).items():
        done = run_dir / name / "done"
        if done.exists():
            continue
        engine = engine or engine_of(recipe, str(run_dir / STAGE / "model"))
        measure(recipe, engine, STAGE, make(), run_dir / name, conditions=("image",))
        done.touch()


def also_measured(test: Sequence[Example]) -> Mapping[str, Callable[[], list[Example]]]:
    """Folder -> what is played there, besides the test examples themselves."""
    return {
        PLAN: lambda: [as_plan(example) for example in test],
        MOVED: lambda: _distinct(moved(example) for example in test),
        CELLS: lambda: cells(test),
    }


def as_plan(example: Example) -> Example:
    """The same start as an example of the planning task: one plan from it, judged as a whole."""
    return replace(example, world=get_world(example.world).task.name)


def moved(example: Example) -> Example:
    """The example begun some random harmless moves later, off its goal."""
    task = get_world(example.world).task
    rng = np.random.default_rng([TEST_SEED, int(example.id.split("-")[2][:8], 16)])
    state = task.parse_state(example.state)
    for _ in range(NUM_MOVES):
        following = [task.after(state, action) for action in task.actions]
        legal = [after for after, reason in following if not reason]
        state = legal[int(rng.integers(len(legal)))] if legal else state
    options = {name: value for name, value in example.data.items() if name not in ("map", "starts")}
    map_ = str(example.data["map"])
    return make_step_example(example.world, state, map_=map_, starts="moved", **options)


def cells(examples: Sequence[Example]) -> list[Example]:
    """Every start cell of the first maps of each level."""
    found: list[Example] = []
    for level in sorted({example.level for example in examples}):
        of_level = [example for example in examples if example.level == level]
        for example in of_level[:NUM_MAPS]:
            found += every_start(example)
    return _distinct(found)


def _distinct(examples: Iterable[Example]) -> list[Example]:
    """Each state once: from anywhere, two starts of one map may meet."""
    return list({example.id: example for example in examples}.values())


PAIRS = (
    ("own", "expert"),
    ("own", "tcod"),
    ("own", "tcod_back"),
    ("own", "guided"),
    ("own_dagger", "start_reference"),
    ("own_dagger", "cloning"),
    ("cloning", "start_reference"),
    ("start_reference", "start"),
    ("own_dagger", "own"),
    ("cloning", "expert"),
    ("sdar", "grpo"),
)
TITLES = {
    "start": "start states",
    "expert": "the expert's episodes",
    "own": "the student's own episodes",
    "start_reference": "start states, reference answers",
    "cloning": "the expert's episodes, reference answers",
    "own_dagger": "own states, reference answers",
    "tcod": "own, horizon growing from the front",
    "tcod_back": "own, growing from the back",
    "guided": "teacher and student take turns",
    "expert_ever_less": "expert moves ever less",
    "grpo": "own, rewarded by group",
    "sdar": "own, rewarded by group and gated teacher",
}


def _study(name: str, title: str, arms: Sequence[str] = tuple(TITLES), **settings: Any) -> Study:
    def arm(arm_name: str, seed: int, base_run: Path) -> Recipe:
        return nano_steps(seed, backbone=str(base_run / "stage2" / "model"), arm=arm_name, **settings)

    return Study(
        name=name,
        title=title,
        base_run=lambda seed: nano_mgsd(0),
        base_run_folder="base_run",
        one_base_run=True,
        variants=tuple(
            Variant(title=TITLES[each], folder=each, stage=STAGE, make=partial(arm, each)) for each in arms
        ),
        reference="start states",
        extras=(measure_episodes,),
        main_table=episodes_table,
        tables=(partial(pairs_table, [pair for pair in PAIRS if {*pair} <= {*arms}]), failures_table),
    )


EPISODES = _study(
    "episodes", "Whose episodes teach? FrozenLake move by move, from the corner", starts="corner"
)
EPISODES_ANYWHERE = _study(
    "episodes_anywhere",
    "Whose episodes teach? FrozenLake move by move, from anywhere",
    ("start", "expert", "own", "start_reference", "own_dagger"),
    starts="anywhere",
)
EPISODES_FOG = _study(
    "episodes_fog",
    "Whose episodes teach? FrozenLake move by move, in fog",
    ("start", "expert", "own", "cloning", "own_dagger"),
    starts="corner",
    fog=2,
    window=3,
    levels=(4, 5),
)

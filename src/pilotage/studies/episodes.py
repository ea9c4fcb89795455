"""Whose episodes teach? FrozenLake move by move on the nano model: start states, the expert's episodes, one's own.

    pilotage study episodes runs/episodes --seeds 0 1 2           from the corner: positions are not yet learnt
    pilotage study episodes_anywhere runs/anywhere --seeds 0 1 2  starts anywhere: the null control
    pilotage study episodes_fog runs/fog --seeds 0 1 2            only cells within two steps are drawn

All seeds branch off one model, MGSD's two stages with seed 0: a seed varies what comes after.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from pilotage.evaluate import evaluate, rows_path
from pilotage.evaluate.jsonl import read_jsonl
from pilotage.evaluate.summary import rate_of
from pilotage.recipes.nano import nano_mgsd
from pilotage.recipes.steps import nano_steps
from pilotage.records import Example
from pilotage.rollouts.transformers_engine import TransformersEngine
from pilotage.runs.measurement import TEST_SEED, examples_of
from pilotage.runs.recipe import Recipe
from pilotage.runs.runner import EVAL_BATCH, load
from pilotage.studies.study import Study, StudyTable, Variant, run_folder
from pilotage.studies.tables import cell, difference_cell, is_measured, less
from pilotage.worlds.grids.data.steps import every_start, make_step_example
from pilotage.worlds.registry import get_world

PLAN, MOVED, CELLS = "plan", "moved", "cells"
"""Folders of further measurements: one plan from the start, after random moves, from every cell of some maps."""
NUM_MOVES = 4
NUM_MAPS = 6
"""Of each level, whose every cell is a start."""
STAGE = "steps"


def measure_episodes(recipe: Recipe, run_dir: Path) -> None:
    """What the trained model does from the same starts in one plan, after random moves, and from every cell."""
    if recipe.stages[-1].stage != STAGE:
        return
    test = examples_of(recipe, "test")
    parts: dict[str, Callable[[], list[Example]]] = {
        PLAN: lambda: [as_plan(example) for example in test],
        MOVED: lambda: [moved(example) for example in test],
        CELLS: lambda: cells(test),
    }
    engine = None
    for name, make in parts.items():
        done = run_dir / name / "done"
        if done.exists():
            continue
        engine = engine or TransformersEngine(load(recipe, str(run_dir / STAGE / "model")))
        evaluate(
            engine,
            make(),
            stage=STAGE,
            prompts=recipe.prompts,
            max_new_tokens=recipe.max_new_tokens,
            out=run_dir / name,
            model=STAGE,
            kinds=("image",),
            batch_size=EVAL_BATCH,
        )
        done.touch()


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
    return list({example.id: example for example in found}.values())


def _rows(out: Path, seed: int, variant: Variant, part: str = "") -> list[dict[str, Any]] | None:
    folder = run_folder(out, seed, variant.folder)
    path = rows_path(folder / part if part else folder, variant.stage, "image")
    if not path.exists() or (part and not (folder / part / "done").exists()):
        return None
    return sorted(read_jsonl(path).rows, key=lambda row: row["id"])


def _values(rows: Sequence[dict[str, Any]], rate: str, level: int | None = None) -> np.ndarray:
    of = rate_of(rate)
    return np.array([of(row) for row in rows if level is None or row["level"] == level])


def episodes_table(study: Study, out: Path, seeds: Sequence[int]) -> StudyTable:
    """Success move by move, by level; circles; from elsewhere; in one plan. Means and intervals over seeds and maps."""
    arms = [variant for variant in study.variants if variant.make is not None]
    assert arms[0].make is not None
    levels = arms[0].make(seeds[0], Path()).levels[0][1]
    head = ["variant", *(f"level {level}" for level in levels), "all", "in circles", "turns"]
    head += ["one plan", f"after {NUM_MOVES} random moves", "every start cell", "all, against reference"]
    reference = study.variant(study.reference)
    lines = []
    for variant in arms:
        per_seed = [_rows(out, seed, variant) for seed in seeds]
        if not all(is_measured(out, seed, variant) for seed in seeds) or None in per_seed:
            lines.append([variant.title, *(["not run"] * (len(head) - 1))])
            continue
        known = [rows for rows in per_seed if rows is not None]
        cells_ = [cell([[_values(rows, "success", level)] for rows in known]) for level in levels]
        cells_.append(cell([[_values(rows, "success")] for rows in known]))
        cells_.append(cell([[_values(rows, "circled")] for rows in known]))
        turns = [row["num_turns"] for rows in known for row in rows]
        cells_.append(f"{np.mean(turns):.1f}")
        for part in (PLAN, MOVED, CELLS):
            of_part = [_rows(out, seed, variant, part) for seed in seeds]
            there = [rows for rows in of_part if rows is not None]
            cells_.append(
                cell([[_values(rows, "success")] for rows in there])
                if len(there) == len(seeds)
                else "not run"
            )
        theirs = [_rows(out, seed, reference) for seed in seeds]
        if variant is reference or None in theirs:
            cells_.append("")
        else:
            ours = [[_values(rows, "success")] for rows in known]
            other = [[_values(rows, "success")] for rows in theirs if rows is not None]
            cells_.append(difference_cell(less(ours, other)))
        lines.append([variant.title, *cells_])
    return StudyTable(
        title="Success on unseen maps, per cent",
        head=head,
        lines=lines,
        note=f"Reference: {study.reference}. The same maps for all variants and seeds.",
    )


TITLES = {
    "start": "start states",
    "expert": "the expert's episodes",
    "own": "the student's own episodes",
    "tcod": "own, growing horizon",
    "guided": "expert moves ever less",
    "own_dagger": "own states, reference answers",
    "start_reference": "start states, reference answers",
}


def _study(name: str, title: str, **settings: Any) -> Study:
    def arm(arm_name: str, seed: int, trunk: Path) -> Recipe:
        model = trunk / "stage2" / "model"
        return nano_steps(seed, backbone=str(model), arm=arm_name, **settings)

    return Study(
        name=name,
        title=title,
        trunk=lambda seed: nano_mgsd(0),
        trunk_folder="trunk",
        variants=tuple(
            Variant(title=told, folder=each, stage=STAGE, make=partial(arm, each))
            for each, told in TITLES.items()
        ),
        reference="start states",
        extras=(measure_episodes,),
        main_table=episodes_table,
    )


EPISODES = _study(
    "episodes", "Whose episodes teach? FrozenLake move by move, from the corner", starts="corner"
)
EPISODES_ANYWHERE = _study(
    "episodes_anywhere", "Whose episodes teach? FrozenLake move by move, from anywhere", starts="anywhere"
)
EPISODES_FOG = _study(
    "episodes_fog",
    "Whose episodes teach? FrozenLake move by move, in fog",
    starts="corner",
    fog=2,
    window=3,
    levels=(4, 5),
)

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
from pilotage.recipes.steps import STAGE, nano_steps
from pilotage.records import Example
from pilotage.runs.measurement import TEST_SEED, examples_of
from pilotage.runs.recipe import Recipe
from pilotage.runs.runner import EVAL_BATCH, engine_of
from pilotage.studies.study import Study, StudyTable, Variant, run_folder
from pilotage.studies.tables import cell, difference_cell, is_measured, less
from pilotage.worlds.grids.data.steps import every_start, make_step_example
from pilotage.worlds.registry import get_world

PLAN, MOVED, CELLS = "plan", "moved", "cells"
"""Folders of further measurements: one plan from the start, after random moves, from every cell of some maps."""
NUM_MOVES = 4
NUM_MAPS = 6
"""Of each level, whose every cell is a start."""


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
        engine = engine or engine_of(recipe, str(run_dir / STAGE / "model"))
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
    parts = {PLAN: "one plan", MOVED: f"after {NUM_MOVES} random moves", CELLS: "every start cell"}
    measured = [part for part in parts if any(_of_seeds(out, seeds, arm, part) for arm in arms)]
    head = ["variant", *(f"level {level}" for level in levels), "all", "in circles", "turns"]
    head += [*(parts[part] for part in measured), "all, against reference"]
    theirs = _of_seeds(out, seeds, study.variant(study.reference))
    lines = []
    for variant in arms:
        known = _of_seeds(out, seeds, variant)
        if known is None:
            lines.append([variant.title, *(["not run"] * (len(head) - 1))])
            continue
        cells_ = [cell([[_values(rows, "success", level)] for rows in known]) for level in levels]
        cells_.append(cell([[_values(rows, "success")] for rows in known]))
        cells_.append(cell([[_values(rows, "circled")] for rows in known]))
        turns = [row["num_turns"] for rows in known for row in rows]
        cells_.append(f"{np.mean(turns):.1f}")
        for part in measured:
            there = _of_seeds(out, seeds, variant, part)
            cells_.append(
                "not run" if there is None else cell([[_values(rows, "success")] for rows in there])
            )
        cells_.append(
            "" if theirs is None or variant.title == study.reference else _difference(known, theirs)
        )
        lines.append([variant.title, *cells_])
    return StudyTable(
        title="Success on unseen maps, per cent",
        head=head,
        rows=lines,
        note=f"Reference: {study.reference}. The same maps for all variants and seeds.",
    )


def pairs_table(
    pairs: Sequence[tuple[str, str]], study: Study, out: Path, seeds: Sequence[int]
) -> StudyTable:
    """One arm less another, by folders, paired by seed and map: in all, by level, in circles, in one plan."""
    variant_of = {variant.folder: variant for variant in study.variants}
    make = study.variants[0].make
    assert make is not None
    levels = make(seeds[0], Path()).levels[0][1]
    lines = []
    for one, other in pairs:
        ours, theirs = (_of_seeds(out, seeds, variant_of[folder]) for folder in (one, other))
        title = f"{variant_of[one].title} less {variant_of[other].title}"
        if ours is None or theirs is None:
            lines.append([title, *(["not run"] * (len(levels) + 3))])
            continue
        cells_ = [_difference(ours, theirs), *(_difference(ours, theirs, level=level) for level in levels)]
        cells_.append(_difference(ours, theirs, rate="circled"))
        plans = [_of_seeds(out, seeds, variant_of[folder], PLAN) for folder in (one, other)]
        cells_.append("not run" if plans[0] is None or plans[1] is None else _difference(plans[0], plans[1]))
        lines.append([title, *cells_])
    return StudyTable(
        title="One arm less another, points",
        head=["pair", "all", *(f"level {level}" for level in levels), "in circles", "one plan"],
        rows=lines,
    )


def _of_seeds(
    out: Path, seeds: Sequence[int], variant: Variant, part: str = ""
) -> list[list[dict[str, Any]]] | None:
    """The rows of each seed; None where one is missing."""
    if not all(is_measured(out, seed, variant) for seed in seeds):
        return None
    per_seed = [_rows(out, seed, variant, part) for seed in seeds]
    known = [rows for rows in per_seed if rows is not None]
    return known if len(known) == len(seeds) else None


def _difference(
    ours: Sequence[Sequence[dict[str, Any]]],
    theirs: Sequence[Sequence[dict[str, Any]]],
    *,
    rate: str = "success",
    level: int | None = None,
) -> str:
    one, other = ([[_values(rows, rate, level)] for rows in of_seeds] for of_seeds in (ours, theirs))
    return difference_cell(less(one, other))


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
        base_run_folder="trunk",
        one_base_run=True,
        variants=tuple(
            Variant(title=TITLES[each], folder=each, stage=STAGE, make=partial(arm, each)) for each in arms
        ),
        reference="start states",
        extras=(measure_episodes,),
        main_table=episodes_table,
        tables=(partial(pairs_table, [pair for pair in PAIRS if {*pair} <= {*arms}]),),
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

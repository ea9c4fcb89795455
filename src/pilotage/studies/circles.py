"""What helps against circles? Ways to play FrozenLake move by move with one trained model and the same episodes.

    pilotage study circles runs/episodes --seeds 0 1 2

A model that plans anew before every move can go to and fro between two plans. Here the same model plays the same maps
by agents that hold on to a plan, sample, or are told where they were. The models: MGSD's two stages with seed 0, the
same after its own episodes (`pilotage.recipes.steps`), and after its own episodes told where it was. The model of MGSD
is the same in every seed. In the folder of the study `episodes` its runs are taken.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from pilotage.evaluate.bootstrap import UNBOUNDED, bootstrap_mean
from pilotage.evaluate.summary import rate_of
from pilotage.recipes.nano import nano_mgsd
from pilotage.recipes.steps import nano_steps
from pilotage.records import Example, Rollout
from pilotage.rollouts.engine import Decoding, Engine, Request
from pilotage.runs.measurement import TEST_SEED
from pilotage.runs.recipe import Recipe
from pilotage.runs.runner import EVAL_BATCH, engine_of, measure
from pilotage.studies.episode_tables import Rows, rows_by_id, values
from pilotage.studies.study import Study, StudyTable, Variant
from pilotage.studies.tables import cell, difference_cell, less
from pilotage.train.distill_config import DistillConfig
from pilotage.worlds.grids.data.steps import step_examples
from pilotage.worlds.judge import judge
from pilotage.worlds.registry import planning_task

WORLD, LEVELS, NUM_MAPS = "frozenlake_steps", (4, 5, 6), 200
"""Maps of each level."""
FOLDER = "circles"
"""Of a run: one folder in it for each way to play."""
MEMORY = "memory"
"""The view and the condition whose prompt tells the cells that the model read itself to be in before."""
SEEN = {"image": "pictures", "text": "words", MEMORY: "pictures", "text_memory": "words"}


@dataclass(frozen=True, kw_only=True)
class Way:
    """One way to play."""

    title: str
    folder: str
    agent: str = "direct"
    options: Mapping[str, int] = field(default_factory=dict)
    """Of the world, beside the start."""
    conditions: tuple[str, ...] = ("image", "text")


DIRECT = Way(title="asked before every move", folder="direct")
WAYS = (
    DIRECT,
    Way(title="two moves a turn", folder="burst2", options={"burst": 2}),
    Way(title="a plan until a surprise", folder="follow_plan", agent="follow_plan"),
    Way(title="on a revisit, its plan", folder="follow_on_revisit", agent="follow_on_revisit"),
    Way(title="on a revisit, sampled", folder="sampling_on_revisit", agent="sampling_on_revisit"),
    Way(title="one plan at the start", folder="one_plan", agent="one_plan"),
    Way(title="told where it was", folder="memory", conditions=(MEMORY, "text_memory")),
)


class Remembered:
    """An engine that writes the greedy answer to a view once: whoever plays, the same pictures come up."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._known: dict[Any, Rollout] = {}

    def generate(self, requests: Sequence[Request], decoding: Decoding) -> list[Rollout]:
        if decoding.temperature > 0:
            return self._engine.generate(requests, decoding)
        views = [request.view for request in requests]
        keys = [(decoding, repr(view.messages), view.images, view.prefill) for view in views]
        new = {key: request for key, request in zip(keys, requests, strict=True) if key not in self._known}
        if new:
            self._known |= zip(new, self._engine.generate(list(new.values()), decoding), strict=True)
        return [
            replace(self._known[key], example_id=request.example_id)
            for key, request in zip(keys, requests, strict=True)
        ]

    def sync(self, model: Any) -> None:
        self._known.clear()
        self._engine.sync(model)


def ways_of(recipe: Recipe) -> tuple[Way, ...]:
    """How its last model plays: one that learnt with its past in the prompt has it there."""
    stage = recipe.stages[-1]
    has_memory = isinstance(stage, DistillConfig) and stage.student_view == MEMORY
    return tuple(way for way in WAYS if not has_memory or MEMORY in way.conditions)


def measure_circles(recipe: Recipe, run_dir: Path, *, num_maps: int = NUM_MAPS) -> None:
    """The last model's episodes on unseen maps from the corner, for each way to play."""
    stage = recipe.stages[-1].stage
    missing = [way for way in ways_of(recipe) if not (run_dir / FOLDER / way.folder / "done").exists()]
    if not missing:
        return
    engine = Remembered(engine_of(recipe, str(run_dir / stage / "model"), batch_size=EVAL_BATCH))
    for way in missing:
        examples = maps(num_maps, way.options)
        out = run_dir / FOLDER / way.folder
        measure(
            *(recipe, engine, stage, examples, out),
            conditions=way.conditions,
            seed=recipe.seed,
            batch_size=len(examples),
            agent=way.agent,
        )
        (out / "done").touch()


def maps(num_maps: int, options: Mapping[str, int]) -> list[Example]:
    """The same ones, with the same ids, whatever the options."""
    return step_examples(WORLD, LEVELS, num_maps, "test", TEST_SEED, starts="corner", exclude=(), **options)


def circles_table(study: Study, out: Path, seeds: Sequence[int]) -> StudyTable:
    """Success by level, circles, and what it cost, of each model and way, against being asked before every move."""
    head = ["model", "sees", "way", *(f"level {level}" for level in LEVELS), "all", "all, against reference"]
    head += ["in circles", "circles, against reference", "in a hole", "answers", "moves"]
    lines = []
    for variant in study.variants:
        for condition, way in _measured_ways(study, out, seeds, variant):
            ours = [_rows(study, out, seed, variant, way, condition) for seed in seeds]
            theirs = _reference(out, seeds, study, variant, condition)
            line = [variant.title, SEEN[condition], way.title]
            line += [cell(values(ours, "success", level)) for level in LEVELS]
            for rate in ("success", "circled"):
                line.append(cell(values(ours, rate)))
                if theirs is None or way is DIRECT:
                    line.append("")
                else:
                    line.append(difference_cell(less(values(ours, rate), values(theirs, rate))))
            line.append(cell(values(ours, "illegal")))
            line += [_mean(ours, lambda row: row["num_turns"]), _mean(ours, _num_moves)]
            lines.append(line)
    return StudyTable(
        title="Success on unseen maps, per cent",
        head=head,
        rows=lines or [["not run", *([""] * (len(head) - 1))]],
        note=(
            f"Reference: {DIRECT.title}, the same seeds and maps; of the model that learnt to be told where it was: "
            f"the one that learnt without. {NUM_MAPS} maps a level."
        ),
    )


def own_plans_table(study: Study, out: Path, seeds: Sequence[int]) -> StudyTable:
    """Of the episodes that end in a circle: had the plan that some visited state was answered with been followed?"""
    head = ["model", "sees", "circles", "the first plan", "that of the first state seen again"]
    head += ["that of some visited state"]
    lines = []
    for variant in study.variants:
        for condition, way in _measured_ways(study, out, seeds, variant):
            if way is not DIRECT:
                continue
            rows = [row for seed in seeds for row in _rows(study, out, seed, variant, way, condition)]
            circles = [own_plans(row) for row in rows if rate_of("circled")(row)]
            line = [variant.title, SEEN[condition], f"{len(circles)} of {len(rows)}"]
            for place in range(3):
                line.append(cell([[np.array([float(found[place]) for found in circles])]]) if circles else "")
            lines.append(line)
    return StudyTable(
        title="Circles that the model's own plan would have solved, per cent",
        head=head,
        rows=lines or [["not run", *([""] * (len(head) - 1))]],
        note=f"Each plan followed from its own state to its end; {DIRECT.title}.",
    )


def own_plans(row: Mapping[str, Any]) -> tuple[bool, bool, bool]:
    """Whether the goal is reached by the plan of the first turn, by that of the first state seen again, and by that of
    any turn, each followed from where it was answered to its end."""
    task = planning_task(row["world"])
    assert task is not None
    turns = row["turns"]
    is_right = [judge(task, task.parse_state(turn["state"]), turn["response"]).success for turn in turns]
    states = [turn["state"] for turn in turns]
    again = next((place for place, state in enumerate(states) if state in states[:place]), None)
    return is_right[0], again is not None and is_right[again], any(is_right)


def _num_moves(row: Mapping[str, Any]) -> float:
    return float((row["outcome"] or {}).get("num_executed", 0))


def _measured_ways(study: Study, out: Path, seeds: Sequence[int], variant: Variant) -> list[tuple[str, Way]]:
    """(condition, way) of what every seed has measured."""
    folders = [study.folder(out, seed, variant.folder) / FOLDER for seed in seeds]
    there = [way for way in WAYS if all((folder / way.folder / "done").exists() for folder in folders)]
    pairs = ((SEEN[condition], condition, way) for way in there for condition in way.conditions)
    return [(condition, way) for _, condition, way in sorted(pairs, key=lambda pair: pair[0])]


def _reference(
    out: Path, seeds: Sequence[int], study: Study, variant: Variant, condition: str
) -> list[Rows] | None:
    """The rows that a way is compared with."""
    seen = "text" if SEEN[condition] == SEEN["text"] else "image"
    for other in (variant, study.variant(study.reference)):
        if (seen, DIRECT) in _measured_ways(study, out, seeds, other):
            return [_rows(study, out, seed, other, DIRECT, seen) for seed in seeds]
    return None


def _rows(study: Study, out: Path, seed: int, variant: Variant, way: Way, condition: str) -> Rows:
    folder = study.folder(out, seed, variant.folder) / FOLDER / way.folder
    return rows_by_id(folder, variant.stage, condition)


def _mean(per_seed: Sequence[Rows], of: Any) -> str:
    found = bootstrap_mean([float(of(row)) for rows in per_seed for row in rows], bounds=UNBOUNDED)
    return f"{found.mean:.1f}"


def _after_own(seed: int, base_run: Path, *, view: str = "student") -> Recipe:
    recipe = nano_steps(seed, backbone=str(base_run / "stage2" / "model"), arm="own", starts="corner")
    if view == "student":
        return recipe
    (stage,) = recipe.stages
    assert isinstance(stage, DistillConfig)
    return replace(
        recipe, name=f"{recipe.name}_{view}", stages=(replace(stage, student_view=view),), conditions=(view,)
    )


OWN = "after its own episodes"
CIRCLES = Study(
    name="circles",
    title="What helps against circles? FrozenLake move by move, from the corner",
    base_run=lambda seed: nano_mgsd(0),
    base_run_folder="base_run",
    one_base_run=True,
    variants=(
        Variant(title="after MGSD", folder="base_run", stage="stage2", make=None),
        Variant(title=OWN, folder="own", stage="steps", make=_after_own),
        Variant(
            title=f"{OWN}, told where it was",
            folder="own_memory",
            stage="steps",
            make=partial(_after_own, view=MEMORY),
        ),
    ),
    reference=OWN,
    extras=(measure_circles,),
    main_table=circles_table,
    tables=(own_plans_table,),
)

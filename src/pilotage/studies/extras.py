"""What a study measures of a finished run besides success: leaning on a prior, and on the answer."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from pilotage.data.prior import prior_of, prior_pairs
from pilotage.distill.routes import Route
from pilotage.errors import ImpossibleRequestError
from pilotage.evaluate import rows_path
from pilotage.evaluate.jsonl import read_jsonl
from pilotage.evaluate.prior_probe import prior_conflict
from pilotage.evaluate.run import episodes_of, has_won, success_by_task
from pilotage.files import write_json
from pilotage.rollouts import Decoding
from pilotage.rollouts.transformers_engine import TransformersEngine
from pilotage.runs.measurement import TEST_SEED, examples_of
from pilotage.runs.recipe import Recipe
from pilotage.runs.runner import EVAL_BATCH, engine_of, load, measure
from pilotage.train.answer_leak import leak_of_trained
from pilotage.train.distill_config import EMA, DistillConfig, FrozenCopy, GatedRefresh, Live
from pilotage.worlds.registry import get_task

NUM_PRIOR_PAIRS, NUM_PROBED, NUM_WRONG = 50, 60, 4
PRIOR_FILE, LEAK_FILE, TEACHER_FILE = "prior.json", "palr.json", "teacher.json"
PROBE_FOLDER = "probe"
"""Folder of a run: the answers that `PRIOR_FILE` was counted from."""


def measure_prior(recipe: Recipe, run_dir: Path) -> None:
    """Success from pictures that follow a task's prior and that reverse it, in `prior.json`."""
    stage = recipe.stages[-1].stage
    path = run_dir / PRIOR_FILE
    if path.exists():
        return
    examples = [
        example
        for name, levels in recipe.levels
        if prior_of(get_task(name))
        for pair in prior_pairs(
            get_task(name), levels, NUM_PRIOR_PAIRS, split="test", seed=TEST_SEED, cell_px=recipe.cell_px
        )
        for example in pair
    ]
    probe_dir = run_dir / PROBE_FOLDER
    engine = engine_of(recipe, str(run_dir / stage / "model"))
    measure(recipe, engine, stage, examples, probe_dir, conditions=("image",))
    rows = read_jsonl(rows_path(probe_dir, stage, "image")).rows
    write_json(path, prior_conflict(rows).as_dict())


def measure_leak(recipe: Recipe, run_dir: Path) -> None:
    """PALR and the privilege gap of the last stage's teachers, in `palr.json`; of stages without one, nothing.

    Where a teacher cannot be told a wrong answer, the file says so in their place.
    """
    stage = recipe.stages[-1]
    path = run_dir / LEAK_FILE
    if path.exists() or not isinstance(stage, DistillConfig):
        return
    if not any(route.has_teacher for route in stage.routes):
        return
    if any(isinstance(weights, Live | EMA | GatedRefresh) for weights in stage.all_weights):
        return
    try:
        leak = leak_of_trained(
            stage,
            start=load(recipe, recipe.backbone),
            trained=load(recipe, str(run_dir / stage.stage / "model")),
            examples=examples_of(replace(recipe, num_val=NUM_PROBED), "val"),
            num_examples=NUM_PROBED,
            num_wrong=NUM_WRONG,
        ).as_dict()
    except ImpossibleRequestError as impossible:
        leak = {"not measured": str(impossible)}
    write_json(path, leak)


def measure_teacher(recipe: Recipe, run_dir: Path) -> None:
    """How well the teacher of the plan plans by itself, shown what it is shown, in `teacher.json`.

    A teacher that cannot use what it is told has nothing to teach. Of stages whose teachers move, nothing.
    """
    stage = recipe.stages[-1]
    path = run_dir / TEACHER_FILE
    if path.exists() or not isinstance(stage, DistillConfig):
        return
    routes = [route for route in stage.routers[0].routes if _teaches_plans(route)]
    if len(routes) != 1 or routes[0].view is None or not isinstance(routes[0].weights, FrozenCopy):
        return
    examples = examples_of(replace(recipe, num_val=NUM_PROBED), "val")
    teacher = load(recipe, routes[0].weights.source or recipe.backbone)
    with recipe.sessions.opened() as open_session:
        episodes = episodes_of(
            TransformersEngine(teacher, batch_size=EVAL_BATCH),
            examples,
            decoding=Decoding(max_new_tokens=recipe.max_new_tokens),
            prompts=recipe.prompts,
            view=routes[0].view,
            batch_size=len(examples),
            open_session=open_session,
        )
    success = success_by_task((episode.example.task, has_won(episode)) for episode in episodes)
    write_json(
        path, {"view": routes[0].view, "success": success, "macro": sum(success.values()) / len(success)}
    )


def _teaches_plans(route: Route) -> bool:
    return route.rows != "invalid" and (route.spans == "all" or "answer" in route.spans)

"""Runs a recipe: measure the base, train each stage, measure again, write the summary and the page.

Killed at any moment and run again, it goes on: finished stages and finished rows are kept.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import torch

from pilotage.backbones.load import Backbone, QLoraSettings, load_backbone, load_without_weights
from pilotage.errors import PilotageError
from pilotage.evaluate import Progress, Summary, evaluate
from pilotage.files import locked, read_json, write_json
from pilotage.records import Example
from pilotage.report import write_report
from pilotage.rollouts.engine import Engine
from pilotage.rollouts.engines import EngineSettings
from pilotage.rollouts.play import Open, open_in_process
from pilotage.runs.measurement import examples_of, measured_conditions
from pilotage.runs.recipe import BASE_STAGE, Recipe, Stage
from pilotage.runs.record import begin_run, check_whole_run
from pilotage.runs.validation import Validator
from pilotage.train.distill_config import DistillConfig, FrozenCopy
from pilotage.train.optimisers import prepared
from pilotage.train.sft_config import OnBegin, OnStep, SftConfig, Validate
from pilotage.train.step.teacher_models import check_sees, check_tokenizer

logger = logging.getLogger(__name__)

EVAL_BATCH = 128
LOCK = ".recipe.lock"
"""In a run's folder: held by whoever runs the whole recipe there, training and measurements."""


class Watcher(Protocol):
    """Is told what happens, for people who watch."""

    def stage_begins(self, stage: str, num_steps: int) -> None: ...

    def trained(self, stage: str, done: int, total: int, figures: dict[str, float]) -> None: ...

    def measured(self, stage: str, progress: Progress) -> None: ...

    def stage_ends(self, stage: str, entry: dict[str, Any]) -> None: ...


def run_recipe(recipe: Recipe, run_dir: Path, watcher: Watcher | None = None) -> dict[str, Any]:
    """Everything the recipe says, in `run_dir`; returns what `summary.json` holds.

    In one process, as are its measurements; raises PilotageError in one of several.
    """
    if (num_ranks := int(os.environ.get("WORLD_SIZE", "1"))) > 1:
        raise PilotageError(
            f"{run_dir}: a whole recipe, which is measured after each stage, runs in one process, and this is one of "
            f"{num_ranks} (WORLD_SIZE): train its stages one by one (pilotage train RUN without --all)"
        )
    for stage in recipe.stages:
        _check_parts(stage)
    torch.set_num_threads(recipe.num_threads)
    check_whole_run(recipe, run_dir)
    train, test = examples_of(recipe, "train"), examples_of(recipe, "test")
    # A base or a teacher that is none is refused before the folder is the run's, and not hours later.
    base = load_without_weights(recipe.backbone)
    for stage in recipe.stages:
        if isinstance(stage, DistillConfig) and not (run_dir / stage.stage / "model").is_dir():
            for weights in stage.all_weights:
                if isinstance(weights, FrozenCopy) and weights.source not in (None, recipe.backbone):
                    teacher = load_without_weights(weights.source)
                    check_tokenizer(teacher, base)
                    check_sees(teacher, stage, weights)
    busy = f"another command is running the recipe in {run_dir}: wait for it to end, or name another folder"
    with locked(run_dir / LOCK, busy=busy):
        return _run(recipe, run_dir, train, test, watcher)


def _run(
    recipe: Recipe,
    run_dir: Path,
    train: Sequence[Example],
    test: Sequence[Example],
    watcher: Watcher | None,
) -> dict[str, Any]:
    summary = read_summary(run_dir) or {"recipe": recipe.name, "seed": recipe.seed, "stages": {}}
    begin_run(recipe, run_dir)
    weights = recipe.backbone
    for stage in (*([None] if recipe.measure_base else []), *recipe.stages):
        name = BASE_STAGE if stage is None else stage.stage
        entry = summary["stages"].setdefault(name, {"train_s": 0.0, "eval_s": 0.0})
        began_s = time.monotonic()
        if watcher is not None:
            watcher.stage_begins(name, 0 if stage is None else stage.steps)
        if stage is not None:
            with recipe.sessions.opened() as open_session:
                weights = str(_train(recipe, stage, weights, train, run_dir, watcher, open_session))
            entry["train_s"] += time.monotonic() - began_s
            write_json(run_dir / "summary.json", summary)
        if "tasks" not in entry:
            began_s = time.monotonic()
            progress = None if watcher is None else partial(watcher.measured, name)
            summary_of = measure(
                *(recipe, engine_of(recipe, weights), name, test, run_dir),
                conditions=measured_conditions(recipe),
                progress=progress,
            )
            entry["tasks"] = summary_of.headline()
            entry["eval_s"] += time.monotonic() - began_s
            entry["seconds"] = entry["train_s"] + entry["eval_s"]
            write_json(run_dir / "summary.json", summary)
        if watcher is not None:
            watcher.stage_ends(name, entry)
    write_report(run_dir)
    return summary


def load(recipe: Recipe, weights: str, *, masters: bool = False, device: str | None = None) -> Backbone:
    """A model as the recipe has it answer, on the accelerator if there is one; with `masters`, in float32."""
    return load_backbone(
        weights,
        dtype=recipe.dtype,
        attn_implementation=recipe.attention,
        device=device or _device(),
        masters=masters,
    )


def _device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


def load_student(recipe: Recipe, stage: Stage, weights: str) -> Backbone:
    """A model as a stage begins to train it. Masters are read as they are stored: stages after stages lose nothing."""
    _check_parts(stage)
    if isinstance(stage.lora, QLoraSettings):
        # In 16 bits it may not fit where it is to be in 4.
        whole = load(recipe, weights, device="cpu")
        return prepared(whole, stage.optimiser, stage.lora, seed=stage.seed, device=_device())
    return load(recipe, weights, masters=stage.optimiser.has_masters and stage.lora is None)


def _check_parts(stage: Stage) -> None:
    """Raises PilotageError where something that the stage takes is not installed."""
    stage.optimiser.check()
    if stage.lora is not None:
        stage.lora.check()


def engine_of(recipe: Recipe, weights: str, *, batch_size: int | None = None) -> Engine:
    """What a model of this recipe answers in."""
    settings = recipe.engine
    backbone = load_without_weights(weights) if settings.has_own_weights else load(recipe, weights)
    return settings.open(backbone, batch_size=batch_size)


def _train(
    recipe: Recipe,
    stage: Any,
    weights: str,
    train: Sequence[Example],
    run_dir: Path,
    watcher: Watcher | None,
    open_session: Open,
) -> Path:
    finished = run_dir / stage.stage / "model"
    if finished.is_dir():
        return finished
    student = load_student(recipe, stage, weights)
    validate = None
    if recipe.validate_every:
        validate = validator(recipe, stage, examples_of(recipe, "val"), run_dir, open_session=open_session)

    def report(done: int, total: int, figures: dict[str, float]) -> None:
        if watcher is not None:
            watcher.trained(stage.stage, done, total, figures)

    return train_stage(
        stage,
        student,
        train,
        run_dir,
        answers=recipe.engine,
        open_session=open_session,
        on_step=report,
        validate=validate,
    )


def validator(
    recipe: Recipe, stage: Stage, examples: Sequence[Example], run_dir: Path, *, open_session: Open
) -> Validator:
    """What validates a stage as the recipe says (`validate_every`), on these examples."""
    return Validator(
        stage.stage,
        examples,
        run_dir,
        every=recipe.validate_every,
        max_new_tokens=recipe.max_new_tokens,
        prompts=recipe.prompts,
        open_session=open_session,
    )


def train_stage(
    stage: Stage,
    student: Backbone,
    examples: Sequence[Example],
    run_dir: Path,
    *,
    answers: EngineSettings,
    open_session: Open = open_in_process,
    on_step: OnStep,
    on_begin: OnBegin | None = None,
    validate: Validate | None = None,
) -> Path:
    """Trains one stage by the trainer of its kind; the folder of its model.

    `answers` is what the student answers in, `open_session` opens the sessions of its episodes; `on_step` is told
    (steps done, steps in all, figures); `on_begin` is called once nothing can be refused, `validate` between steps.
    """
    if isinstance(stage, SftConfig):
        from pilotage.train.sft import run_sft

        return run_sft(
            stage, student, examples, run_dir, on_step=on_step, on_begin=on_begin, validate=validate
        )
    from pilotage.train.distill import distill

    return distill(
        stage,
        student=student,
        examples=examples,
        run_dir=run_dir,
        answers=answers,
        open_session=open_session,
        on_step=lambda row: on_step(int(row["step"]), stage.steps, row),
        on_begin=on_begin,
        validate=validate,
    )


def measure(
    recipe: Recipe,
    engine: Engine,
    stage: str,
    examples: Sequence[Example],
    out: Path,
    *,
    conditions: Sequence[str],
    seed: int = 0,
    batch_size: int = EVAL_BATCH,
    agent: str | None = None,
    progress: Callable[[Progress], None] | None = None,
) -> Summary:
    """What the model of a stage, in `engine`, does on these examples, asked as the recipe says."""
    return evaluate(
        engine,
        examples,
        stage=stage,
        prompts=recipe.prompts,
        max_new_tokens=recipe.max_new_tokens,
        out=out,
        model=stage,
        conditions=conditions,
        seed=seed,
        batch_size=batch_size,
        agent=agent,
        sessions=recipe.sessions,
        progress=progress,
    )


def read_summary(run_dir: Path) -> dict[str, Any] | None:
    """What `summary.json` of a whole run holds; None where it is not there, PilotageError where it is damaged."""
    path = run_dir / "summary.json"
    if not path.exists():
        return None
    remedy = "remove it; what was measured is kept in eval/, and only the seconds are lost"
    summary = read_json(path, remedy=remedy)
    stages = summary.get("stages")
    if not isinstance(stages, dict) or not all(map(_is_entry, stages.values())):
        raise PilotageError(f"{path} is damaged (it has no stages with seconds and rates): {remedy}")
    return summary


def _is_entry(entry: Any) -> bool:
    """Whether `summary.json` can hold this of a stage: its seconds, and once it was measured its rates."""
    try:
        numbers = [entry[name] for name in ("train_s", "eval_s", "seconds") if name in entry]
        numbers += [
            rate["success"] for conditions in entry.get("tasks", {}).values() for rate in conditions.values()
        ]
    except (AttributeError, KeyError, TypeError):
        return False
    return all(isinstance(number, int | float) for number in numbers)

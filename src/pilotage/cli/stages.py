"""Stages of a run that is being trained: which is the next one, from which weights, and what a begun run holds fast."""

from __future__ import annotations

import shlex
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pilotage.errors import PilotageError, meant

if TYPE_CHECKING:
    from pilotage.runs import Recipe
    from pilotage.runs.recipe import Stage
    from pilotage.runs.record import RunRecord


def stage_named(recipe: Recipe, name: str, called: str) -> Stage:
    """The recipe's stage of that name; `called` is what the command line calls the recipe."""
    names = [stage.stage for stage in recipe.stages]
    if name not in names:
        raise PilotageError(
            f"the recipe {called} has no stage {name!r}; it has {', '.join(names)}; another recipe is another "
            f"run, in a folder of its own{meant(name, names)}"
        )
    return recipe.stages[names.index(name)]


def stages_left(recipe: Recipe, record: RunRecord | None, run: Path) -> list[Stage]:
    """The stages still to train, in order: one that was begun and has not ended, else those after the last finished."""
    from pilotage.runs.record import is_finished

    done = [is_finished(run, stage.stage) for stage in recipe.stages]
    for at, stage in enumerate(recipe.stages):
        if (
            record is not None
            and stage.stage in record.began_with
            and not done[at]
            and (run / stage.stage).is_dir()
        ):
            return list(recipe.stages[at:])
    last = max((at for at, is_done in enumerate(done) if is_done), default=-1)
    return list(recipe.stages[last + 1 :])


def first_weights(
    recipe: Recipe,
    record: RunRecord | None,
    run: Path,
    stage: str,
    named: str | None,
    *,
    is_trial: bool = False,
) -> str:
    """The weights that a stage begins with: its own, where it was begun; else those named, the last stage's, the base.

    Raises PilotageError for a name that contradicts the run's record, and where the stage before has not ended; of a
    trial, which needs no weights but their shape, the base stands in for it.
    """
    from pilotage.runs.record import RunRecord, is_finished, lasting_name, model_of

    record = record or RunRecord(recipe=recipe)
    if stage in record.began_with and (run / stage).is_dir():
        began = record.first_weights(stage, run)
        if named is not None and lasting_name(named) != lasting_name(began):
            raise PilotageError(
                f"--from {named}: {run / stage} was begun with {began}; leave the option out, or name a new folder"
            )
        return began
    if named is not None:
        return named
    before = record.stage_before(stage)
    if before is None:
        return recipe.backbone
    if is_finished(run, before.stage):
        return str(model_of(run, before.stage))
    if is_trial:
        return recipe.backbone
    raise PilotageError(
        f"{stage} begins with {model_of(run, before.stage)}, which is not there: let {command_for(run, before.stage)} "
        f"end first, or name the weights, as in --from {recipe.backbone}"
    )


def command_for(run: Path, stage: str | None = None) -> str:
    """The command that trains the next stage of a run that has begun, or the one named."""
    return f"pilotage train {shlex.quote(str(run))}" + ("" if stage is None else f" --stage {stage}")


def check_begun(kept: Recipe, now: Recipe, run: Path, *, training: str | None) -> None:
    """Raises PilotageError where a run's recipe is changed in what its finished stages, or all of them, rest on.

    Of the stage that is trained (`training`) its own folder knows what it was begun with, and its trainer asks it.
    """
    from pilotage.runs.recipe import PLACES
    from pilotage.runs.record import is_finished
    from pilotage.train.settings import as_settings, differences

    def refuse(place: str, before: Any, after: Any) -> None:
        if difference := next(differences(as_settings(before), as_settings(after), place), None):
            raise PilotageError(
                f"{run} was begun with {difference}: leave the change out, or name a new folder"
            )

    for field in fields(kept):
        if field.name not in ("stages", *PLACES):
            refuse(field.name, getattr(kept, field.name), getattr(now, field.name))
    for before, after in zip(kept.stages, now.stages, strict=True):
        if before.stage != training and is_finished(run, before.stage):
            refuse(before.stage, before, after)


def with_steps(stage: Stage, steps: int | None) -> Stage:
    """The stage with another number of steps; its warm-up is as large a share of them."""
    return stage if steps is None else replace(stage, steps=steps)


def with_stage(recipe: Recipe, config: Stage) -> Recipe:
    """The recipe with one of its stages replaced, by its name."""
    stages = tuple(config if stage.stage == config.stage else stage for stage in recipe.stages)
    return replace(recipe, stages=stages)

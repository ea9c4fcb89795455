"""What `sft`, `distill` and `grpo` have in common: which stage of a recipe, from which weights, and the dry run."""

from __future__ import annotations

import shlex
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import tyro

from pilotage.cli.choose import TrainingOptions, command_name
from pilotage.errors import PilotageError

if TYPE_CHECKING:
    from pilotage.backbones.load import Backbone
    from pilotage.runs import Recipe
    from pilotage.runs.recipe import Stage

StageT = TypeVar("StageT")

COMMANDS = {"SftConfig": "sft", "DistillConfig": "distill", "GrpoConfig": "grpo"}
"""Which command trains a stage of these settings."""

DryRun = Annotated[
    bool,
    tyro.conf.arg(
        help="Print the settings, an estimate of memory and the prompts of one example, and train nothing. RUN may "
        "then be the name of a recipe."
    ),
]


@dataclass(frozen=True, kw_only=True)
class StageOptions(TrainingOptions, ABC):
    """Options of a command that trains one stage."""

    run_folder: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """Folder of the run."""

    @abstractmethod
    def stage_config(self, recipe: Recipe) -> Any:
        """The recipe's stage with the options that were given."""

    @property
    def named_student(self) -> str | None:
        """The weights to begin with, where they can be and were named."""
        return None

    def begins_with(self, recipe: Recipe, config: Stage) -> str:
        """The weights to train: those that the stage began with, else those named, the stage before's, or the base.

        Raises PilotageError for a name that contradicts the run's record, and where the stage before has not ended.
        """
        from pilotage.runs.record import RunRecord, is_finished, lasting_name, model_of, read_record

        run, named = self.run_folder, self.named_student
        record = read_record(run) or RunRecord(recipe=recipe)
        if config.stage in record.began_with and (run / config.stage).is_dir():
            began = record.first_weights(config.stage, run)
            self._check(run / config.stage, student=(named and lasting_name(named), lasting_name(began)))
            return began
        if named is not None:
            return named
        before = record.stage_before(config.stage)
        if before is None or not (run / before.stage).is_dir():
            return recipe.backbone
        if not is_finished(run, before.stage):
            raise PilotageError(
                f"{model_of(run, before.stage)} is not there: let {command_for(before, recipe, run)} end first"
            )
        return str(model_of(run, before.stage))

    def on_begin(self, recipe: Recipe, config: Stage, student: str) -> Callable[[], None]:
        """What notes in the run's record that the stage begins; a refused command has not called it."""
        from pilotage.runs.record import begin_stage

        return lambda: begin_stage(recipe, config, student, self.run_folder)

    def next_command(self, recipe: Recipe, config: Stage) -> str:
        """What to type when the stage is finished: the recipe's next stage, on the same data, or its measurement."""
        names = [stage.stage for stage in recipe.stages]
        later = recipe.stages[names.index(config.stage) + 1 :]
        if not later:
            return f"pilotage eval {shlex.quote(str(self.run_folder))}"
        data = "" if self.data is None else f" --data {shlex.quote(str(self.data))}"
        return command_for(later[0], recipe, self.run_folder) + data

    def told_config(self, recipe: Recipe) -> Any:
        """The stage that a dry run tells."""
        return self.stage_config(recipe)

    def tell(self) -> int:
        """Prints what the command would train."""
        from pilotage.backbones.load import load_shape
        from pilotage.recipes import RECIPES
        from pilotage.train.dry_run import dry_run

        options, name = self, str(self.run_folder)
        if name in RECIPES and self.recipe is None and not self.run_folder.exists():
            options = replace(self, recipe=name)
        recipe = options.recipe_in(self.run_folder)
        config = options.told_config(recipe)
        examples = options.load_prompted(replace(recipe, num_train=2), "train")

        def shape(path: str) -> Backbone:
            return load_shape(path, dtype=recipe.dtype)

        student = shape(options.begins_with(recipe, config))
        print(dry_run(config, student=student, load_shape=shape, examples=examples))
        return 0


@dataclass(frozen=True, kw_only=True)
class LaterStageOptions(StageOptions):
    """Options of a command that trains a stage after the first."""

    student: Annotated[
        str | None,
        tyro.conf.arg(metavar="MODEL", help_behavior_hint="(default: RUN/stage1/model, else the base)"),
    ] = None
    """Weights that the student begins with."""

    @property
    def named_student(self) -> str | None:
        return self.student


def command_for(stage: Stage, recipe: Recipe, run: Path) -> str:
    """The command that trains a stage of a run that has begun."""
    kind = type(stage)
    command = f"pilotage {COMMANDS[kind.__name__]} {shlex.quote(str(run))}"
    is_usual = stage == next(each for each in recipe.stages if isinstance(each, kind))
    return command if is_usual else f"{command} --stage {stage.stage}"


def stage_of(recipe: Recipe, kind: type[StageT], name: str | None = None) -> StageT:
    """The recipe's first stage of a kind, or the one of that name."""
    for stage in recipe.stages:
        if isinstance(stage, kind) and name in (None, stage.stage):
            return stage
    named = "" if name is None else f" {name!r}"
    there = ", ".join(f"{stage.stage} (pilotage {COMMANDS[type(stage).__name__]})" for stage in recipe.stages)
    raise PilotageError(
        f"the recipe {command_name(recipe)} has no stage{named} for pilotage {COMMANDS[kind.__name__]}; "
        f"it has {there}; another recipe is another run, in a folder of its own"
    )

"""What `sft`, `distill` and `grpo` have in common: which stage of a recipe, from which weights, and the dry run."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import tyro

from pilotage.cli.choose import TrainingOptions, latest_model
from pilotage.errors import PilotageError

if TYPE_CHECKING:
    from pilotage.backbones.load import Backbone
    from pilotage.recipes import Recipe

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

    @abstractmethod
    def begins_with(self, recipe: Recipe) -> str:
        """The weights to train."""

    def told_config(self, recipe: Recipe) -> Any:
        """The stage that a dry run tells."""
        return self.stage_config(recipe)

    def tell(self) -> int:
        """Prints what the command would train."""
        from pilotage.backbones.load import load_shape
        from pilotage.recipes import RECIPES
        from pilotage.train.dry_run import dry_run

        options, name = self, str(self.run_folder)
        if name in RECIPES and self.recipe == type(self).recipe:
            options = replace(self, recipe=name)
        recipe = options.make_recipe(options.model)
        config = options.told_config(recipe)
        examples = options.load_prompted(replace(recipe, num_train=2), "train")

        def shape(path: str) -> Backbone:
            return load_shape(path, dtype=recipe.dtype)

        student = shape(options.begins_with(recipe))
        print(dry_run(config, student=student, load_shape=shape, examples=examples))
        return 0


def student_of(recipe: Recipe, run: Path, named: str | None) -> str:
    """The weights that a second stage begins with: those named, the first stage's, or the base."""
    if named is not None:
        return named
    stage1 = run / "stage1" / "model"
    if stage1.is_dir():
        return str(stage1)
    if latest_model(run) is None and (run / "stage1").is_dir():
        raise PilotageError(f"{stage1} is not there: let pilotage sft end first, or name --student")
    return recipe.backbone


def stage_of(recipe: Recipe, kind: type[StageT], name: str | None = None) -> StageT:
    """The recipe's first stage of a kind, or the one of that name."""
    for stage in recipe.stages:
        if isinstance(stage, kind) and name in (None, stage.stage):
            return stage
    named = "" if name is None else f" {name!r}"
    there = ", ".join(f"{stage.stage} (pilotage {COMMANDS[type(stage).__name__]})" for stage in recipe.stages)
    raise PilotageError(
        f"the recipe {recipe.name} has no stage{named} for pilotage {COMMANDS[kind.__name__]}; it has {there}"
    )

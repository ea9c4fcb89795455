"""`pilotage grpo`: reinforcement learning with the judge's verdict as the reward."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated

import tyro

from pilotage.cli.choose import note_settings, use_threads
from pilotage.cli.options import RecipeFloat, RecipeInt, given
from pilotage.cli.progress import Bar
from pilotage.cli.stages import DryRun, StageOptions, stage_of, student_of

if TYPE_CHECKING:
    from pilotage.recipes import Recipe
    from pilotage.train.grpo_config import GrpoConfig


@dataclass(frozen=True, kw_only=True)
class Grpo(StageOptions):
    """GRPO: several plans for each picture, each rewarded by the judge and held against its group.

    The peer of stage 2 that has no teacher. The model goes to RUN/grpo/model, the figures of every
    step to RUN/metrics.jsonl. Killed and run again, it goes on where it was.
    """

    recipe: str = "nano_grpo"
    """The recipe whose settings hold where no option replaces them; `pilotage recipes` lists them."""
    student: Annotated[
        str | None,
        tyro.conf.arg(metavar="MODEL", help_behavior_hint="(default: RUN/stage1/model, else the base)"),
    ] = None
    """Weights that the student begins with."""
    steps: RecipeInt = None
    """Optimiser steps."""
    prompts_per_step: RecipeInt = None
    """Pictures in a step."""
    samples_per_prompt: RecipeInt = None
    """Plans for each picture: a group."""
    micro_batch_size: RecipeInt = None
    """Plans in one forward; lower it when memory runs out."""
    max_new_tokens: RecipeInt = None
    """Longest plan, in tokens."""
    kl_coef: RecipeFloat = None
    """Weight of the divergence from the first weights."""
    lr: RecipeFloat = None
    """Highest learning rate."""
    dry_run: DryRun = False

    def run(self) -> int:
        if self.dry_run:
            return self.tell()
        from pilotage.recipes.runner import load
        from pilotage.train.grpo import run_grpo

        recipe = self.make_recipe(self.model)
        config = self.stage_config(recipe)
        use_threads(recipe)
        student = self.begins_with(recipe)
        examples = self.load_examples(recipe, "train")
        note_settings(self.run_folder, config.stage, recipe, {"student": student, "config": config})
        with Bar("grpo", unit="steps") as bar:
            directory = run_grpo(config, load(recipe, student), examples, self.run_folder, on_step=bar)
        print(f"{directory} holds the model; next: pilotage eval {self.run_folder}")
        return 0

    def begins_with(self, recipe: Recipe) -> str:
        return student_of(recipe, self.run_folder, self.student)

    def stage_config(self, recipe: Recipe) -> GrpoConfig:
        """The recipe's stage with the options that were given."""
        from pilotage.train.grpo_config import GrpoConfig

        config = stage_of(recipe, GrpoConfig)
        return replace(
            config,
            **given(
                steps=self.steps,
                warmup_steps=None if self.steps is None else min(config.warmup_steps, self.steps),
                prompts_per_step=self.prompts_per_step,
                samples_per_prompt=self.samples_per_prompt,
                micro_batch_size=self.micro_batch_size,
                max_new_tokens=self.max_new_tokens,
                kl_coef=self.kl_coef,
                lr=self.lr,
            ),
        )

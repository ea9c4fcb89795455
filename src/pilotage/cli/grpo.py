"""`pilotage grpo`: reinforcement learning with the judge's verdict as the reward."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

from pilotage.cli.choose import use_threads
from pilotage.cli.options import RecipeCount, RecipeFloat, given
from pilotage.cli.progress import Bar
from pilotage.cli.stages import DryRun, LaterStageOptions, stage_of

if TYPE_CHECKING:
    from pilotage.runs import Recipe
    from pilotage.train.grpo_config import GrpoConfig


@dataclass(frozen=True, kw_only=True)
class Grpo(LaterStageOptions):
    """GRPO: several plans for each picture, each rewarded by the judge and held against its group.

    The peer of stage 2 that has no teacher. The model goes to RUN/grpo/model, the figures of every
    step to RUN/metrics.jsonl. Killed and run again, it goes on where it was.
    """

    first_recipe: ClassVar[str] = "nano_grpo"
    steps: RecipeCount = None
    """Optimiser steps."""
    prompts_per_step: RecipeCount = None
    """Pictures in a step."""
    samples_per_prompt: RecipeCount = None
    """Plans for each picture: a group."""
    micro_batch_size: RecipeCount = None
    """Plans in one forward; lower it when memory runs out."""
    max_new_tokens: RecipeCount = None
    """Longest plan, in tokens."""
    kl_coef: RecipeFloat = None
    """Weight of the divergence from the first weights."""
    lr: RecipeFloat = None
    """Highest learning rate."""
    dry_run: DryRun = False

    def run(self) -> int:
        if self.dry_run:
            return self.tell()
        from pilotage.runs.runner import load
        from pilotage.train.grpo import run_grpo

        recipe = self.recipe_in(self.run_folder)
        config = self.stage_config(recipe)
        use_threads(recipe)
        student = self.begins_with(recipe, config)
        examples = self.load_examples(recipe, "train")
        with Bar("grpo", unit="steps") as bar:
            directory = run_grpo(
                config,
                load(recipe, student),
                examples,
                self.run_folder,
                on_step=bar,
                on_begin=self.on_begin(recipe, config, student),
            )
        print(f"{directory} holds the model; next: {self.next_command(recipe, config)}")
        return 0

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

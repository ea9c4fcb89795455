"""`pilotage sft` and `pilotage distill`: one stage of training each."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from pilotage.cli.choose import use_threads
from pilotage.cli.options import Count, RecipeCount, RecipeFloat, RecipeInt, given
from pilotage.cli.progress import Bar
from pilotage.cli.stages import DryRun, LaterStageOptions, StageOptions, stage_of
from pilotage.errors import PilotageError, require

if TYPE_CHECKING:
    from pilotage.distill.divergences import Cap, Divergence
    from pilotage.distill.estimators import Estimator
    from pilotage.runs import Recipe
    from pilotage.runs.recipe import Stage
    from pilotage.train.distill_config import DistillConfig
    from pilotage.train.sft import SftConfig

_RECIPES = "(default: the recipe's)"


@dataclass(frozen=True, kw_only=True)
class Sft(StageOptions):
    """Stage 1: teach a model to read pictures, by supervised fine-tuning on perception questions.

    Some rows of every step are text only, so that planning from text is not forgotten. The model
    goes to RUN/stage1/model, the figures of every step to RUN/metrics.jsonl. Killed and run again,
    it goes on where it was.
    """

    image_view: Annotated[
        Literal["perception", "student"] | None,
        tyro.conf.arg(metavar="{perception,student}", help_behavior_hint=_RECIPES),
    ] = None
    """What pictures are answered with: what stands in them (stage 1), or the whole plan (the visual baseline)."""
    steps: RecipeCount = None
    """Optimiser steps."""
    batch_size: RecipeCount = None
    """Rows in a step."""
    micro_batch_size: RecipeCount = None
    """Rows in one forward; lower it when memory runs out."""
    peak_lr: RecipeFloat = None
    """Highest learning rate."""
    retention_share: RecipeFloat = None
    """Share of the rows that are text only."""
    lora_rank: RecipeInt = None
    """Rank of the LoRA adapter, alpha being twice the rank; 0 trains all parameters."""
    stage: Annotated[str | None, tyro.conf.arg(metavar="NAME", help_behavior_hint="(default: the first)")] = (
        None
    )
    """Which of the recipe's stages. A later one, such as sft_answers of visual_sft, begins with RUN/stage1/model."""
    dry_run: DryRun = False

    def run(self) -> int:
        if self.dry_run:
            return self.tell()
        require("trl", "datasets", "accelerate")  # imported late
        from pilotage.runs.runner import load
        from pilotage.train.sft import run_sft

        recipe = self.recipe_in(self.run_folder)
        config = self.stage_config(recipe)
        use_threads(recipe)
        student = self.begins_with(recipe, config)
        examples = self.load_examples(recipe, "train")
        with Bar("sft", unit="steps") as bar:
            directory = run_sft(
                config,
                load(recipe, student),
                examples,
                self.run_folder,
                on_step=bar,
                on_begin=self.on_begin(recipe, config, student),
            )
        print(f"{directory} holds the model; next: {self.next_command(recipe, config)}")
        return 0

    def stage_config(self, recipe: Recipe) -> SftConfig:
        """The recipe's stage with the options that were given."""
        from pilotage.backbones.load import LoraSettings
        from pilotage.train.sft import SftConfig

        config = replace(
            stage_of(recipe, SftConfig, self.stage),
            **given(
                image_view=self.image_view,
                steps=self.steps,
                batch_size=self.batch_size,
                micro_batch_size=self.micro_batch_size,
                peak_lr=self.peak_lr,
                retention_share=self.retention_share,
            ),
        )
        if self.lora_rank is not None:
            rank = self.lora_rank
            config = replace(config, lora=LoraSettings(rank=rank, alpha=2.0 * rank) if rank else None)
        return config


@dataclass(frozen=True, kw_only=True)
class Distill(LaterStageOptions):
    """Stage 2: the model's own visual plans, supervised token by token by a reader of the symbolic state.

    Each step samples plans from pictures, scores them under the teacher's view with the frozen
    base's weights, and lowers the divergence. The model goes to RUN/stage2/model, the figures of
    every step to RUN/metrics.jsonl, some plans to RUN/rollouts.jsonl. Killed and run again, it goes
    on as if nothing had happened.
    """

    teacher: Annotated[
        str | None, tyro.conf.arg(metavar="MODEL", help_behavior_hint="(default: the base, frozen)")
    ] = None
    """Weights of the teacher; for gkd and dense_rl, the larger model."""
    teacher_view: Annotated[
        Literal["teacher", "teacher_no_plan", "student"] | None,
        tyro.conf.arg(metavar="{teacher,teacher_no_plan,student}", help_behavior_hint=_RECIPES),
    ] = None
    """What the teacher sees: state and reference plan, the state alone, or the picture (the control)."""
    estimator: Annotated[
        Literal["full", "topk", "sampled"] | None,
        tyro.conf.arg(metavar="{full,topk,sampled}", help_behavior_hint=_RECIPES),
    ] = None
    """The divergence over the full vocabulary, over the teacher's top k with the rest in one bucket, or MGSD's
    released one-sample estimate of the reverse KL."""
    divergence: Annotated[
        Literal["forward", "reverse", "jsd"] | None,
        tyro.conf.arg(metavar="{forward,reverse,jsd}", help_behavior_hint="(default: reverse)"),
    ] = None
    """With --estimator full or topk: KL(teacher || student), KL(student || teacher), or JSD."""
    beta: float = 0.5
    """With --divergence jsd: the teacher's share of the mixture."""
    k: Count = 64
    """With --estimator topk: entries kept."""
    cap: Literal["none", "rescale", "drop", "element"] = "none"
    """With --estimator: what happens to tokens whose divergence is above --tau: nothing; scaled down to it; left
    out, as in ViGOS's release; or every vocabulary entry's summand cut there, as in OPSD. The rate is logged."""
    tau: float = 0.05
    """With --cap: the threshold, in nats."""
    reduction: Annotated[
        Literal["token", "sequence", "task"] | None,
        tyro.conf.arg(metavar="{token,sequence,task}", help_behavior_hint=_RECIPES),
    ] = None
    """What counts alike in a step: each token, each plan, or each task."""
    steps: RecipeCount = None
    """Optimiser steps."""
    prompts_per_step: RecipeCount = None
    """Examples in a step."""
    samples_per_prompt: RecipeCount = None
    """Plans sampled for each example."""
    temperature: RecipeFloat = None
    """Of sampling."""
    perception_share: RecipeFloat = None
    """Share of the prompts that ask to describe the picture, scored by a teacher that describes it from words."""
    micro_batch_size: RecipeCount = None
    """Rows in one forward and backward; lower it when memory runs out."""
    max_new_tokens: RecipeCount = None
    """Longest plan, in tokens."""
    lr: RecipeFloat = None
    """Highest learning rate."""
    dry_run: DryRun = False

    def run(self) -> int:
        if self.dry_run:
            return self.tell()
        from pilotage.runs.runner import load
        from pilotage.train.distill import distill

        recipe = self.recipe_in(self.run_folder)
        config = self.stage_config(recipe)
        use_threads(recipe)
        student = self.begins_with(recipe, config)
        examples = self.load_prompted(recipe, "train")
        with Bar("distill", unit="steps") as bar:
            directory = distill(
                config,
                student=load(recipe, student),
                examples=examples,
                run_dir=self.run_folder,
                on_step=lambda row: bar(row["step"], config.steps, row),
                on_begin=self.on_begin(recipe, config, student),
            )
        print(f"{directory} holds the model; next: {self.next_command(recipe, config)}")
        return 0

    def told_config(self, recipe: Recipe) -> Stage:
        """The stage that the command trains; of a recipe without distillation, the last one."""
        from pilotage.train.distill_config import DistillConfig
        from pilotage.train.sft import SftConfig

        if any(isinstance(stage, DistillConfig) for stage in recipe.stages):
            return self.stage_config(recipe)
        last = recipe.stages[-1]
        own = {field.name for field in fields(Distill)} - {field.name for field in fields(StageOptions)}
        changed = {
            name: getattr(self, name)
            for name in own - {"student", "dry_run"}
            if getattr(self, name) != getattr(Distill, name)
        }
        if foreign := sorted(changed.keys() - {field.name for field in fields(last)}):
            raise PilotageError(f"the last stage of the recipe {recipe.name} has no {', '.join(foreign)}")
        if "steps" in changed and not isinstance(last, SftConfig):
            changed["warmup_steps"] = min(last.warmup_steps, changed["steps"])
        return replace(last, **changed)

    def stage_config(self, recipe: Recipe) -> DistillConfig:
        """The recipe's stage with the options that were given."""
        from pilotage.recipes.methods import on_questions, taught_by
        from pilotage.runs.record import lasting_name
        from pilotage.train.distill_config import DistillConfig

        config = stage_of(recipe, DistillConfig)
        if self.holds_questions():
            config = on_questions(recipe.name, config)
        if self.teacher is not None:
            config = taught_by(config, lasting_name(self.teacher))
        return replace(
            config,
            **given(
                estimator=self._estimator(),
                teacher_view=self.teacher_view,
                reduction=self.reduction,
                steps=self.steps,
                warmup_steps=None if self.steps is None else min(config.warmup_steps, self.steps),
                prompts_per_step=self.prompts_per_step,
                samples_per_prompt=self.samples_per_prompt,
                temperature=self.temperature,
                perception_share=self.perception_share,
                micro_batch_size=self.micro_batch_size,
                max_new_tokens=self.max_new_tokens,
                lr=self.lr,
            ),
        )

    def _estimator(self) -> Estimator | None:
        from pilotage.distill.estimators import FullVocabulary, Sampled, TopK

        if self.divergence is not None and self.estimator not in ("full", "topk"):
            raise PilotageError(f"--divergence {self.divergence} needs --estimator full or topk")
        if self.cap != "none" and self.estimator is None:
            raise PilotageError(f"--cap {self.cap} needs --estimator full, topk or sampled")
        if self.estimator is None:
            return None
        if self.estimator == "sampled":
            temperature = 1.0 if self.temperature is None else self.temperature
            return Sampled(as_="advantage", cap=self._cap(), temperature=temperature)
        if self.estimator == "topk":
            if self.k < 1:
                raise PilotageError(f"--k {self.k} must be at least 1")
            return TopK(k=self.k, divergence=self._divergence(), cap=self._cap())
        return FullVocabulary(divergence=self._divergence(), cap=self._cap())

    def _cap(self) -> Cap:
        from pilotage.distill.divergences import DropCap, ElementCap, NoCap, RescaleCap

        if self.cap == "none":
            return NoCap()
        if not self.tau > 0:
            raise PilotageError(f"--tau {self.tau} must be above 0")
        kinds = {"rescale": RescaleCap, "drop": DropCap, "element": ElementCap}
        return kinds[self.cap](tau=self.tau)

    def _divergence(self) -> Divergence:
        from pilotage.distill.divergences import JSD, ForwardKL, ReverseKL

        if not 0 <= self.beta <= 1:
            raise PilotageError(f"--beta {self.beta} must lie between 0 and 1")
        if self.divergence == "jsd":
            return JSD(beta=self.beta)
        return ForwardKL() if self.divergence == "forward" else ReverseKL()

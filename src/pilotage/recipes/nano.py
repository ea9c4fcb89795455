"""MGSD on the shipped nano model: the same two stages, sized for two CPU cores."""

from __future__ import annotations

from dataclasses import replace

from pilotage.distill.divergences import ForwardKL
from pilotage.distill.estimators import FullVocabulary
from pilotage.distill.routes import Route, one_teacher
from pilotage.runs.measurement import NANO, NANO_MAX_NEW_TOKENS
from pilotage.runs.recipe import Recipe
from pilotage.train.distill_config import DESCRIPTION, DistillConfig, FrozenCopy
from pilotage.train.sft import SftConfig


def nano_stage1(seed: int) -> SftConfig:
    """Sight: supervised, on pictures and reference answers."""
    return SftConfig(
        prompts="brief",
        steps=320,
        batch_size=48,
        micro_batch_size=32,
        retention_share=1 / 3,
        lr=1e-3,
        schedule="one_cycle",
        pixel_noise=0.02,
        bf16=True,
        checkpoint_every=80,
        seed=seed,
    )


def nano_stage2(seed: int, backbone: str = "nano") -> DistillConfig:
    """Planning from pixels: distilled from a teacher that reads the state."""
    weights, estimator = FrozenCopy(source=backbone), FullVocabulary(divergence=ForwardKL())
    return DistillConfig(
        steps=160,
        prompts_per_step=48,
        micro_batch_size=16,
        max_new_tokens=NANO_MAX_NEW_TOKENS,
        prompts="brief",
        lr=5e-4,
        schedule="cosine",
        warmup_share=1 / 16,
        betas=(0.9, 0.98),
        router=one_teacher(view="teacher", weights=weights, estimator=estimator),
        perception_share=0.4,
        description=Route(name=DESCRIPTION, view="description", weights=weights, estimator=estimator),
        reduction="task",
        pixel_noise=0.02,
        bf16=True,
        checkpoint_every=40,
        seed=seed,
    )


def nano_mgsd(seed: int = 0, *, backbone: str = "nano") -> Recipe:
    """Base -> perception tuning -> on-policy self-distillation, over the three tasks. What `pilotage demo` runs.

    Departures from the paper, all for the model's size: every parameter trains at learning rates of 1e-3 and 5e-4
    instead of LoRA at 1e-4 and 1e-6, a third of stage 1 is planning from words, and two fifths of stage 2's prompts
    ask to describe the picture, judged by the base that reads the state in words; at these rates the model would
    forget. Tasks count alike in stage 2: in a mean over tokens the maze's long recitals would have about three times
    FrozenLake's share. Stage 2 takes the forward KL over the whole vocabulary.
    """
    return Recipe(
        name="nano_mgsd",
        backbone=backbone,
        questions="symbolic",
        **vars(replace(NANO, seed=seed)),
        attention="eager",
        num_threads=1,
        stages=(
            nano_stage1(seed),
            nano_stage2(seed, backbone),
        ),
    )

"""MGSD (arXiv 2606.06076): ground perception first, then let a teacher who reads the state teach the one who looks."""

from __future__ import annotations

from dataclasses import replace

from pilotage.backbones.load import LoraSettings
from pilotage.distill.divergences import ReverseKL
from pilotage.distill.estimators import FullVocabulary, Sampled
from pilotage.distill.routes import one_teacher
from pilotage.recipes.methods import with_teacher
from pilotage.runs.measurement import PAPER
from pilotage.runs.recipe import Recipe
from pilotage.train.distill_config import DistillConfig, FrozenCopy
from pilotage.train.optimisers import AdamWKahan
from pilotage.train.sft import SftConfig


def mgsd(seed: int = 0, *, backbone: str) -> Recipe:
    """MGSD with the released settings: LoRA perception tuning, then the sampled-token objective on all parameters.

    Departures from the release: levels are split by state, MiniBehaviour is not asked for more layouts than its
    training split holds, and one judge scores everything. Batch, epochs and learning rates are the paper's. The second
    stage's optimiser is the release's, AdamW with Kahan-compensated updates of weights in bfloat16: beside the teacher,
    float32 masters of a model of four billion parameters do not fit a card of 80 GB.
    """
    return Recipe(
        name="mgsd",
        backbone=backbone,
        questions="symbolic",
        **vars(replace(PAPER, seed=seed)),
        dtype="bfloat16",
        stages=(
            SftConfig(
                prompts="full",
                steps=3 * 18_000 // 64,
                batch_size=64,
                micro_batch_size=8,
                retention_share=0.0,
                lr=1e-4,
                schedule="cosine",
                warmup_share=0.1,
                freeze_vision=True,
                lora=LoraSettings(rank=8, alpha=16),
                seed=seed,
            ),
            DistillConfig(
                steps=3 * 18_000 // 32,
                prompts_per_step=32,
                micro_batch_size=4,
                max_new_tokens=2048,
                max_prompt_tokens=5120,
                prompts="full",
                lr=1e-6,
                weight_decay=0.01,
                optimiser=AdamWKahan(),
                router=one_teacher(
                    view="teacher",
                    weights=FrozenCopy(source=backbone),
                    estimator=Sampled(as_="advantage"),
                ),
                gradient_checkpointing=True,
                seed=seed,
            ),
        ),
    )


def mgsd_full(seed: int = 0, *, backbone: str) -> Recipe:
    """MGSD as the paper's figure draws it: whole distributions, reverse KL over the full vocabulary.

    All else is as in `mgsd`, departures included.
    """
    released = mgsd(seed, backbone=backbone)
    stage1, stage2 = released.stages
    assert isinstance(stage2, DistillConfig)
    full = with_teacher(stage2, estimator=FullVocabulary(divergence=ReverseKL()))
    return replace(released, name="mgsd_full", stages=(stage1, full))

"""MGSD on `smolvl`, a pretrained language model with eyes that are new: from words to pixels on two CPU cores.

pilotage models make smolvl runs/smolvl-base
pilotage train runs/smolvl --recipe smolvl --backbone runs/smolvl-base --all
"""

from __future__ import annotations

from dataclasses import replace

from pilotage.backbones.load import LoraSettings
from pilotage.distill.divergences import ForwardKL
from pilotage.distill.estimators import FullVocabulary
from pilotage.distill.routes import one_teacher
from pilotage.runs.measurement import SMOLVL
from pilotage.runs.recipe import Recipe
from pilotage.train.distill_config import AdapterOff, DistillConfig
from pilotage.train.sft import SftConfig


def smolvl_text(seed: int) -> SftConfig:
    """Planning from words alone, as the symbolic view and both of the teacher's ask."""
    return SftConfig(
        stage="text",
        prompts="brief",
        steps=150,
        batch_size=12,
        micro_batch_size=12,
        retention_share=1.0,
        lr=2e-4,
        schedule="cosine",
        bf16=True,
        checkpoint_every=25,
        seed=seed,
    )


def smolvl_stage1(seed: int) -> SftConfig:
    return replace(
        smolvl_text(seed),
        stage="stage1",
        steps=450,
        batch_size=12,
        length_groups=1,
        lr=1.5e-4,
        retention_share=1 / 6,
        checkpoint_every=50,
    )


def smolvl_stage2(seed: int) -> DistillConfig:
    return DistillConfig(
        steps=40,
        prompts_per_step=24,
        micro_batch_size=8,
        max_new_tokens=SMOLVL.max_new_tokens,
        prompts="brief",
        lr=2e-4,
        schedule="cosine",
        warmup_share=1 / 8,
        lora=LoraSettings(rank=16, alpha=32),
        router=one_teacher(
            view="teacher", weights=AdapterOff(), estimator=FullVocabulary(divergence=ForwardKL())
        ),
        bf16=True,
        checkpoint_every=10,
        seed=seed,
    )


def smolvl(seed: int = 0, *, backbone: str) -> Recipe:
    """Words, sight, then planning from pixels on SmolLM2-135M with a new vision tower: FrozenLake 3 and 4.

    Departures from the paper, all for the model's size. SmolLM2 cannot plan yet, so that a stage of planning from
    words comes first, and what it leaves is the base that teaches. The vision tower is small and new, so that stage 1
    trains everything, a sixth of it planning from words. Stage 2 trains an adapter, and its teacher is the same model
    with the adapter switched off. Weights are in float32, products in bfloat16; a processor that has no units for it
    is faster with `--set text.bf16=false --set stage1.bf16=false --set stage2.bf16=false`.
    """
    return Recipe(
        name="smolvl",
        backbone=backbone,
        **vars(replace(SMOLVL, seed=seed)),
        num_threads=1,
        attention="eager",  # in bfloat16 on a CPU the fused backward is the slower one
        stages=(smolvl_text(seed), smolvl_stage1(seed), smolvl_stage2(seed)),
    )

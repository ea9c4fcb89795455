"""A pretrained language model learns to plan from pixels: what each stage gives and what it takes away.

    pilotage models make smolvl runs/smolvl-base
    pilotage study smolvl runs/smolvl

Words, sight, then planning from pictures by a teacher that reads the state, on SmolLM2-135M with new eyes; against
supervised fine-tuning on reference answers, of as many rows, with the same adapter and learning rate. Besides the test
levels: one size larger than any trained on, Gymnasium's own pictures of the test levels, and what is left of language.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from pilotage.backbones.load import Backbone
from pilotage.data.made import made_examples
from pilotage.errors import require
from pilotage.files import read_json, write_json
from pilotage.recipes.methods import answers_stage
from pilotage.recipes.smolvl import smolvl
from pilotage.records import Example
from pilotage.rollouts.transformers_engine import TransformersEngine
from pilotage.runs.measurement import TEST_SEED, examples_of
from pilotage.runs.recipe import BASE_STAGE, Recipe
from pilotage.runs.runner import load, measure
from pilotage.studies.episode_tables import rows_by_id, values
from pilotage.studies.retention import QUESTIONS, retention
from pilotage.studies.study import Study, StudyTable, Variant
from pilotage.studies.tables import PerSeed, bounds, cell, difference_cell, is_measured, less, not_run
from pilotage.train.distill_config import DistillConfig
from pilotage.train.sft_config import SftConfig
from pilotage.worlds.drawing import encode_png

BASE = "runs/smolvl-base"
"""Where `pilotage models make smolvl` is expected to have put the model."""
BASE_RUN = "base_run"
LARGER, STYLE, RETENTION = "larger", "gymnasium", "retention"
"""Folders of further measurements in a run's: beyond the sizes trained on, in other pictures, and language left."""
NUM_LARGER = 60
MOST_SHOWN = 90
REMEDY = "remove it, and run the study again"


def measure_beyond(recipe: Recipe, run_dir: Path) -> None:
    """What each stage's model does on larger levels and other pictures, and what is left of its language."""
    test = examples_of(recipe, "test")
    (name, levels), *_ = recipe.levels
    sets: Mapping[str, Callable[[], list[Example]]] = {
        LARGER: lambda: made_examples(
            name, (max(levels) + 1,), NUM_LARGER, "test", TEST_SEED, cell_px=recipe.cell_px
        ),
        STYLE: lambda: [in_gymnasiums_pictures(example, cell_px=recipe.cell_px or 32) for example in test],
    }
    stages = [stage.stage for stage in recipe.stages]
    models = {BASE_STAGE: recipe.backbone} if recipe.measure_base else {}
    models |= {stage: str(run_dir / stage / "model") for stage in stages}
    for stage, weights in models.items():
        kept = run_dir / RETENTION / f"{stage}.json"
        missing = [part for part in sets if not (run_dir / part / f"{stage}.done").exists()]
        if not missing and kept.exists():
            continue
        backbone = load(recipe, weights)
        for part in missing:
            engine = TransformersEngine(backbone)
            conditions = ("image", "text") if part == LARGER else ("image",)
            measure(recipe, engine, stage, sets[part](), run_dir / part, conditions=conditions)
            (run_dir / part / f"{stage}.done").touch()
        if not kept.exists():
            _keep_retention(backbone, kept)


def _keep_retention(backbone: Backbone, path: Path) -> None:
    found = retention(backbone)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, {"log_likelihoods": list(found.log_likelihoods), "answers": list(found.answers)})


def in_gymnasiums_pictures(example: Example, *, cell_px: int) -> Example:
    """The same level of FrozenLake as Gymnasium draws it, scaled to `cell_px` pixels a cell."""
    require("gymnasium", "pygame")
    import gymnasium

    rows = list(example.state["map"])
    env = gymnasium.make("FrozenLake-v1", desc=rows, render_mode="rgb_array")
    try:
        env.reset(seed=0)
        pixels = np.asarray(env.render())
    finally:
        env.close()
    side = cell_px * len(rows)
    scaled = Image.fromarray(pixels).resize((side, side), Image.Resampling.LANCZOS)
    png = encode_png(np.asarray(scaled.convert("RGB")))
    return replace(example, start=replace(example.start, images=(png,)))


def _answers(seed: int, base_run: Path) -> Recipe:
    """Reference answers to pictures in place of the teacher: as many rows, the same adapter, rate and schedule."""
    whole = smolvl(seed, backbone=str(base_run / "stage1" / "model"))
    first, second = whole.stages[0], whole.stages[-1]
    assert isinstance(first, SftConfig) and isinstance(second, DistillConfig)
    stage = replace(
        answers_stage(first, second),
        lr=second.lr,
        warmup_share=second.warmup_share,
        betas=second.betas,
        lora=second.lora,
        checkpoint_every=second.checkpoint_every,
    )
    return replace(whole, name="smolvl_sft", stages=(stage,), measure_base=False)


STAGE2, CLONING = "stage 2, by the teacher", "reference answers in its place"
VARIANTS = (
    *(
        Variant(title=title, folder=BASE_RUN, stage=stage, make=None)
        for title, stage in (
            ("as made", BASE_STAGE),
            ("planning from words", "text"),
            ("stage 1", "stage1"),
            (STAGE2, "stage2"),
        )
    ),
    Variant(title=CLONING, folder="sft_answers", stage="sft_answers", make=_answers),
)


def smolvl_table(study: Study, out: Path, seeds: Sequence[int]) -> StudyTable:
    """Success by condition on the test levels, on larger ones and in other pictures; means and intervals."""
    columns = {
        "text": ("", "text"),
        "image": ("", "image"),
        "perception": ("", "perception"),
        "larger, text": (LARGER, "text"),
        "larger, image": (LARGER, "image"),
        "other pictures, image": (STYLE, "image"),
    }
    head = ["variant", *columns, "image, against the teacher's"]
    theirs = _per_seed(study, out, seeds, study.variant(study.reference), "", "image")
    lines = []
    for variant in study.variants:
        found = [
            _per_seed(study, out, seeds, variant, part, condition) for part, condition in columns.values()
        ]
        cells = ["not run" if values is None else cell(values) for values in found]
        ours = found[list(columns).index("image")]
        if variant.title == study.reference or ours is None or theirs is None:
            cells.append("")
        else:
            cells.append(difference_cell(less(ours, theirs)))
        lines.append([variant.title, *cells])
    return StudyTable(
        title="Success on unseen levels, per cent",
        head=head,
        rows=lines,
        note=f"Larger: {NUM_LARGER} levels of one size more than any trained on. Other pictures: the test levels as "
        f"Gymnasium draws them. Reference: {study.reference}.",
    )


def _per_seed(
    study: Study, out: Path, seeds: Sequence[int], variant: Variant, part: str, condition: str
) -> PerSeed | None:
    """Seed -> one task -> success by level, in the order of their ids; None where some seed has not got it all."""
    found = []
    for seed in seeds:
        folder = study.folder(out, seed, variant.folder)
        is_there = (
            (folder / part / f"{variant.stage}.done").exists() if part else is_measured(out, seed, variant)
        )
        if not is_there:
            return None
        found.append(rows_by_id(folder / part, variant.stage, condition))
    return values(found, "success")


def retention_table(study: Study, out: Path, seeds: Sequence[int]) -> StudyTable:
    """Log-likelihood of plain sentences before and after, paired by sentence, and answers to plain questions."""
    kept = {variant.title: _retention(study, out, seeds, variant) for variant in study.variants}
    first, *_ = study.variants
    before = kept[first.title]
    lines = []
    for variant in study.variants:
        found = kept[variant.title]
        if found is None:
            lines.append(not_run(variant.title, 2 + len(QUESTIONS)))
            continue
        by_seed = [np.array(one["log_likelihoods"]) for one in found]
        lost = ""
        if before is not None and variant is not first:
            lost = _difference(
                [b - np.array(one["log_likelihoods"]) for b, one in zip(by_seed, before, strict=True)]
            )
        mean = float(np.mean(by_seed))
        lines.append(
            [variant.title, f"{mean:.2f}", lost, *(_quoted(answer) for answer in found[0]["answers"])]
        )
    return StudyTable(
        title="Language that is left: nats per token of plain sentences, and answers to plain questions",
        head=["variant", "log-likelihood", "against as made", *QUESTIONS],
        rows=lines,
        note="Sentences of ours that nothing was trained on, without any prompt; 95 % intervals over sentences. "
        "Answers are greedy, of the first seed, and cut.",
    )


def _retention(
    study: Study, out: Path, seeds: Sequence[int], variant: Variant
) -> list[Mapping[str, Any]] | None:
    paths = [study.folder(out, seed, variant.folder) / RETENTION / f"{variant.stage}.json" for seed in seeds]
    if not all(path.exists() for path in paths):
        return None
    return [read_json(path, remedy=REMEDY) for path in paths]


def _difference(per_seed: Sequence[np.ndarray]) -> str:
    """Mean over seeds and sentences, signed, with a 95 % interval over both."""
    low, high = bounds([[values] for values in per_seed])
    return f"{float(np.mean(per_seed)):+.2f} ({low:+.2f} to {high:+.2f})"


def _quoted(answer: str) -> str:
    """One line that cannot break a table."""
    text = " ".join(answer.replace("|", "/").split())
    return text[:MOST_SHOWN] + ("…" if len(text) > MOST_SHOWN else "")


SMOLVL = Study(
    name="smolvl",
    title="a pretrained language model learns to plan from pixels, and what it forgets",
    base_run=partial(smolvl, backbone=BASE),
    base_run_folder=BASE_RUN,
    base_made_by=f"pilotage models make smolvl {BASE}",
    variants=VARIANTS,
    reference=STAGE2,
    extras=(measure_beyond,),
    main_table=smolvl_table,
    tables=(retention_table,),
)

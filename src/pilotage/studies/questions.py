"""ViGOS in its own domain: questions about pictures with boxed answers, on a nano model that has learnt their form.

    pilotage study questions runs/questions --seeds 0 1 2 3 4
    pilotage study smolvl_questions runs/smolvl-questions --seeds 0

One base, which every seed branches off, learns sight and form at once: pictures and questions in every view that a
teacher is shown, answered as their references are. Then each method has as many rollouts, or as many reference answers,
on questions that the base has seen no answer to. Who separates seeing from reasoning, and does it pay?
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path

import numpy as np

from pilotage.data.prior import prior_pairs
from pilotage.distill.divergences import Cap, NoCap
from pilotage.evaluate import rows_path
from pilotage.recipes.nano import nano_mgsd, nano_stage1
from pilotage.recipes.nano_methods import nano_opsd, nano_vigos, nano_vigos_released, nano_visual_sft
from pilotage.recipes.smolvl import smolvl, smolvl_stage1, smolvl_stage2
from pilotage.records import Example
from pilotage.runs.measurement import TEST_SEED
from pilotage.runs.recipe import BASE_STAGE, Recipe, Stage
from pilotage.runs.runner import engine_of, measure
from pilotage.studies.comparison import capped, rerouted
from pilotage.studies.costs import leak_of
from pilotage.studies.episode_tables import Rows, rows_by_id, values
from pilotage.studies.extras import PROBE_FOLDER, measure_leak
from pilotage.studies.study import Study, StudyTable, Variant
from pilotage.studies.tables import PerSeed, cell, difference_cell, less, not_run
from pilotage.train.distill_config import AdapterOff, DistillConfig, FrozenCopy
from pilotage.train.distill_setup import with_weights
from pilotage.train.sft_config import SftConfig
from pilotage.worlds.questions.asked import QUESTION_KINDS, ask
from pilotage.worlds.questions.data.build import asked_about
from pilotage.worlds.questions.recipes import for_world
from pilotage.worlds.registry import get_task

TASK, LEVELS = "frozenlake", (3, 4, 5)
FORM = "form"
"""Folder, and stage, of the base that has learnt the form."""
FORM_STEPS, STEPS = 600, 40
SMOLVL_FORM_STEPS, SMOLVL_STEPS = 100, 20
FORM_VIEWS = (
    ("vqa_student", 0.5),
    ("vqa_perception", 0.1),
    ("vqa_reasoning", 0.1),
    ("vqa_solution", 0.1),
    ("vqa_reference", 0.2),
)
"""Views of the base's pictures, with how often each is drawn: a teacher must have learnt to use what it is shown."""
MAX_NEW_TOKENS = 192
NUM_TRAIN, NUM_TEST, NUM_PAIRS = 3000, 300, 60
CONDITION = "question"


@dataclass(frozen=True, kw_only=True)
class _Model:
    """A model that the study is made with."""

    name: str
    made: Callable[[int], Recipe]
    """The run that its base's recipe is made of; its first stage is supervised."""
    stage: Callable[[int], SftConfig]
    """What its base trains as, in other views."""
    levels: tuple[int, ...]
    form_steps: int
    stage2: Callable[[int], DistillConfig] | None = None
    """Where steps, rows, rate and adapter of the arms come from; None: from their own recipes, but for the steps."""

    def base_run(self, seed: int) -> Recipe:
        form = replace(
            self.stage(seed),
            stage=FORM,
            image_view=FORM_VIEWS,
            retention_views=(("vqa_symbolic", 1.0),),
            retention_share=1 / 4,
            steps=self.form_steps,
        )
        return replace(
            self.made(seed),
            name=f"{self.name}_form",
            levels=(("questions", self.levels),),
            options=(("tasks", TASK),),
            conditions=(),
            num_train=NUM_TRAIN,
            num_test=NUM_TEST,
            max_new_tokens=MAX_NEW_TOKENS,
            stages=(form,),
        )

    def arm(
        self, name: str, whole: Callable[[int], Recipe], seed: int, base_run: Path, *, cap: Cap | None = None
    ) -> Recipe:
        """The second stage of a recipe in its form for questions, taught by the base that knows their form."""
        recipe = whole(seed)
        stage = for_world(recipe, recipe.stages[1])
        if self.stage2 is not None:
            stage = like(stage, self.stage2(seed))
        elif isinstance(stage, DistillConfig):
            stage = replace(stage, steps=STEPS, warmup_share=min(stage.warmup_steps, STEPS) / STEPS)
        else:
            stage = replace(stage, steps=STEPS)
        if isinstance(stage, DistillConfig):
            # Neither the shipped base nor a teacher of plans has ever seen such a question.
            own = AdapterOff() if stage.lora is not None else FrozenCopy()
            stage = with_weights(stage, lambda _: own)
            if cap is not None:
                stage = rerouted(stage, partial(capped, cap=cap))
            stage = replace(stage, max_new_tokens=MAX_NEW_TOKENS)
        return replace(
            self.base_run(seed),
            name=f"{self.name}_{name}",
            backbone=str(base_run / FORM / "model"),
            stages=(stage,),
            measure_base=False,
        )

    def variant(
        self,
        title: str,
        folder: str,
        name: str,
        whole: Callable[[int], Recipe],
        *,
        cap: Cap | None = None,
    ) -> Variant:
        stage = whole(0).stages[1].stage
        return Variant(title=title, folder=folder, stage=stage, make=partial(self.arm, name, whole, cap=cap))


def like(stage: Stage, other: DistillConfig) -> Stage:
    """A stage with another's number of steps and rows, rate, schedule and adapter."""
    shared = {
        "steps": other.steps,
        "lr": other.lr,
        "warmup_share": other.warmup_share,
        "micro_batch_size": other.micro_batch_size,
        "schedule": other.schedule,
        "lora": other.lora,
        "betas": other.betas,
        "bf16": other.bf16,
        "checkpoint_every": other.checkpoint_every,
    }
    if isinstance(stage, SftConfig):
        return replace(stage, batch_size=other.prompts_per_step, **shared)
    return replace(stage, prompts_per_step=other.prompts_per_step, **shared)


def _smolvl_stage2(seed: int) -> DistillConfig:
    """Half as many steps as from levels: an answer to a question is longer."""
    return replace(smolvl_stage2(seed), steps=SMOLVL_STEPS)


NANO = _Model(name="questions", made=nano_mgsd, stage=nano_stage1, levels=LEVELS, form_steps=FORM_STEPS)
SMOLVL_BASE = "runs/smolvl/seed0/base_run/stage1/model"
"""What the study `smolvl` leaves of seed 0 after stage 1, in the folder that its page names."""
SMOLVL = _Model(
    name="smolvl_questions",
    made=partial(smolvl, backbone=SMOLVL_BASE),
    stage=smolvl_stage1,
    levels=(3, 4),
    form_steps=SMOLVL_FORM_STEPS,
    stage2=_smolvl_stage2,
)


def measure_prior_questions(recipe: Recipe, run_dir: Path) -> None:
    """Answers to questions about pairs of pictures, one that follows the task's prior and one that reverses it."""
    done = run_dir / PROBE_FOLDER / "done"
    if done.exists():
        return
    stage = recipe.stages[-1].stage
    engine = engine_of(recipe, str(run_dir / stage / "model"))
    asked = [question for pair in question_pairs() for question in pair]
    measure(recipe, engine, stage, asked, run_dir / PROBE_FOLDER, conditions=(CONDITION,))
    done.touch()


@cache
def question_pairs() -> tuple[tuple[Example, Example], ...]:
    """(about a state that follows the prior, about one that reverses it), of one level, one length and one kind."""
    task = get_task(TASK)
    found = []
    pairs = prior_pairs(task, LEVELS, NUM_PAIRS, split="test", seed=TEST_SEED, cell_px=32)
    for place, pair in enumerate(pairs):
        kind = QUESTION_KINDS[place % len(QUESTION_KINDS)]
        questions = []
        for example in pair:
            rng = np.random.default_rng([TEST_SEED, place])
            asked = ask(
                task, task.parse_state(example.state), kind, rng, safe=place // len(QUESTION_KINDS) % 2 == 0
            )
            questions += [] if asked is None else [asked_about(example, asked)]
        if len(questions) == len(pair):
            found.append((questions[0], questions[1]))
    return tuple(found)


def questions_table(study: Study, out: Path, seeds: Sequence[int]) -> StudyTable:
    """Right answers, by kind of question too, answers in form, and PALR; means, intervals over seeds and questions."""
    head = ["variant", "right", *QUESTION_KINDS, "in form", "PALR, all", "right, against reference"]
    theirs = _right(study, out, seeds, study.variant(study.reference))
    lines = []
    for variant in study.variants:
        rows = _rows(study, out, seeds, variant)
        ours = _right(study, out, seeds, variant)
        if rows is None or ours is None:
            lines.append(not_run(variant.title, len(head) - 1))
            continue
        cells = [cell(ours)]
        for kind in QUESTION_KINDS:
            of_kind = [[row for row in of_seed if row["axes"]["kind"] == kind] for of_seed in rows]
            cells.append(cell(values(of_kind, "success")))
        cells.append(cell(values(rows, "parsed")))
        leaks = [leak_of(out, seed, variant) for seed in seeds]
        known = [leak for leak in leaks if leak is not None]
        cells.append(f"{np.mean(known):.1f} ({min(known):.1f} to {max(known):.1f})" if known else "-")
        if theirs is None or variant.title == study.reference:
            cells.append("")
        else:
            cells.append(difference_cell(less(ours, theirs)))
        lines.append([variant.title, *cells])
    return StudyTable(
        title="Questions about unseen pictures, per cent",
        head=head,
        rows=lines,
        note=f"PALR: mean over seeds, lowest and highest. Reference: {study.reference}.",
    )


def conflict_table(study: Study, out: Path, seeds: Sequence[int]) -> StudyTable:
    """Right answers about pictures that follow the task's prior and that reverse it, paired."""
    first, second = ([pair[side].id for pair in question_pairs()] for side in (0, 1))
    lines = []
    for variant in study.variants:
        if variant.make is None:
            continue
        folders = [study.folder(out, seed, variant.folder) / PROBE_FOLDER for seed in seeds]
        if not all((folder / "done").exists() for folder in folders):
            lines.append(not_run(variant.title, 3))
            continue
        sides: list[PerSeed] = []
        for ids in (first, second):
            by_seed = []
            for folder in folders:
                of = {row["id"]: row for row in rows_by_id(folder, variant.stage, CONDITION)}
                by_seed.append([of[each] for each in ids])
            sides.append(values(by_seed, "success"))
        lines.append([variant.title, cell(sides[0]), cell(sides[1]), difference_cell(less(*sides))])
    return StudyTable(
        title="Where the task's prior holds and where it is reversed",
        head=["variant", "where it holds", "where it is reversed", "difference"],
        rows=lines,
        note=f"Questions about {len(question_pairs())} pairs of pictures, of one level, length and kind each.",
    )


def _rows(study: Study, out: Path, seeds: Sequence[int], variant: Variant) -> Sequence[Rows] | None:
    folders = [study.folder(out, seed, variant.folder) for seed in seeds]
    if not all(rows_path(folder, variant.stage, CONDITION).exists() for folder in folders):
        return None
    return [rows_by_id(folder, variant.stage, CONDITION) for folder in folders]


def _right(study: Study, out: Path, seeds: Sequence[int], variant: Variant) -> PerSeed | None:
    rows = _rows(study, out, seeds, variant)
    return None if rows is None else values(rows, "success")


_BASES = (
    Variant(title="base", folder=FORM, stage=BASE_STAGE, make=None),
    Variant(title="sight and form", folder=FORM, stage=FORM, make=None),
)
QUESTIONS = Study(
    name="questions",
    title="ViGOS where it was proposed: questions about pictures with boxed answers",
    base_run=NANO.base_run,
    base_run_folder=FORM,
    one_base_run=True,
    variants=(
        *_BASES,
        NANO.variant("ViGOS, paper", "vigos", "nano_vigos", nano_vigos),
        NANO.variant("ViGOS, paper, cap: none", "vigos_no_cap", "nano_vigos", nano_vigos, cap=NoCap()),
        NANO.variant("ViGOS, released", "vigos_released", "nano_vigos_released", nano_vigos_released),
        NANO.variant("OPSD", "opsd", "nano_opsd", nano_opsd),
        NANO.variant("OPSD, cap: none", "opsd_no_cap", "nano_opsd", nano_opsd, cap=NoCap()),
        NANO.variant("MGSD, symbolic teacher", "mgsd", "nano", nano_mgsd),
        NANO.variant("SFT on worked solutions", "visual_sft", "nano_visual_sft", nano_visual_sft),
    ),
    reference="ViGOS, paper",
    extras=(measure_leak, measure_prior_questions),
    main_table=questions_table,
    tables=(conflict_table,),
)
SMOLVL_QUESTIONS = replace(
    QUESTIONS,
    name="smolvl_questions",
    title="the same questions asked of a pretrained language model with new eyes",
    base_run=SMOLVL.base_run,
    base_made_by="pilotage study smolvl runs/smolvl --seeds 0",
    variants=(
        *_BASES,
        SMOLVL.variant("ViGOS, paper", "vigos", "nano_vigos", nano_vigos),
        SMOLVL.variant("ViGOS, released", "vigos_released", "nano_vigos_released", nano_vigos_released),
        SMOLVL.variant("OPSD", "opsd", "nano_opsd", nano_opsd),
        SMOLVL.variant("MGSD, symbolic teacher", "mgsd", "nano", nano_mgsd),
        SMOLVL.variant("SFT on worked solutions", "visual_sft", "nano_visual_sft", nano_visual_sft),
    ),
)

"""What each part of MGSD is worth: its variants on the nano model, all at one budget."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from pilotage.distill.estimators import Sampled
from pilotage.recipes.methods import with_teacher
from pilotage.recipes.nano import nano_mgsd
from pilotage.recipes.nano_methods import nano_control_no_privilege, nano_visual_sft
from pilotage.runs.recipe import BASE_STAGE, Recipe, Stage
from pilotage.studies.study import Study, Variant
from pilotage.studies.tables import stages_table
from pilotage.train.distill_config import DistillConfig

MAIN = "mgsd"
"""Folder of the whole method; the other variants branch off it."""


def _stage2(seed: int) -> DistillConfig:
    stage = nano_mgsd(seed).stages[1]
    assert isinstance(stage, DistillConfig)
    return stage


def _branch(seed: int, backbone: str, *stages: Stage) -> Recipe:
    whole = nano_mgsd(seed)
    name = f"ablation_{stages[-1].stage}"
    return replace(whole, name=name, backbone=backbone, stages=stages, measure_base=False)


def _stage1_model(main: Path) -> str:
    return str(main / "stage1" / "model")


def _stage2_only(seed: int, main: Path) -> Recipe:
    return _branch(seed, "nano", _stage2(seed))


def _without_plan(seed: int, main: Path) -> Recipe:
    return _branch(seed, _stage1_model(main), with_teacher(_stage2(seed), view="teacher_no_plan"))


def _sampled(seed: int, main: Path) -> Recipe:
    return _branch(seed, _stage1_model(main), with_teacher(_stage2(seed), estimator=Sampled(as_="advantage")))


def _no_privilege(seed: int, main: Path) -> Recipe:
    return _branch(seed, _stage1_model(main), nano_control_no_privilege(seed).stages[1])


def _sft_on_answers(seed: int, main: Path) -> Recipe:
    return _branch(seed, _stage1_model(main), nano_visual_sft(seed).stages[1])


VARIANTS = (
    Variant(title="base", folder=MAIN, stage=BASE_STAGE, make=None),
    Variant(title="stage 1 only", folder=MAIN, stage="stage1", make=None),
    Variant(title="stage 2 only", folder="stage2_only", stage="stage2", make=_stage2_only),
    Variant(title="both (MGSD, full vocabulary)", folder=MAIN, stage="stage2", make=None),
    Variant(title="both, without the reference plan", folder="no_plan", stage="stage2", make=_without_plan),
    Variant(title="both, sampled estimator", folder="sampled", stage="stage2", make=_sampled),
    Variant(
        title="stage 1, then SFT on reference answers",
        folder="sft_answers",
        stage="sft_answers",
        make=_sft_on_answers,
    ),
    Variant(title="both, no-privilege control", folder="no_privilege", stage="stage2", make=_no_privilege),
)

ABLATION = Study(
    name="mgsd",
    title="what each part of MGSD is worth",
    base_run=nano_mgsd,
    base_run_folder=MAIN,
    variants=VARIANTS,
    reference="both (MGSD, full vocabulary)",
    tables=(stages_table,),
)

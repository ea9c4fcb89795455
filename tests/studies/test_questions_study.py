"""The study of questions: its arms have one budget and one base, its questions exact answers, its tables real rows."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pilotage.distill.divergences import NoCap
from pilotage.recipes.smolvl import smolvl_stage2
from pilotage.runs.measurement import examples_of
from pilotage.runs.recipe import Recipe
from pilotage.studies import questions as study_questions
from pilotage.studies.questions import FORM, QUESTIONS, SMOLVL_QUESTIONS, conflict_table, question_pairs
from pilotage.studies.runs import run_part, write_tables
from pilotage.train.distill_config import AdapterOff, DistillConfig, FrozenCopy
from pilotage.train.sft_config import SftConfig
from pilotage.worlds import get_task
from pilotage.worlds.questions.asked import QUESTION_KINDS
from pilotage.worlds.questions.question import question_of

pytestmark = pytest.mark.usefixtures("one_thread")
ARMS = [variant for variant in QUESTIONS.variants if variant.make is not None]


def recipe_of(folder: str, seed: int = 1) -> Recipe:
    (variant,) = [variant for variant in ARMS if variant.folder == folder]
    assert variant.make is not None
    return variant.make(seed, Path("base_run"))


def test_every_arm_has_one_budget_and_is_taught_by_the_base_that_knows_the_form() -> None:
    budgets = set()
    for variant in ARMS:
        recipe = recipe_of(variant.folder)
        (stage,) = recipe.stages
        assert recipe.backbone == f"base_run/{FORM}/model" and recipe.levels == QUESTIONS.base_run(1).levels
        if isinstance(stage, DistillConfig):
            assert set(stage.all_weights) == {FrozenCopy()}
            assert stage.student_view == "vqa_student" and stage.perception_share == 0
            budgets.add((stage.steps, stage.prompts_per_step, stage.seed))
        else:
            assert stage.image_view == "vqa_student"
            budgets.add((stage.steps, stage.batch_size, stage.seed))
    assert len(budgets) == 1
    capless: Any = recipe_of("vigos_no_cap").stages[0]
    assert {route.estimator.cap for route in capless.routes} == {NoCap()}
    assert capless.means == "apart" and len(capless.routes) == 3


def test_the_arms_on_smolvl_have_its_steps_rate_and_adapter_and_its_base_as_teacher() -> None:
    second = smolvl_stage2(3)
    form = SMOLVL_QUESTIONS.base_run(3)
    assert form.levels == (("questions", (3, 4)),) and form.conditions == ()
    assert form.stages[0].steps == study_questions.SMOLVL_FORM_STEPS and form.stages[0].bf16
    assert str(form.backbone).endswith("smolvl/seed0/base_run/stage1/model")
    arms = [variant for variant in SMOLVL_QUESTIONS.variants if variant.make is not None]
    assert len(arms) == 5
    for variant in arms:
        assert variant.make is not None
        recipe = variant.make(3, Path("base"))
        (stage,) = recipe.stages
        assert recipe.backbone == f"base/{FORM}/model" and stage.stage == variant.stage
        assert (stage.steps, stage.lora) == (
            study_questions.SMOLVL_STEPS,
            second.lora,
        ) and second.lora is not None
        if isinstance(stage, DistillConfig):
            assert set(stage.all_weights) == {AdapterOff()} and stage.student_view == "vqa_student"
            assert (stage.lr, stage.prompts_per_step) == (second.lr, second.prompts_per_step)
        else:
            assert (stage.lr, stage.batch_size) == (second.lr, second.prompts_per_step)


def test_pairs_are_of_one_level_length_and_kind_and_differ_in_the_prior() -> None:
    task: Any = get_task(study_questions.TASK)
    pairs = question_pairs()
    assert len(pairs) > 40 and {question_of(one).kind for one, _ in pairs} == set(QUESTION_KINDS)
    for one, other in pairs:
        states = [task.parse_state(each.state) for each in (one, other)]
        assert [task.follows_prior(state) for state in states] == [True, False]
        assert one.level == other.level and question_of(one).kind == question_of(other).kind
        assert len({len(task.solve(state).plan) for state in states}) == 1
        assert one.split == other.split == "test"
    assert len({each.id for pair in pairs for each in pair}) == 2 * len(pairs)


def test_made_questions_are_those_of_the_split_and_tell_a_wrong_option(tmp_path: Path) -> None:
    recipe = replace(QUESTIONS.base_run(0), num_train=24, num_test=24)
    parts = {split: examples_of(recipe, split) for split in ("train", "test")}
    for split, examples in parts.items():
        assert len(examples) == 24 and {example.split for example in examples} == {split}
        assert {example.level for example in examples} == {3, 4, 5}
        assert {question_of(example).kind for example in examples} == set(QUESTION_KINDS)
    assert not {example.id for example in parts["train"]} & {example.id for example in parts["test"]}


@pytest.mark.parametrize(
    ("options", "levels", "message"),
    [
        ((("task", "frozenlake"),), (3,), "no option 'task'"),
        ((("tasks", "maze"),), (3, 9), "maze has no level 9"),
        ((), (99,), "no planning task has the levels"),
    ],
)
def test_questions_that_cannot_be_made_are_one_line(options: Any, levels: Any, message: str) -> None:
    from pilotage.errors import PilotageError

    recipe = replace(QUESTIONS.base_run(0), levels=(("questions", levels),), options=options)
    with pytest.raises(PilotageError, match=message):
        examples_of(recipe, "train")


def test_the_study_runs_and_tells_kinds_form_leaks_and_conflicts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pairs = question_pairs()[:4]
    monkeypatch.setattr(study_questions, "question_pairs", lambda: pairs)
    monkeypatch.setattr("pilotage.studies.extras.NUM_PROBED", 4)
    study = shortened()
    run_part(study, tmp_path, 0, FORM)
    for folder in ("vigos", "mgsd", "visual_sft"):
        run_part(study, tmp_path, 0, folder)
    tables = write_tables(study, tmp_path, (0,))
    assert tables.count("| ViGOS, paper |") == 2 and "| OPSD | not run" in tables
    rows = {line.split(" | ")[0].strip("| "): line for line in tables.splitlines() if line.startswith("|")}
    assert "not run" not in rows["SFT on worked solutions"]
    table = conflict_table(study, tmp_path, (0,))
    assert [line[0] for line in table.rows] == [variant.title for variant in ARMS]
    page = (tmp_path / "questions.html").read_text()
    missing = page.partition("Not run with every seed yet")[2].partition("</section>")[0]
    listed = [variant.title for variant in QUESTIONS.variants if f"<li>{variant.title}</li>" in missing]
    assert listed == ["ViGOS, paper, cap: none", "ViGOS, released", "OPSD", "OPSD, cap: none"]


def shortened() -> Any:
    """The study with a step of each stage, few questions and short answers."""

    def short(recipe: Recipe) -> Recipe:
        stages: list[Any] = []
        for stage in recipe.stages:
            if isinstance(stage, SftConfig):
                stages.append(replace(stage, steps=1, batch_size=8, micro_batch_size=8))
            else:
                stages.append(replace(stage, steps=1, prompts_per_step=4, max_new_tokens=8, warmup_share=0.0))
        return replace(recipe, stages=tuple(stages), num_train=24, num_test=12, max_new_tokens=8)

    def variant(each: Any) -> Any:
        make = each.make
        return each if make is None else replace(each, make=lambda seed, run: short(make(seed, run)))

    return replace(
        QUESTIONS,
        base_run=lambda seed: short(QUESTIONS.base_run(seed)),
        variants=tuple(map(variant, QUESTIONS.variants)),
    )

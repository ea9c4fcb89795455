"""The comparison of methods: equal budgets, one base run, what each variant changes, and its tables from real runs."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from pilotage.distill.divergences import JSD, NoCap, RescaleCap, ReverseKL
from pilotage.distill.estimators import FullVocabulary, Sampled
from pilotage.evaluate import rows_path
from pilotage.runs.measurement import examples_of
from pilotage.studies import comparison
from pilotage.studies import costs as study_costs
from pilotage.studies import extras as study_extras
from pilotage.studies import tables as study_tables
from pilotage.studies.comparison import ESTIMATOR_SWITCHES, ESTIMATORS, METHODS, PRIOR, VIGOS_PARTS
from pilotage.studies.costs import cost_table
from pilotage.studies.prior import prior_table
from pilotage.studies.runs import run_part, write_tables
from pilotage.studies.study import Study, run_folder
from pilotage.studies.switches import switch_table
from pilotage.train.distill_config import DistillConfig
from pilotage.worlds import get_task

ALL = (METHODS, ESTIMATORS, VIGOS_PARTS, PRIOR)


def stage_of(study: Study, folder: str) -> Any:
    (variant,) = [v for v in study.variants if v.folder == folder and v.make is not None]
    assert variant.make is not None
    return variant.make(0, Path("base_run")).stages[-1]


@pytest.mark.parametrize("study", ALL, ids=lambda study: study.name)
def test_all_variants_have_one_budget_one_base_run_and_one_measurement(study: Study) -> None:
    base_run = study.base_run(1)
    budgets = set()
    for variant in study.variants:
        if variant.make is None:
            continue
        recipe = variant.make(1, Path("base_run"))
        (stage,) = recipe.stages
        assert (
            recipe.backbone == f"base_run/{base_run.stages[-1].stage}/model" and stage.stage == variant.stage
        )
        assert (recipe.levels, recipe.num_test, recipe.seed) == (base_run.levels, base_run.num_test, 1)
        assert recipe.train_prior == base_run.train_prior == (study is PRIOR)
        if isinstance(stage, DistillConfig):
            rows = stage.prompts_per_step * stage.sources.max_samples
        else:
            rows = stage.batch_size
        budgets.add((stage.steps, rows, stage.seed))
    assert len(budgets) == 1, budgets


def test_the_eight_estimators_differ_in_three_switches() -> None:
    found = set()
    for variant in ESTIMATORS.variants[2:]:
        stage = stage_of(ESTIMATORS, variant.folder)
        (route,) = stage.router.routes
        assert route.view == "teacher" and route.weights.source == "nano"
        shares = {type(source).__name__: share for share, source in stage.sources.parts}
        found.add((type(route.estimator), type(route.estimator.divergence), shares["FromStudent"]))
    assert found == {
        (kind, divergence, share)
        for kind in (FullVocabulary, Sampled)
        for divergence in (JSD, ReverseKL)
        for share in (0.5, 1.0)
    }


def test_vigos_rows_change_what_their_titles_say() -> None:
    whole = stage_of(VIGOS_PARTS, "vigos")
    names = [route.name for route in whole.router.routes]
    assert names == ["perception", "reasoning", "reference"]
    for folder, gone in (
        ("vigos_no_perception", "perception"),
        ("vigos_no_reasoning", "reasoning"),
        ("vigos_no_reference", "reference"),
    ):
        left = [route.name for route in stage_of(VIGOS_PARTS, folder).router.routes]
        assert left == [name for name in names if name != gone]
    for study, folder, cap in (
        (VIGOS_PARTS, "vigos_rescale", RescaleCap),
        (VIGOS_PARTS, "vigos_no_cap", NoCap),
        (PRIOR, "vigos_no_cap", NoCap),
        (PRIOR, "opsd_no_cap", NoCap),
    ):
        changed = stage_of(study, folder).router.routes
        assert {type(route.estimator.cap) for route in changed} == {cap}
        if study is VIGOS_PARTS:
            assert [route.name for route in changed] == names
    forward = stage_of(VIGOS_PARTS, "vigos_forward_reference").router.routes[-1]
    assert type(forward.estimator.divergence).__name__ == "ForwardKL" and forward.scale == 2.0
    assert stage_of(VIGOS_PARTS, "vigos_released").router.routes[1].append == "span_only"


def test_training_levels_of_the_prior_study_all_follow_the_prior(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(comparison, "NUM_TRAIN", 200)
    recipe = PRIOR.base_run(0)
    train = [e for e in examples_of(recipe, "train") if e.task != "maze"]
    test = [e for e in examples_of(recipe, "test") if e.task != "maze"]

    def shares(examples: list[Any]) -> set[Any]:
        return {get_task(e.task).follows_prior(get_task(e.task).parse_state(e.state)) for e in examples}  # pyright: ignore[reportAttributeAccessIssue]

    assert len(train) == 2 * recipe.num_train and shares(train) == {True}
    assert False in shares(test), "the measured levels are drawn as usual"


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    for module, name, value in (
        (comparison, "LEVELS", (("frozenlake", (3,)), ("minibehaviour", (5,)))),
        (comparison, "STAGE1_STEPS", 1),
        (comparison, "WITH_PLAN_STEPS", 1),
        (comparison, "STAGE2_STEPS", 2),
        (comparison, "NUM_TRAIN", 20),
        (comparison, "NUM_TEST", 3),
        (comparison, "NUM_VAL", 2),
        (comparison, "VALIDATE_EVERY", 1),
        (comparison, "MAX_NEW_TOKENS", 24),
        (study_tables, "bounds", partial(study_tables.bounds, num_resamples=100)),
        (study_extras, "NUM_PRIOR_PAIRS", 2),
        (study_extras, "NUM_PROBED", 2),
        (study_extras, "NUM_WRONG", 1),
    ):
        monkeypatch.setattr(module, name, value)


def test_runs_of_every_kind_end_in_the_tables(small: None, tmp_path: Path) -> None:
    for folder in ("stage1", "vigos", "gkd", "grpo", "visual_sft"):
        run_part(METHODS, tmp_path, 0, folder)
    write_tables(METHODS, tmp_path, (0,))
    cells = {line[0]: line for line in cost_table(METHODS, tmp_path, (0,)).rows}
    assert set(cells["OPSD"][1:]) == {"not run"} and "not run" not in cells["ViGOS, paper"]
    assert cells["SFT on reference answers"][7] == "-", "nobody teaches, so nothing leaks"
    assert cells["GKD"][7].startswith("100.0"), "its teacher reads words: nothing hangs on a picture"
    assert cells["ViGOS, paper"][7] == "-", "cut at 24 tokens, no answer is in the format"
    assert cells["GKD"][6] != "-" and cells["SFT on reference answers"][6] == "-"
    teacher = json.loads((run_folder(tmp_path, 0, "vigos") / "teacher.json").read_text())
    assert teacher["view"] == "student_with_plan" and set(teacher["success"]) == {
        "frozenlake",
        "minibehaviour",
    }
    page = (tmp_path / "methods.html").read_text()
    assert "<script" not in page and page.count('class="chart ways"') == 4
    assert 'aria-label="ViGOS, paper: 0 % after 96 rollouts"' in page, "two steps of 48"
    missing, ends = page.split('id="ends"')
    assert "<li>OPSD</li>" in missing and "<li>GKD</li>" not in missing
    assert ends.count('class="reach"') == 6, "base, stage 1 and the four that ran"
    prior = json.loads((run_folder(tmp_path, 0, "vigos") / "prior.json").read_text())
    assert prior["conditions"]["image"]["frozenlake"]["num_pairs"] == 2
    curve = [row["step"] for row in study_costs.curve_of(tmp_path, 0, METHODS.variant("ViGOS, paper"))]
    assert curve == [0, 1, 2]


def test_behind_the_second_base_run_a_method_begins_with_a_model_that_was_told_plans(
    small: None, tmp_path: Path
) -> None:
    run_part(VIGOS_PARTS, tmp_path, 0, "told")
    run_part(VIGOS_PARTS, tmp_path, 0, "opsd")
    base_run = json.loads((run_folder(tmp_path, 0, "told") / "summary.json").read_text())
    assert list(base_run["stages"]) == ["base", "stage1", "told"]
    settings = json.loads((run_folder(tmp_path, 0, "told") / "config.json").read_text())
    assert settings["recipe"]["stages"][1]["image_view"] == "student_with_plan"
    branch = json.loads((run_folder(tmp_path, 0, "opsd") / "config.json").read_text())
    assert branch["recipe"]["backbone"].endswith("told/told/model")
    assert "before distilling" in write_tables(VIGOS_PARTS, tmp_path, (0,))


def test_the_goal_is_reached_where_validation_first_is_there() -> None:
    curve = [
        {"step": s, "train_s": 10.0 * s, "macro": m} for s, m in ((0, 0.1), (20, 0.5), (40, 0.4), (60, 0.9))
    ]
    assert study_costs._reached(curve, 0.45) == (20, 200.0)
    assert study_costs._reached(curve, 0.95) is None
    assert study_costs._at(curve, 100.0) == pytest.approx(0.3)
    assert study_costs._spread([1.0, 3.0], "{:.0f}") == "2 (1 to 3)"
    assert study_costs._spread([1.0, 1.0], "{:.0f}") == "1"
    assert study_costs._spread([1.0, None, 4.0], "{:.0f}") == "2 of 3 seeds: 1 to 4"
    assert study_costs._spread([None, None], "{:.0f}") == "-"


def write_run(folder: Path, successes: Any) -> None:
    """A measured run of two levels a task: condition -> success of each."""
    for condition in ("image", "text", "perception"):
        path = rows_path(folder, "stage2", condition)
        path.parent.mkdir(parents=True, exist_ok=True)
        rows = [
            {"task": task, "id": str(i), "condition": condition, "outcome": {"success": successes(task, i)}}
            for task in ("frozenlake", "maze", "minibehaviour")
            for i in (0, 1)
        ]
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "summary.json").write_text(json.dumps({"stages": {"stage2": {"tasks": {}}}}))


def test_a_switch_is_worth_what_it_changes_with_the_others_held_still(tmp_path: Path) -> None:
    folders = {folder for pairs in ESTIMATOR_SWITCHES.values() for pair in pairs for folder in pair}
    assert len(folders) == 8
    for pairs in ESTIMATOR_SWITCHES.values():
        assert len(pairs) == 4
        for on, off in pairs:
            assert sum(a != b for a, b in zip(on.split("_"), off.split("_"), strict=True)) == 1
    for folder in folders:
        # The vocabulary is worth one level of two, and half the rows one of six.
        write_run(
            run_folder(tmp_path, 0, folder),
            lambda task, i, name=folder: (
                name.startswith("full") if i else name.endswith("_50") and task == "maze"
            ),
        )
    lines = {line[0]: line[1] for line in switch_table(ESTIMATOR_SWITCHES, ESTIMATORS, tmp_path, (0,)).rows}
    assert [cell.split(" ")[0] for cell in lines.values()] == ["+50.0", "+0.0", "+16.7"]
    (run_folder(tmp_path, 0, "full_jsd_50") / "summary.json").unlink()
    lines = switch_table(ESTIMATOR_SWITCHES, ESTIMATORS, tmp_path, (0,)).rows
    assert {cell for line in lines for cell in line[1:]} == {"not run"}


def write_probe(folder: Path, won: Any) -> None:
    """Answers to two pairs of levels a task, of which `won` says which succeed: (task, holds, pair) -> bool."""
    rows = []
    for task, (holds, reversed_) in PROBED.items():
        for is_holding, states in ((True, holds), (False, reversed_)):
            for pair, state in enumerate(states):
                rows.append(
                    {
                        "id": f"{task}-{is_holding}-{pair}",
                        "condition": "image",
                        "task": task,
                        "level": 3,
                        "optimal_length": pair,
                        "state": state,
                        "outcome": {"success": won(task, is_holding, pair)},
                    }
                )
    path = rows_path(folder / "probe", "stage2", "image")
    path.parent.mkdir(parents=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


LOWER_RIGHT, UPPER_LEFT = {"map": ["SFF", "FFF", "FFG"]}, {"map": ["GFF", "FFF", "FFS"]}
PROBED = {"frozenlake": ([LOWER_RIGHT] * 2, [UPPER_LEFT] * 2)}


def test_who_leans_on_the_prior_is_compared_pair_by_pair(tmp_path: Path) -> None:
    for seed in (0, 1):
        write_probe(run_folder(tmp_path, seed, "opsd"), lambda task, holds, pair: holds)
        write_probe(run_folder(tmp_path, seed, "vigos"), lambda task, holds, pair: holds or pair == 0)
    lines = {line[0]: line[1:] for line in prior_table(PRIOR, tmp_path, (0, 1)).rows}
    assert lines["OPSD"][2].startswith("+100.0 (") and lines["OPSD"][3] == ""
    assert lines["ViGOS, paper"][0].startswith("100.0 (") and lines["ViGOS, paper"][1].startswith("50.0 (")
    assert lines["ViGOS, paper"][2].startswith("+50.0 (") and lines["ViGOS, paper"][3].startswith("-50.0 (")
    assert lines["MGSD, full vocabulary"] == ["not run"] * 4
    assert "before distilling" not in lines, "it was not probed here"

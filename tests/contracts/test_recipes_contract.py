"""What every registered recipe's distillation keeps, on a random tiny model: one contract for all of them."""

from __future__ import annotations

import math
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from distill_run import rows_of, tiny_examples
from pilotage.backbones.load import Backbone, LoraSettings, with_lora
from pilotage.distill.divergences import NoCap
from pilotage.distill.policy_gradient import PolicyGradient
from pilotage.distill.routes import Route, times_taught
from pilotage.recipes import RECIPES
from pilotage.records import Rollout
from pilotage.rollouts import ReplayEngine
from pilotage.rollouts.engine import Engine
from pilotage.rollouts.sources import FromStudent, only
from pilotage.train.distill import DistillTrainer, distill
from pilotage.train.distill_config import DistillConfig, FrozenCopy
from pilotage.train.step.teacher_models import TeacherModel
from pilotage.views import reference_of_view
from tiny import tiny_backbone, written

LORA = LoraSettings(rank=2, alpha=4)


def last_stage(name: str) -> DistillConfig | None:
    stage = RECIPES[name](0, backbone="nano").stages[-1]
    return stage if isinstance(stage, DistillConfig) else None


DISTILLING = [name for name in RECIPES if last_stage(name) is not None]
every_recipe = pytest.mark.parametrize("name", DISTILLING)


pytestmark = pytest.mark.usefixtures("one_thread")


def tiny(name: str, **changes: Any) -> DistillConfig:
    """The recipe's last stage, everything that is size cut down."""
    stage = last_stage(name)
    assert stage is not None
    small: dict[str, Any] = {
        "steps": 1,
        "prompts_per_step": 4,
        "micro_batch_size": 4,
        "max_new_tokens": 120 if "dataset" in stage.sources.origins else 6,
        "max_prompt_tokens": None,
        "prompts": "brief",
        "lr": 1e-2,
        "warmup_share": 0.0,
        "bf16": False,
        "pixel_noise": 0.0,
        "gradient_checkpointing": False,
        "lora": stage.lora and LORA,
        "checkpoint_every": 1,
        "rollouts_every": 0,
    }
    return replace(stage, **(small | changes))


def with_routes(config: DistillConfig, change: Any) -> DistillConfig:
    """The configuration with every route changed."""
    router = replace(config.router, routes=tuple(map(change, config.router.routes)))
    return replace(config, router=router, description=config.description and change(config.description))


def as_the_student(config: DistillConfig) -> DistillConfig:
    """The configuration whose teachers see and know what the student does; nothing is capped."""

    def change(route: Route) -> Route:
        view = "perception" if route is config.description else config.student_view
        estimator: Any = route.estimator
        if not isinstance(estimator, PolicyGradient):
            estimator = replace(estimator, cap=NoCap())
        return replace(route, view=view, append="full", estimator=estimator)

    return with_routes(config, change)


def of(config: DistillConfig) -> list[str]:
    return [route.name for route in config.routes]


def given_teacher(config: DistillConfig, seed: int = 0) -> Backbone | None:
    """One random model for whatever frozen copy a recipe asks for: with seed 0 the student's own weights."""
    frozen = any(isinstance(weights, FrozenCopy) for weights in config.all_weights)
    return tiny_backbone(seed) if frozen else None


def run(
    config: DistillConfig,
    run_dir: Path,
    on_step: Any = None,
    engine: Engine | None = None,
    teacher_seed: int = 0,
) -> list[dict[str, Any]]:
    distill(
        config,
        student=tiny_backbone(),
        teacher=given_teacher(config, teacher_seed),
        examples=tiny_examples(),
        run_dir=run_dir,
        engine=engine,
        on_step=on_step,
    )
    return rows_of(run_dir)


def trainer_of(config: DistillConfig, run_dir: Path) -> DistillTrainer:
    student = tiny_backbone()
    return DistillTrainer(
        config,
        student=student if config.lora is None else with_lora(student, config.lora),
        teacher=given_teacher(config),
        examples=tiny_examples(),
        run_dir=run_dir,
    )


def whole_and_broken_answers() -> list[Rollout]:
    """The reference answers; every other one of a task is cut before its plan."""
    backbone = tiny_backbone()
    return [
        written(
            backbone,
            example.id,
            reference_of_view(example, "student"),
            keep=None if number % 2 else 12,
            finished=bool(number % 2),
        )
        for number, example in enumerate(tiny_examples())
    ]


def right_and_wrong_answers() -> ReplayEngine:
    """Of each example in turn its reference answer and one that is no plan."""
    backbone = tiny_backbone()
    return ReplayEngine(
        (
            written(backbone, example.id, text)
            for example in tiny_examples()
            for text in (reference_of_view(example, "student"), "no plan")
        ),
        off_policy=True,
    )


@every_recipe
def test_one_step_runs_and_micro_batches_change_nothing(name, tmp_path):
    config = tiny(name)
    # A random model's answers are all equally wrong: a reward has nothing to tell apart.
    engine = None if config.mix is None or not config.mix.reward else right_and_wrong_answers()
    # Another model than the student: one that sees the same and is the same teaches but rounding.
    taught = {"engine": engine, "teacher_seed": 1}
    (together,) = run(config, tmp_path / "together", **taught)
    (apart,) = run(replace(config, micro_batch_size=1), tmp_path / "apart", **taught)
    assert math.isfinite(together["loss"])
    # ViGOS and OPSD drop what is far above their caps, which at random weights may be every token.
    capped = together["loss/cap_rate"] == 1.0
    assert (together["grad_norm"] > 0) or capped or "control" in name
    numbers = {key: value for key, value in together.items() if key not in ("stage", "lr")}
    assert {key: apart[key] for key in numbers} == pytest.approx(numbers, rel=2e-4, abs=2e-6)


@every_recipe
def test_teachers_that_see_and_know_what_the_student_does_give_no_gradient(name, tmp_path):
    config = tiny(name)
    if not any(route.has_teacher for route in config.routes):
        pytest.skip("no teacher: tests/train/test_grpo_stage.py has what teaches nothing here")
    (row,) = run(as_the_student(config), tmp_path)
    assert row["grad_norm"] < 1e-4
    assert abs(row["kl/all"]) < 1e-5


@every_recipe
def test_every_route_teaches_whole_and_broken_answers_without_gradient_at_equality(name, tmp_path):
    # A turn for each task to plan and to describe: three fifths and two fifths of ten prompts.
    config = tiny(name, max_new_tokens=120, prompts_per_step=10)
    own = [source for source in config.sources.sources if isinstance(source, FromStudent)]
    config = replace(config, sources=only(own[0]))
    # Answers that were given have no log-probabilities for a policy gradient.
    if any(isinstance(route.estimator, PolicyGradient) for route in config.routes):
        pytest.skip("a policy gradient needs fresh samples; test_one_step_runs has them")

    def uncapped(route: Route) -> Route:
        estimator: Any = route.estimator
        return replace(route, estimator=replace(estimator, cap=NoCap()))

    engine = ReplayEngine(whole_and_broken_answers(), off_policy=True)
    (row,) = run(with_routes(config, uncapped), tmp_path / "taught", engine=engine, teacher_seed=1)
    assert all(row[f"route/{route.name}/tokens"] > 0 for route in config.routes), row
    assert row["route/untaught"] < 1
    assert (row["grad_norm"] > 0) or "control" in name
    one_by_one = with_routes(replace(config, micro_batch_size=1), uncapped)
    (apart,) = run(one_by_one, tmp_path / "apart", engine=engine, teacher_seed=1)
    assert apart["loss"] == pytest.approx(row["loss"], rel=2e-4, abs=2e-6)
    assert apart["grad_norm"] == pytest.approx(row["grad_norm"], rel=2e-4, abs=2e-6)
    (equal,) = run(as_the_student(config), tmp_path / "equal", engine=engine)
    assert equal["grad_norm"] < 1e-4
    assert {route: equal[f"route/{route}/kl"] for route in of(config)} == pytest.approx(
        dict.fromkeys(of(config), 0.0), abs=1e-5
    )


@every_recipe
def test_the_student_s_own_view_and_weights_give_the_rollouts_own_log_probs(name, tmp_path):
    config = tiny(name)
    trainer = trainer_of(config, tmp_path)
    rows = trainer._sample(0)
    sources = [source for source in config.sources.sources if isinstance(source, FromStudent)]
    assert any(row.source in sources for row in rows)
    for source in sources:
        places = [place for place, row in enumerate(rows) if row.source == source]
        now = trainer.scorer.student_logprobs(
            TeacherModel(trainer.student), rows, places, "same", source.sampling.temperature
        )
        for place, now_T in zip(places, now, strict=True):
            assert now_T == pytest.approx(rows[place].rollout.logprobs, abs=2e-4)


@every_recipe
def test_no_token_is_taught_twice_and_ranks_share_one_mean(name, tmp_path):
    config = tiny(name)
    trainer = trainer_of(config, tmp_path)
    rows = trainer._sample(1)
    facts = [trainer.router.facts(row, {}) for row in rows]
    whole = trainer.router.route(rows, facts, lambda values: values)
    for times_T in times_taught(whole.routed):
        assert times_T.max(initial=0) <= 1
    for row, known, *of_routes in zip(rows, facts, *whole.routed.values(), strict=True):
        taught = {n for n, routed in zip(whole.routed, of_routes, strict=True) if routed.num_tokens}
        allowed = {r.name for r in trainer.router.router_of(row).routes if r.reads(known.spans, row.origin)}
        assert taught <= allowed
    # Two ranks: each counts its own rows, and divides by the sum.
    half = len(rows) // 2
    parts, counted = (slice(0, half), slice(half, None)), []
    for part in parts:
        trainer.router.route(rows[part], facts[part], lambda values: counted.append(values) or values)
    ranks = [
        trainer.router.route(rows[part], facts[part], lambda _: torch.stack(counted).sum(0)) for part in parts
    ]
    for route, weights in whole.row_weights.items():
        together = [weight for rank in ranks for weight in rank.row_weights[route]]
        assert np.allclose(together, weights, rtol=1e-12)


@pytest.mark.slow
@every_recipe
def test_a_stopped_run_goes_on_bit_for_bit(name, tmp_path):
    config = tiny(name, steps=3)

    class Stopped(Exception):
        pass

    def stop(row: dict[str, Any]) -> None:
        if row["step"] == 2:
            raise Stopped

    whole = run(config, tmp_path / "whole")
    with pytest.raises(Stopped):
        run(config, tmp_path / "stopped", stop)
    assert run(config, tmp_path / "stopped") == whole


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_names_its_source_and_its_departures(name):
    text = RECIPES[name].__doc__ or ""
    assert text.splitlines()[0].strip()
    recipe = RECIPES[name](3, backbone="somewhere")
    assert recipe.seed == 3 and all(stage.seed == 3 for stage in recipe.stages)
    assert recipe.backbone == "somewhere"
    assert "eparture" in text


@pytest.mark.parametrize("name", RECIPES)
def test_what_a_recipe_is_measured_on_is_known_without_it(name: str) -> None:
    recipe = RECIPES[name](3, backbone="nano")
    measurement = RECIPES.measurement(name, 3)
    assert {field.name: getattr(recipe, field.name) for field in fields(measurement)} == vars(measurement)

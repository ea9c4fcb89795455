"""The methods side by side on the nano model: one first stage, one budget of rollouts, the same test states.

Two studies share their base run, so that in one folder the first stage is trained once per seed: all methods, and
{full vocabulary, sampled} x {JSD 0.5, reverse KL} x {all rows the student's, half of them the data set's}.

After that first stage the model describes pictures, and a plan that it is told beside a picture changes nothing of
what it writes: a teacher that sees picture and plan then has nothing to teach. The other two studies, ViGOS without
one of its parts and the leaning on a prior, therefore begin behind a second base run, in which the model also learns
to follow a plan that it is told beside a picture.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from pilotage.distill.divergences import JSD, Cap, Divergence, ForwardKL, NoCap, RescaleCap, ReverseKL
from pilotage.distill.estimators import Estimator, FullVocabulary, Sampled
from pilotage.distill.routes import Route
from pilotage.recipes.methods import gkd_stage, with_teacher
from pilotage.recipes.nano import nano_mgsd
from pilotage.recipes.nano_methods import (
    nano_control_no_privilege,
    nano_dense_rl,
    nano_gkd,
    nano_grpo,
    nano_opsd,
    nano_opsd_v1,
    nano_vigos,
    nano_vigos_released,
    nano_visual_sft,
)
from pilotage.runs.recipe import BASE_STAGE, Recipe
from pilotage.studies.costs import cost_table
from pilotage.studies.extras import measure_leak, measure_prior, measure_teacher
from pilotage.studies.prior import prior_table
from pilotage.studies.study import Study, Variant
from pilotage.studies.switches import switch_table
from pilotage.train.distill_config import DistillConfig, FrozenCopy
from pilotage.train.sft import SftConfig

BASE_RUN, WITH_PLAN = "stage1", "told"
"""Folder, and last stage, that variants begin with."""
LEVELS = (("frozenlake", (5, 6)), ("maze", (5,)), ("minibehaviour", (5, 6)))
STAGE1_STEPS, STAGE2_STEPS = 200, 40
"""Less than the demo has, on its hardest levels and beyond: methods are told apart by what is left to learn."""
WITH_PLAN_STEPS = 20
NUM_TRAIN, NUM_TEST, NUM_VAL, VALIDATE_EVERY = 3000, 150, 30, 5
MAX_NEW_TOKENS = 176
"""The longest reference answer at these levels, a maze of 5 x 5, has under 150 tokens."""

Method = Callable[[int], Recipe]
"""Seed -> a recipe of two stages on the nano model."""


def _sized(whole: Recipe, *, train_prior: bool) -> Recipe:
    """A recipe at this comparison's levels and budget."""
    first, second = whole.stages
    assert isinstance(first, SftConfig)
    if isinstance(second, DistillConfig):
        share = min(second.warmup_steps, STAGE2_STEPS) / STAGE2_STEPS
        second = replace(second, max_new_tokens=MAX_NEW_TOKENS, warmup_share=share)
    second = replace(second, steps=STAGE2_STEPS)
    return replace(
        whole,
        levels=LEVELS,
        num_train=NUM_TRAIN,
        num_test=NUM_TEST,
        num_val=NUM_VAL,
        max_new_tokens=MAX_NEW_TOKENS,
        train_prior=train_prior,
        stages=(replace(first, steps=STAGE1_STEPS), second),
    )


def _base_run(seed: int) -> Recipe:
    whole = _sized(nano_mgsd(seed), train_prior=False)
    return replace(whole, name="comparison", stages=whole.stages[:1])


def _base_run_with_plan(seed: int, *, train_prior: bool = False) -> Recipe:
    """The first stage, and a short one of pictures with the plan beside them, answered in full."""
    whole = _sized(nano_mgsd(seed), train_prior=train_prior)
    first = whole.stages[0]
    assert isinstance(first, SftConfig)
    with_plan = replace(first, stage=WITH_PLAN, image_view="student_with_plan", steps=WITH_PLAN_STEPS)
    return replace(whole, name="comparison_told", stages=(first, with_plan))


def _branch(
    method: Method, seed: int, base_run: Path, *, after: str = BASE_RUN, train_prior: bool = False
) -> Recipe:
    """The method's second stage, from the base run's model; teachers keep the weights that the method gives them."""
    whole = _sized(method(seed), train_prior=train_prior)
    return replace(
        whole,
        backbone=str(base_run / after / "model"),
        stages=whole.stages[1:],
        measure_base=False,
        validate_every=VALIDATE_EVERY,
    )


def _variant(
    title: str, folder: str, method: Method, *, after: str = BASE_RUN, train_prior: bool = False
) -> Variant:
    stage = method(0).stages[1].stage
    make = partial(_branch, method, after=after, train_prior=train_prior)
    return Variant(title=title, folder=folder, stage=stage, make=make)


_variant_with_plan = partial(_variant, after=WITH_PLAN)


def _with_stage2(whole: Method, change: Callable[[DistillConfig], DistillConfig]) -> Method:
    """A nano method with another second stage."""

    def method(seed: int) -> Recipe:
        recipe = whole(seed)
        second = recipe.stages[1]
        assert isinstance(second, DistillConfig)
        return replace(recipe, stages=(recipe.stages[0], change(second)))

    return method


def _mgsd(estimator: Estimator) -> Method:
    return _with_stage2(nano_mgsd, lambda stage: with_teacher(stage, estimator=estimator))


SHARED = (
    Variant(title="base", folder=BASE_RUN, stage=BASE_STAGE, make=None),
    Variant(title="stage 1 alone", folder=BASE_RUN, stage=BASE_RUN, make=None),
)
SHARED_WITH_PLAN = (
    Variant(title="base", folder=WITH_PLAN, stage=BASE_STAGE, make=None),
    Variant(title="stage 1 alone", folder=WITH_PLAN, stage=BASE_RUN, make=None),
    Variant(title="before distilling", folder=WITH_PLAN, stage=WITH_PLAN, make=None),
)


MGSD_FULL = "MGSD, full vocabulary"

METHODS = Study(
    name="methods",
    title="every method after the same first stage, at one budget of rollouts",
    base_run=_base_run,
    base_run_folder=BASE_RUN,
    variants=(
        *SHARED,
        _variant("MGSD, as released (sampled)", "mgsd", _mgsd(Sampled(as_="advantage"))),
        _variant(MGSD_FULL, "mgsd_full", _mgsd(FullVocabulary(divergence=ReverseKL()))),
        _variant("MGSD, forward KL", "mgsd_forward", _mgsd(FullVocabulary(divergence=ForwardKL()))),
        _variant("ViGOS, paper", "vigos", nano_vigos),
        _variant("ViGOS, released", "vigos_released", nano_vigos_released),
        _variant("OPSD", "opsd", nano_opsd),
        _variant("OPSD, version 1", "opsd_v1", nano_opsd_v1),
        _variant("GKD", "gkd", nano_gkd),
        _variant("dense-feedback RL", "dense_rl", nano_dense_rl),
        _variant("GRPO", "grpo", nano_grpo),
        _variant("SFT on reference answers", "visual_sft", nano_visual_sft),
        _variant("control without privilege", "control", nano_control_no_privilege),
    ),
    reference=MGSD_FULL,
    extras=(measure_prior, measure_leak, measure_teacher),
    tables=(cost_table, prior_table),
)


def _estimator_variant(sampled: bool, divergence: Divergence, on_policy: float) -> Variant:
    estimator: Estimator = FullVocabulary(divergence=divergence)
    if sampled:
        estimator = Sampled(as_="advantage", divergence=divergence)
    kind = "jsd" if isinstance(divergence, JSD) else "reverse"
    folder = f"{'sampled' if sampled else 'full'}_{kind}_{int(100 * on_policy)}"

    def stage(mgsd: DistillConfig) -> DistillConfig:
        return gkd_stage(
            mgsd,
            weights=FrozenCopy(source="nano"),
            view="teacher",
            on_policy=on_policy,
            estimator=estimator,
        )

    how = "sampled token" if sampled else "full vocabulary"
    title = f"{how}, {'JSD 0.5' if kind == 'jsd' else 'reverse KL'}, lambda {on_policy:g}"
    return _variant(title, folder, _with_stage2(nano_mgsd, stage))


_ESTIMATORS = tuple(
    _estimator_variant(sampled, divergence, on_policy)
    for sampled in (False, True)
    for divergence in (JSD(beta=0.5), ReverseKL())
    for on_policy in (1.0, 0.5)
)

_ESTIMATOR_FOLDERS = [variant.folder for variant in _ESTIMATORS]
ESTIMATOR_SWITCHES = {
    what: [(folder, folder.replace(on, off)) for folder in _ESTIMATOR_FOLDERS if on in folder]
    for what, on, off in (
        ("full vocabulary, not the sampled token", "full", "sampled"),
        ("JSD 0.5, not reverse KL", "jsd", "reverse"),
        ("half of the rows the data set's, not none", "_50", "_100"),
    )
}

ESTIMATORS = Study(
    name="estimators",
    title="full vocabulary or the sampled token, JSD or reverse KL, all rows the student's or half of them",
    base_run=_base_run,
    base_run_folder=BASE_RUN,
    variants=(*SHARED, *_ESTIMATORS),
    reference=next(v.title for v in _ESTIMATORS if v.folder == "sampled_reverse_100"),
    tables=(partial(switch_table, ESTIMATOR_SWITCHES), cost_table),
)


def _with_routes(whole: Method, change: Callable[[tuple[Route, ...]], tuple[Route, ...]]) -> Method:
    """A nano method with other routes."""

    return _with_stage2(whole, lambda stage: rerouted(stage, change))


def rerouted(stage: DistillConfig, change: Callable[[tuple[Route, ...]], tuple[Route, ...]]) -> DistillConfig:
    """A stage of several routes with others in their place."""
    return replace(stage, router=replace(stage.router, routes=change(stage.router.routes)))


def _without(name: str) -> Method:
    return _with_routes(nano_vigos, lambda routes: tuple(route for route in routes if route.name != name))


def _with_cap(whole: Method, cap: Cap) -> Method:
    return _with_routes(whole, partial(capped, cap=cap))


def capped(routes: tuple[Route, ...], *, cap: Cap) -> tuple[Route, ...]:
    """The routes with another cap on their estimators."""
    return tuple(_estimated(route, cap=cap) for route in routes)


def _forward_reference(routes: tuple[Route, ...]) -> tuple[Route, ...]:
    return tuple(
        _estimated(route, divergence=ForwardKL()) if route.name == "reference" else route for route in routes
    )


def _estimated(route: Route, **changes: Any) -> Route:
    estimator: Any = route.estimator  # each here is a dataclass
    return replace(route, estimator=replace(estimator, **changes))


VIGOS_PARTS = Study(
    name="vigos",
    title="ViGOS without one of its parts, or with another",
    base_run=_base_run_with_plan,
    base_run_folder=WITH_PLAN,
    variants=(
        *SHARED_WITH_PLAN,
        _variant_with_plan("ViGOS, paper", "vigos", nano_vigos),
        _variant_with_plan("no perception teacher", "vigos_no_perception", _without("perception")),
        _variant_with_plan("no reasoning teacher", "vigos_no_reasoning", _without("reasoning")),
        _variant_with_plan(
            "reference by forward KL", "vigos_forward_reference", _with_routes(nano_vigos, _forward_reference)
        ),
        _variant_with_plan("no reference teacher", "vigos_no_reference", _without("reference")),
        _variant_with_plan("reasoning shown its span only", "vigos_released", nano_vigos_released),
        _variant_with_plan("cap: rescale", "vigos_rescale", _with_cap(nano_vigos, RescaleCap(tau=0.05))),
        _variant_with_plan("cap: none", "vigos_no_cap", _with_cap(nano_vigos, NoCap())),
        _variant_with_plan("OPSD", "opsd", nano_opsd),
        _variant_with_plan(MGSD_FULL, "mgsd_full", _mgsd(FullVocabulary(divergence=ReverseKL()))),
    ),
    reference="ViGOS, paper",
    extras=(measure_leak, measure_teacher),
    tables=(cost_table,),
)

PRIOR = Study(
    name="prior",
    title="trained on levels that follow their task's prior alone: who leans on it?",
    base_run=partial(_base_run_with_plan, train_prior=True),
    base_run_folder=WITH_PLAN,
    variants=(
        *SHARED_WITH_PLAN,
        _variant_with_plan("OPSD", "opsd", nano_opsd, train_prior=True),
        _variant_with_plan("ViGOS, paper", "vigos", nano_vigos, train_prior=True),
        _variant_with_plan("OPSD, cap: none", "opsd_no_cap", _with_cap(nano_opsd, NoCap()), train_prior=True),
        _variant_with_plan(
            "ViGOS, cap: none", "vigos_no_cap", _with_cap(nano_vigos, NoCap()), train_prior=True
        ),
        _variant_with_plan(
            MGSD_FULL, "mgsd_full", _mgsd(FullVocabulary(divergence=ReverseKL())), train_prior=True
        ),
    ),
    reference="OPSD",
    extras=(measure_prior, measure_leak, measure_teacher),
    tables=(cost_table, prior_table),
)

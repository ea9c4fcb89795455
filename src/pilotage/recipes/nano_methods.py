"""Every method on the nano model, after the same first stage and with the same number of rollouts as `nano_mgsd`.

The paper forms are in `pilotage.recipes.neighbours`; the methods themselves in `pilotage.recipes.methods`. What most
of them have in common stands at `nano_vigos`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from pilotage.distill.divergences import ForwardKL
from pilotage.distill.estimators import FullVocabulary
from pilotage.recipes.methods import (
    answers_stage,
    dense_rl_stage,
    gkd_stage,
    grpo_stage,
    opsd_stage,
    two_stages,
    vigos_stage,
    with_teacher,
)
from pilotage.recipes.nano import nano_mgsd
from pilotage.runs.recipe import Form, QuestionForm, Recipe
from pilotage.train.distill_config import DistillConfig, FrozenCopy


def nano_vigos(seed: int = 0, *, backbone: str = "nano") -> Recipe:
    """ViGOS (arXiv 2606.19120), paper form, on the nano model.

    Departures that methods on nano share, for the model's size: budget, rate and schedule of the recipe `nano`; all
    parameters train, so the initial weights are a frozen copy in place of an adapter that is off; and two fifths of
    the prompts ask for descriptions, which a copy of the first stage's model judges from the picture where the method
    has no teacher of words. Of ViGOS alone: the perception teacher reads the student's own prompt, which says nothing
    of the example, because the nano model has never seen a picture without words.
    """
    return _nano_vigos("nano_vigos", seed, backbone, form="paper")


def nano_vigos_released(seed: int = 0, *, backbone: str = "nano") -> Recipe:
    """ViGOS as its released code does it, on the nano model; departures as in `nano_vigos`."""
    return _nano_vigos("nano_vigos_released", seed, backbone, form="released")


def _nano_vigos(name: str, seed: int, backbone: str, *, form: Form) -> Recipe:
    def method(stage: DistillConfig) -> DistillConfig:
        taught = _taught_by_itself(stage)
        return vigos_stage(taught, form=form, weights=FrozenCopy(), perception_view="student")

    return _nano(name, seed, backbone, method, questions=form)


def nano_opsd(seed: int = 0, *, backbone: str = "nano") -> Recipe:
    """OPSD (arXiv 2601.18734), version 3, on the nano model.

    Departures: those that methods on nano share (`nano_vigos`); the reference plan is the solution.
    """
    return _nano(
        "nano_opsd",
        seed,
        backbone,
        lambda stage: opsd_stage(_taught_by_itself(stage), version=3, weights=FrozenCopy()),
        questions="solution",
    )


def nano_opsd_v1(seed: int = 0, *, backbone: str = "nano") -> Recipe:
    """OPSD's earlier code (JSD 0.5) on the nano model; departures as in `nano_opsd`."""
    return _nano(
        "nano_opsd_v1",
        seed,
        backbone,
        lambda stage: opsd_stage(_taught_by_itself(stage), version=1, weights=FrozenCopy()),
    )


def nano_gkd(seed: int = 0, *, backbone: str = "nano") -> Recipe:
    """GKD (arXiv 2306.13649) on the nano model: JSD 0.5, half the rows from the data set.

    Departures: those that methods on nano share (`nano_vigos`); and there is no larger nano model, so the teacher is
    MGSD's, the base that reads state and plan.
    """
    return _nano(
        "nano_gkd",
        seed,
        backbone,
        lambda stage: gkd_stage(stage, weights=FrozenCopy(source=backbone), view="teacher"),
    )


def nano_dense_rl(seed: int = 0, *, backbone: str = "nano") -> Recipe:
    """Dense-feedback RL (the baseline of arXiv 2604.07944) on nano; teacher and departures as in `nano_gkd`."""
    return _nano(
        "nano_dense_rl",
        seed,
        backbone,
        lambda stage: dense_rl_stage(stage, weights=FrozenCopy(source=backbone), view="teacher"),
    )


def nano_visual_sft(seed: int = 0, *, backbone: str = "nano") -> Recipe:
    """Supervised fine-tuning on reference answers, after stage 1, on as many pictures as MGSD has rollouts.

    All else is as in `nano`, departures included.
    """
    whole = nano_mgsd(seed, backbone=backbone)
    stage1, stage2 = two_stages(whole)
    answers = replace(answers_stage(stage1, stage2), lr=stage2.lr)
    return replace(whole, name="nano_visual_sft", questions="reference", stages=(stage1, answers))


def nano_grpo(seed: int = 0, *, backbone: str = "nano") -> Recipe:
    """GRPO (arXiv 2402.03300) after stage 1, with MGSD's number of rollouts: 12 groups of 4 in a step.

    Departures besides those of `nano`: no prompt asks for a description, since nothing judges one, and the rate is a
    fifth of MGSD's, because a group's verdicts are a far noisier signal than a teacher's distributions.
    """
    whole = nano_mgsd(seed, backbone=backbone)
    stage1, stage2 = two_stages(whole)
    samples = 4
    begun = replace(
        stage2,
        prompts_per_step=stage2.prompts_per_step // samples,
        lr=stage2.lr / 5,
        schedule="cosine",
        # The update reads the pixels that sampling read, or ratios would tell of noise.
        pixel_noise=0.0,
    )
    stage = grpo_stage(begun, num_samples=samples, format_reward=0.1)
    return replace(whole, name="nano_grpo", questions="reward", stages=(stage1, stage))


def nano_control_no_privilege(seed: int = 0, *, backbone: str = "nano") -> Recipe:
    """Nano MGSD whose teacher, the base, sees what the student sees; it must not help.

    All else is as in `nano`, departures included.
    """
    return _nano(
        "nano_control_no_privilege", seed, backbone, lambda stage: with_teacher(stage, view="student")
    )


def _nano(
    name: str,
    seed: int,
    backbone: str,
    method: Callable[[DistillConfig], DistillConfig],
    *,
    questions: QuestionForm | None = None,
) -> Recipe:
    whole = nano_mgsd(seed, backbone=backbone)
    stage1, stage2 = two_stages(whole)
    return replace(whole, name=name, questions=questions, stages=(stage1, method(stage2)))


def _taught_by_itself(stage: DistillConfig) -> DistillConfig:
    """The stage with the first stage's model, looking at the picture, as the only teacher: the methods build on it."""
    forward = FullVocabulary(divergence=ForwardKL())
    return with_teacher(stage, view="student", weights=FrozenCopy(), estimator=forward)

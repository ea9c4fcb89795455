"""Whose episodes teach, and by whom? Grid worlds played move by move, on the nano model after its second stage.

All arms branch off the same model, have the same number of optimiser steps and of taught answers a step, about, and
differ in whose states they are taught on and by what. Where nothing else is said, the frozen base teaches, which reads
this turn's state in words and the expert's plan from it, by forward KL over the whole vocabulary.

    start             the states that episodes begin with
    expert            states along the expert's episodes
    own               states along the student's own episodes
    start_reference, cloning, own_dagger: the same states, taught on the reference answers from them
    tcod, tcod_back   own, with a horizon that grows from the front, from the back (arXiv 2604.24005)
    guided            teacher and student take turns (arXiv 2606.15912)
    expert_ever_less  the expert moves ever less, the student writes every answer
    sdar, grpo        rewards by group, with gated distillation beside them (arXiv 2605.15155) and without

A teacher may be another: see `TEACHERS`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from pilotage.distill.estimators import Sampled
from pilotage.distill.routes import Route
from pilotage.recipes.methods import grpo_stage, guided_stage, routed_stage, sdar_stage, with_teacher
from pilotage.recipes.nano import nano_mgsd
from pilotage.runs.recipe import Recipe
from pilotage.train.distill_config import DistillConfig, FrozenCopy
from pilotage.train.sft_config import SftConfig
from pilotage.train.step.moves import ExpertMoves, GrowingEnd, GuidedMoves
from pilotage.train.step.turns import GrowingHorizon, OwnTurns, SomeTurns

STEPS = 48
ROWS = 48
"""Answers that are taught in a step, about: where episodes are short there are fewer."""
TURNS = 4
"""Of an episode, at most."""
GROUP = 4
"""Episodes from one start, where they are rewarded against each other."""
HORIZON = 8
"""Turns that the curricula end with."""
SEEING_STEPS = 300
STAGE = "steps"


@dataclass(frozen=True, kw_only=True)
class Teacher:
    """Who reads: a view, and the model whose frozen copy reads it."""

    view: str
    source: str


TEACHERS: Mapping[str, str] = {
    "this_turn": "teacher",
    "stale_plan": "teacher_stale_plan",
    "at_start": "teacher_at_start",
    "same_view": "student",
}
"""Teacher -> its view. All read with the base's weights but `same_view`, a model that has been trained longer to plan
from the same pictures and sees nothing else: there is no larger nano."""

Arm = Callable[[DistillConfig, Teacher], DistillConfig]


def _start(stage: DistillConfig, teacher: Teacher) -> DistillConfig:
    return replace(stage, prompts_per_step=ROWS, max_turns=1)


def _expert(stage: DistillConfig, teacher: Teacher) -> DistillConfig:
    return replace(stage, moves=ExpertMoves())


def _own(stage: DistillConfig, teacher: Teacher) -> DistillConfig:
    return stage


def _tcod(stage: DistillConfig, teacher: Teacher) -> DistillConfig:
    return replace(stage, turns=GrowingHorizon(rate=HORIZON / stage.steps, most=HORIZON))


def _tcod_back(stage: DistillConfig, teacher: Teacher) -> DistillConfig:
    moves = GrowingEnd(rate=HORIZON / stage.steps, most=HORIZON)
    return replace(stage, moves=moves, turns=OwnTurns(num=TURNS))


def _guided(stage: DistillConfig, teacher: Teacher) -> DistillConfig:
    return guided_stage(stage, weights=FrozenCopy(source=teacher.source), view=teacher.view)


def _expert_ever_less(stage: DistillConfig, teacher: Teacher) -> DistillConfig:
    return replace(stage, moves=GuidedMoves())


def _relabelled(arm: Arm) -> Arm:
    """The same states, and in place of a teacher the cross-entropy of the reference answers from them."""
    words = Route(name="reference", view=None, weights=None, estimator=Sampled(as_="likelihood"))

    def made(stage: DistillConfig, teacher: Teacher) -> DistillConfig:
        # Who writes has to be settled first: of the student's own words there is nothing to learn.
        return routed_stage(replace(arm(stage, teacher), relabel=True), words)

    return made


def _in_groups(stage: DistillConfig) -> DistillConfig:
    """As many episodes, in groups from one start, at the rate of rewards, which are noisier than a teacher."""
    return replace(stage, prompts_per_step=stage.prompts_per_step // GROUP, lr=stage.lr / 5, pixel_noise=0.0)


def _grpo(stage: DistillConfig, teacher: Teacher) -> DistillConfig:
    return replace(grpo_stage(_in_groups(stage), num_samples=GROUP), stage=stage.stage)


def _sdar(stage: DistillConfig, teacher: Teacher) -> DistillConfig:
    weights = FrozenCopy(source=teacher.source)
    rewarded = sdar_stage(_in_groups(stage), num_samples=GROUP, weights=weights, view=teacher.view)
    return replace(rewarded, stage=stage.stage)


ARMS: Mapping[str, Arm] = {
    "start": _start,
    "expert": _expert,
    "own": _own,
    "start_reference": _relabelled(_start),
    "cloning": _relabelled(_expert),
    "own_dagger": _relabelled(_own),
    "tcod": _tcod,
    "tcod_back": _tcod_back,
    "guided": _guided,
    "expert_ever_less": _expert_ever_less,
    "grpo": _grpo,
    "sdar": _sdar,
}
"""Arm -> what it makes of the stage that teaches on one's own episodes."""


def nano_steps(
    seed: int = 0,
    *,
    backbone: str,
    arm: str = "own",
    teacher: str = "this_turn",
    seeing: str = "",
    world: str = "frozenlake_steps",
    levels: tuple[int, ...] = (4, 5, 6),
    starts: str = "corner",
    fog: int = 0,
    window: int = 1,
) -> Recipe:
    """One arm of the study, after a nano model that has learnt to plan from pictures.

    `seeing` is the model of `nano_seeing`, which the teacher `same_view` needs.
    """
    whole = nano_mgsd(seed, backbone=backbone)
    stage = whole.stages[-1]
    assert isinstance(stage, DistillConfig)
    who = Teacher(view=TEACHERS[teacher], source=seeing if teacher == "same_view" else "nano")
    own = replace(
        stage,
        steps=STEPS,
        prompts_per_step=ROWS // TURNS,
        warmup_share=5 / STEPS,
        perception_share=0.0,
        description=None,
        reduction="token",
        max_turns=3 * max(levels),
        turns=SomeTurns(num=TURNS),
        checkpoint_every=STEPS,
        stage=STAGE,
    )
    own = with_teacher(own, view=who.view, weights=FrozenCopy(source=who.source))
    return replace(
        whole,
        name=f"nano_steps_{arm}",
        questions=None,
        levels=((world, levels),),
        options=(("starts", starts), ("fog", fog), ("window", window)),
        num_train=240 * len(levels),
        num_test=100 * len(levels),
        conditions=("image",),
        stages=(ARMS[arm](own, who),),
        measure_base=False,
    )


def nano_seeing(
    seed: int = 0,
    *,
    backbone: str,
    world: str = "frozenlake_steps",
    levels: tuple[int, ...] = (4, 5, 6),
) -> Recipe:
    """A teacher that sees what the student sees and plans better: fine-tuned on reference answers from everywhere."""
    whole = nano_mgsd(seed, backbone=backbone)
    first = whole.stages[0]
    assert isinstance(first, SftConfig)
    stage = replace(
        first,
        stage=STAGE,
        image_view="student",
        retention_share=0.0,
        steps=SEEING_STEPS,
        lr=5e-4,
        checkpoint_every=100,
    )
    return replace(
        whole,
        name="nano_seeing",
        questions=None,
        levels=((world, levels),),
        options=(("starts", "anywhere"),),
        num_train=3000,
        num_test=100 * len(levels),
        conditions=("image",),
        stages=(stage,),
        measure_base=False,
    )

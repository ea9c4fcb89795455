"""Whose episodes teach? Grid worlds played move by move, on the nano model after its second stage.

All arms branch off the same model, have the same number of optimiser steps and of taught answers a step, and differ in
whose states they are taught on and by what:

    start    the states that episodes begin with          by the teacher's distributions
    expert   states along the expert's episodes           by the teacher's distributions
    own      states along the student's own episodes      by the teacher's distributions
    tcod     own, with a horizon that grows                by the teacher's distributions
    guided   the expert moves ever less                    by the teacher's distributions
    own_dagger, start_reference: the same states, taught on the reference answers from them
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from pilotage.recipes.nano import nano_mgsd
from pilotage.runs.recipe import Recipe
from pilotage.train.distill_config import DistillConfig, FrozenCopy
from pilotage.train.step.moves import ExpertMoves, GuidedMoves
from pilotage.train.step.turns import GrowingHorizon, SomeTurns

STEPS = 48
ROWS = 48
"""Answers that are taught in a step, about: where episodes are short there are fewer."""
TURNS = 4
"""Of an episode, at most."""

ARMS: Mapping[str, Mapping[str, Any]] = {
    "start": {"prompts_per_step": ROWS, "max_turns": 1},
    "expert": {"moves": ExpertMoves(), "turns": SomeTurns(num=TURNS)},
    "own": {"turns": SomeTurns(num=TURNS)},
    "tcod": {"turns": GrowingHorizon(rate=8 / STEPS, most=8)},
    "guided": {"moves": GuidedMoves(), "turns": SomeTurns(num=TURNS)},
    "own_dagger": {"turns": SomeTurns(num=TURNS), "relabel": True},
    "start_reference": {"prompts_per_step": ROWS, "max_turns": 1, "relabel": True},
}
"""Arm -> what it sets in the stage. The last two are taught on reference answers, by the same teacher."""


def nano_steps(
    seed: int = 0,
    *,
    backbone: str,
    arm: str = "own",
    world: str = "frozenlake_steps",
    levels: tuple[int, ...] = (4, 5, 6),
    starts: str = "corner",
    fog: int = 0,
    window: int = 1,
) -> Recipe:
    """One arm of the study, after a nano model that has learnt to plan from pictures."""
    whole = nano_mgsd(seed, backbone=backbone)
    stage = whole.stages[-1]
    assert isinstance(stage, DistillConfig)
    shared: dict[str, Any] = {
        "steps": STEPS,
        "prompts_per_step": ROWS // TURNS,
        "warmup_steps": 5,
        "perception_share": 0.0,
        "reduction": "token",
        "max_turns": 3 * max(levels),
        "checkpoint_every": STEPS,
        "stage": "steps",
        "teacher_weights": FrozenCopy(source="nano"),
    }
    taught = replace(stage, **shared | dict(ARMS[arm]))
    options = (("starts", starts), ("fog", fog), ("window", window))
    return replace(
        whole,
        name=f"nano_steps_{arm}",
        levels=((world, levels),),
        options=options,
        num_train=240 * len(levels),
        num_test=100 * len(levels),
        kinds=("image",),
        stages=(taught,),
        measure_base=False,
    )

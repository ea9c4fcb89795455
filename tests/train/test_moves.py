"""Who moves and who writes in an episode that is trained on: own, expert's, teacher's turns, curricula, references."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from distill_run import rows_of, tiny_config
from pilotage.distill.estimators import Sampled
from pilotage.distill.routes import Route
from pilotage.errors import PilotageError
from pilotage.recipes.methods import guided_stage, routed_stage, sdar_stage
from pilotage.records import Example, Rollout
from pilotage.rollouts.engine import Decoding, Request
from pilotage.rollouts.sources import FromTeacher
from pilotage.train.distill import DistillTrainer
from pilotage.train.distill_config import DistillConfig, FrozenCopy
from pilotage.train.step.moves import (
    ExpertMoves,
    GrowingEnd,
    GuidedMoves,
    Mover,
    Moves,
    OwnMoves,
    TeacherTurns,
    guidance,
)
from pilotage.train.step.rows import StepRow
from pilotage.train.step.scoring import encode_rollouts, head_of, predicting_states, sampled_logprobs
from pilotage.train.step.turns import EveryTurn, GrowingHorizon, OwnTurns, SomeTurns
from pilotage.worlds import get_task
from pilotage.worlds.grids.data.steps import make_step_example, map_hash
from tiny import tiny_backbone, written

MAP = ["SFFF", "FFFF", "FFFF", "FFFG"]
TEACHER = FromTeacher(view="teacher", weights=FrozenCopy())


pytestmark = pytest.mark.usefixtures("one_thread")


def lake() -> Example:
    """Six moves from corner to corner, no holes."""
    task = get_task("frozenlake")
    state = task.parse_state({"map": MAP})
    return make_step_example(
        "frozenlake_steps", state, map_=map_hash({"map": MAP}, task.name), starts="corner"
    )


class Says:
    """Answers everything with the same words."""

    def __init__(self, words: str) -> None:
        self.words, self.backbone = words, tiny_backbone()

    def generate(self, requests: Sequence[Request], decoding: Decoding) -> list[Rollout]:
        return [written(self.backbone, request.example_id, self.words) for request in requests]

    def sync(self, model: Any) -> None:
        """Nothing: its answers do not depend on the weights."""


def trainer_of(config: DistillConfig, folder: Path, words: str = "<answer>R</answer>") -> DistillTrainer:
    return DistillTrainer(
        config,
        student=tiny_backbone(),
        teacher=tiny_backbone(),
        examples=[lake()],
        run_dir=folder,
        engine=Says(words),
    )


def config_of(**changes: Any) -> DistillConfig:
    return tiny_config(
        **{"prompts_per_step": 1, "max_turns": 8, "max_new_tokens": 120, "steps": 10} | changes
    )


def movers(moves: Moves, *, step: int, num_turns: int = 6) -> list[Mover]:
    return [
        moves.by(turn=turn, plan_length=6, step=step, num_steps=10, rng=np.random.default_rng([step, turn]))
        for turn in range(num_turns)
    ]


def test_own_and_expert_moves_are_the_same_in_every_turn() -> None:
    assert set(movers(OwnMoves(), step=3)) == {"student"}
    assert set(movers(ExpertMoves(), step=3)) == {"expert"}


@pytest.mark.parametrize(
    ("moves", "other"), [(GuidedMoves(until=0.8), "expert"), (TeacherTurns(teacher=TEACHER), "teacher")]
)
def test_guidance_falls_from_every_turn_to_none_along_half_a_cosine(moves: Moves, other: str) -> None:
    assert [guidance(step, 10, 0.8) for step in (0, 4, 8, 9)] == pytest.approx([1.0, 0.5, 0.0, 0.0])
    assert set(movers(moves, step=0)) == {other} and set(movers(moves, step=8)) == {"student"}
    halfway = movers(moves, step=4, num_turns=400)
    # 400 draws at one half: five standard deviations are 50.
    assert 150 < halfway.count("student") < 250


def test_the_horizon_grows_from_the_front_and_from_the_back() -> None:
    front = GrowingHorizon(rate=0.5, most=4)
    assert [front.horizon(step) for step in (0, 1, 2, 7, 9)] == [1, 1, 2, 4, 4]
    back = GrowingEnd(rate=0.5, most=4)
    counts = [movers(back, step=step).count("expert") for step in (0, 1, 2, 7, 9)]
    assert counts == [5, 5, 4, 2, 2]


def test_turns_are_chosen_among_all_or_among_the_students_own() -> None:
    rng = np.random.default_rng(0)
    mixed: list[Mover] = ["expert", "student", "teacher", "student", "student"]
    assert EveryTurn().chosen(mixed, step=0, rng=rng) == [0, 1, 2, 3, 4]
    assert OwnTurns().chosen(mixed, step=0, rng=rng) == [1, 3, 4]
    assert OwnTurns().chosen(["expert", "expert"], step=0, rng=rng) == [1]
    some = SomeTurns(num=2).chosen(mixed, step=0, rng=rng)
    assert len(some) == 2 and some == sorted(some)
    assert set(OwnTurns(num=2).chosen(mixed, step=0, rng=rng)) < {1, 3, 4}


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: GuidedMoves(until=0.0),
        lambda: TeacherTurns(teacher=TEACHER, until=1.5),
        lambda: GrowingEnd(rate=0.0, most=3),
        lambda: GrowingHorizon(start=4, rate=1.0, most=3),
        lambda: OwnTurns(num=0),
    ],
)
def test_what_would_teach_nothing_is_refused(wrong: Callable[[], Any]) -> None:
    with pytest.raises(PilotageError, match="must"):
        wrong()


def taught(trainer: DistillTrainer, step: int) -> list[StepRow]:
    return trainer._sample(step)


def test_from_the_back_the_expert_leads_to_where_the_student_begins(tmp_path: Path) -> None:
    # The student always goes right: from the start it would run into the wall.
    config = config_of(moves=GrowingEnd(rate=0.2, most=4), turns=OwnTurns())
    trainer = trainer_of(config, tmp_path)
    for step, left in ((0, 1), (5, 2), (9, 2)):
        rows = taught(trainer, step)
        assert rows[0].number == 6 - left
        privileged = rows[0].turn.seen.privileged
        assert privileged is not None and len(privileged.plan) == left


def test_a_teacher_writes_turns_and_its_own_route_teaches_them(tmp_path: Path) -> None:
    config = guided_stage(config_of(), weights=FrozenCopy())
    trainer = trainer_of(config, tmp_path)
    assert {row.origin for row in taught(trainer, 0)} == {"teacher"}
    assert {row.origin for row in taught(trainer, 8)} == {"student"}
    seen = set()
    for step in range(3, 6):
        rows = taught(trainer, step)
        facts = [trainer.router.facts(row, {}) for row in rows]
        routed = trainer.router.route(rows, facts, lambda values: values).routed
        for row, own, theirs in zip(rows, routed["own"], routed["theirs"], strict=True):
            seen.add(row.origin)
            num_tokens = len(row.rollout.token_ids)
            assert (own.num_tokens, theirs.num_tokens) == (
                (num_tokens, 0) if row.origin == "student" else (0, num_tokens)
            )
            # The turn's own view is the student's, whoever wrote in it.
            assert row.view.name == "student"
    assert seen == {"student", "teacher"}


def test_a_guided_run_tells_who_wrote_and_the_episodes_success(tmp_path: Path) -> None:
    trainer = trainer_of(guided_stage(config_of(steps=2), weights=FrozenCopy(), until=1.0), tmp_path)
    trainer.run()
    first, second = rows_of(tmp_path)
    assert first["source/teacher"] == 1.0 and "rollout/success" in first
    assert first["route/theirs/tokens"] > 0 and first.get("route/own/tokens", 0) == 0


def test_references_are_taught_by_their_likelihood_from_each_state_that_was_visited(tmp_path: Path) -> None:
    words = Route(name="reference", view=None, weights=None, estimator=Sampled(as_="likelihood"))
    config = routed_stage(config_of(steps=1, relabel=True, max_turns=3), words)
    trainer = trainer_of(config, tmp_path, "<answer>D</answer>")
    rows = taught(trainer, 0)
    assert len(rows) == 3 and {row.origin for row in rows} == {"dataset"}
    backbone = tiny_backbone()
    encoded = encode_rollouts(
        backbone,
        [row.view for row in rows],
        [row.rollout for row in rows],
        max_prompt_tokens=None,
        pad_to_multiple=16,
    )
    with torch.no_grad():
        states_MH = predicting_states(backbone.model, backbone.model, encoded)
        ids_M = torch.tensor([token for row in rows for token in row.rollout.token_ids])
        logp_M = sampled_logprobs(head_of(backbone.model, states_MH), ids_M, temperature=1.0)
    trainer.run()
    [row] = rows_of(tmp_path)
    assert row["loss"] == pytest.approx(-float(logp_M.mean()), rel=1e-4)
    assert row["kl/all"] == pytest.approx(row["loss"], rel=1e-6)
    # What the student did is told, too: it went down, and three moves do not reach the goal.
    assert row["rollout/success"] == 0.0 and row["source/dataset"] == 1.0


def test_sdar_teaches_by_reward_and_beside_it_by_what_the_teacher_endorses(tmp_path: Path) -> None:
    stage = sdar_stage(config_of(steps=1), num_samples=2, weights=FrozenCopy())
    trainer = trainer_of(replace(stage, max_turns=2), tmp_path)
    trainer.run()
    [row] = rows_of(tmp_path)
    # All fail alike: the reward has nothing to tell, and the teacher still teaches.
    assert row["rollout/same_reward"] == 1.0 and row["grad_norm"] > 0
    assert row["route/endorsed/tokens"] == row["route/reward/tokens"] > 0


def test_likelihood_and_policy_gradients_are_refused_where_the_words_are_the_wrong_ones() -> None:
    words = Route(name="reference", view=None, weights=None, estimator=Sampled(as_="likelihood"))
    with pytest.raises(PilotageError, match="the student's own answers teaches nothing"):
        routed_stage(config_of(), words)
    stage = sdar_stage(config_of(), num_samples=2, weights=FrozenCopy())
    with pytest.raises(PilotageError, match="put another's in their place"):
        replace(stage, moves=TeacherTurns(teacher=TEACHER))
    with pytest.raises(PilotageError, match="not 2"):
        TeacherTurns(teacher=replace(TEACHER, sampling=replace(TEACHER.sampling, num_samples=2)))

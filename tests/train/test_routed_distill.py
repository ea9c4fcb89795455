"""Routes in the trainer: sources, several teachers, moving teachers, policy gradients; what must hold of them all."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from counted_world import TwoRoles, counted, known
from distill_run import rows_of, tiny_config, tiny_examples
from pilotage.backbones.load import Backbone, LoraSettings, with_lora
from pilotage.distill.divergences import JSD, DropCap, ForwardKL, ReverseKL
from pilotage.distill.estimators import FullVocabulary, Sampled
from pilotage.distill.policy_gradient import AdvantageMix, ClipRange, PolicyGradient
from pilotage.distill.routes import Route, Router
from pilotage.distill.spans import MgsdLayout, WholeLayout
from pilotage.distill.token_weights import ImportanceCap, RewardGate, VisualAdvantage
from pilotage.errors import PilotageError
from pilotage.rollouts import ReplayEngine
from pilotage.rollouts.sources import (
    FromDataSet,
    FromStudent,
    FromTeacher,
    Mixture,
    Sampling,
    on_policy_share,
    only,
)
from pilotage.train.distill import DistillTrainer, distill
from pilotage.train.distill_config import (
    EMA,
    AdapterOff,
    DistillConfig,
    FrozenCopy,
    GatedRefresh,
    Live,
    Remote,
)
from pilotage.train.step.teacher_models import check_sharded
from pilotage.views import reference_of_view
from tiny import LocalServer, tiny_backbone, written

FORWARD = FullVocabulary(divergence=ForwardKL())
REVERSE = FullVocabulary(divergence=ReverseKL())


pytestmark = pytest.mark.usefixtures("one_thread")


def route(name: str = "all", **changes: Any) -> Route:
    return Route(**{"name": name, "view": "teacher", "weights": FrozenCopy(), "estimator": REVERSE} | changes)


def routed(*routes: Route, layout: Any = None, **changes: Any) -> DistillConfig:
    """A tiny configuration with these routes."""
    router = Router(layout=layout or MgsdLayout(), routes=routes)
    return tiny_config(**({"router": router, "means": "apart"} | changes))


def sampled(number: int) -> Mixture:
    """So many of the student's answers to each prompt."""
    return only(FromStudent(sampling=Sampling(num_samples=number)))


def run(
    tmp_path: Path, config: DistillConfig, *, student: Backbone | None = None, engine: Any = None
) -> list[dict[str, Any]]:
    """The metrics of a run in a new folder."""
    run_dir = tmp_path / str(len(list(tmp_path.iterdir())))
    distill(
        config,
        student=student or tiny_backbone(),
        examples=tiny_examples(),
        run_dir=run_dir,
        engine=engine,
    )
    return rows_of(run_dir)


def lora() -> Backbone:
    torch.manual_seed(0)
    return with_lora(tiny_backbone(), LoraSettings(rank=2, alpha=4))


def replay_references(length: int | None = None) -> ReplayEngine:
    """The reference answers, valid in their format; cut to a length when one is given."""
    backbone = tiny_backbone()
    return ReplayEngine(
        [
            written(
                backbone,
                example.id,
                reference_of_view(example, "student"),
                keep=length,
                finished=length is None,
            )
            for example in tiny_examples()
        ],
        off_policy=True,
    )


# -- one route is what the simple fields are ----------------------------------------------------------------------


def test_one_teacher_is_a_router_of_one_route():
    assert tiny_config().router == routed(route("plan")).router


def test_a_share_of_descriptions_and_who_teaches_them_go_together():
    with pytest.raises(PilotageError, match="description route"):
        replace(routed(route()), perception_share=0.5)
    unused = replace(routed(route()), description=route("described", view="description"))
    assert [each.name for each in unused.routes] == ["all"]


def test_each_role_is_taught_by_the_routes_of_its_own(tmp_path):
    looking = Router(layout=MgsdLayout(), routes=(route("seen", view="student"),))
    config = routed(route("told"), of_roles=(("look", looking),), prompts_per_step=2, num_kept_rollouts=99)
    examples = [counted(number, turns=2) for number in range(2)]
    with known(TwoRoles()):
        trainer = DistillTrainer(config, student=tiny_backbone(), examples=examples, run_dir=tmp_path)
        rows = trainer._sample(0)
        facts = [trainer.router.facts(row, {}) for row in rows]
        routed_rows = trainer.router.route(rows, facts, lambda values: values).routed
        trainer.run()
    assert [row.turn.role for row in rows] == ["look", "act", "look", "act"] * 2
    num_tokens = {"look": 0, "act": 0}
    for place, row in enumerate(rows):
        num_tokens[row.turn.role] += len(row.rollout.token_ids)
        taught_by = {name for name, of_route in routed_rows.items() if of_route[place].mask_T.any()}
        assert taught_by == ({"seen"} if row.turn.role == "look" else {"told"})
        assert all(routed_rows[name][place].mask_T.all() for name in taught_by)
    (figures,) = rows_of(tmp_path)
    found = {"look": figures["route/seen/tokens"], "act": figures["route/told/tokens"]}
    assert found == num_tokens
    # The frozen copy is the student itself: where it sees the same, there is nothing to learn.
    assert figures["route/seen/kl"] == pytest.approx(0.0, abs=1e-6)
    assert figures["route/told/kl"] > 1e-4


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"view": "oracle"}, "oracle"),
        ({"weights": "the base"}, "the base"),
        ({"estimator": PolicyGradient()}, "PolicyGradient"),
        ({"token_weights": (RewardGate(), ImportanceCap(cap=2.0, signals=("luck",)))}, "luck"),
    ],
)
def test_routes_that_make_no_sense_are_named(changes, named):
    with pytest.raises(PilotageError, match=named):
        routed(route(**changes))


# -- several teachers ---------------------------------------------------------------------------------------------

THREE = (
    route("seen", view="picture", spans=("state",), rows="valid", append="upto_span", estimator=FORWARD),
    route("told", view="student_with_plan", spans=("route", "answer"), rows="valid", estimator=FORWARD),
    route("broken", view="student_with_plan", rows="invalid", scale=2.0),
)


def test_valid_rows_are_taught_by_span_and_invalid_ones_by_their_own_teacher(tmp_path):
    (valid,) = run(tmp_path, routed(*THREE, max_new_tokens=300), engine=replay_references())
    assert valid["rollout/valid"] == 1.0
    assert valid["route/broken/tokens"] == 0 and "route/broken/kl" not in valid
    assert valid["route/seen/tokens"] > 0 and valid["route/told/tokens"] > 0
    assert valid["route/untaught"] == 0.0
    assert valid["kl/state"] == pytest.approx(valid["route/seen/kl"])
    (broken,) = run(tmp_path, routed(*THREE, max_new_tokens=300), engine=replay_references(9))
    assert broken["rollout/valid"] == 0.0
    assert broken["route/seen/tokens"] == broken["route/told/tokens"] == 0
    assert broken["route/broken/tokens"] == 4 * 9
    # Nothing else is in the loss, and its mean weighs double.
    assert broken["loss"] == pytest.approx(2 * broken["route/broken/kl"], rel=1e-5)


def test_a_span_s_scores_are_those_of_the_whole_reading(tmp_path):
    spans = {"spans": ("state",), "estimator": FORWARD}
    full, cut = (
        run(tmp_path, routed(route(append=append, **spans), max_new_tokens=300), engine=replay_references())
        for append in ("full", "upto_span")
    )
    assert cut[0]["kl/state"] == pytest.approx(full[0]["kl/state"], rel=1e-4)
    later = {"spans": ("answer",), "estimator": FORWARD}
    full, only_it = (
        run(tmp_path, routed(route(append=append, **later), max_new_tokens=300), engine=replay_references())
        for append in ("full", "span_only")
    )
    assert abs(only_it[0]["kl/answer"] - full[0]["kl/answer"]) > 1e-3
    assert full[0]["route/untaught"] > 0.5


def test_routes_with_the_same_weights_and_text_are_read_once(tmp_path, monkeypatch):
    from pilotage.train.step import scores as step_scores

    read: list[int] = []
    score_rows = step_scores.score_rows

    def counted(model: Any, encoded: Any, **settings: Any) -> Any:
        read.append(len(encoded["prompt_lengths"]))
        return score_rows(model, encoded, **settings)

    monkeypatch.setattr(step_scores, "score_rows", counted)
    two = (
        route("one", spans=("state",)),
        route("other", spans=("route", "answer", "after"), estimator=FORWARD),
    )
    run(tmp_path, routed(*two, max_new_tokens=300), engine=replay_references())
    assert read == [4]
    read.clear()
    # Another view under the same weights: one batch of twice the rows. Words and pictures are not mixed.
    run(
        tmp_path,
        routed(two[0], replace(two[1], view="teacher_no_plan"), max_new_tokens=300),
        engine=replay_references(),
    )
    assert read == [8]
    read.clear()
    run(
        tmp_path,
        routed(two[0], replace(two[1], view="student"), max_new_tokens=300),
        engine=replay_references(),
    )
    assert read == [4, 4]


@pytest.mark.parametrize(
    "weights", [FrozenCopy(), AdapterOff(), Live(), EMA(rate=0.5), GatedRefresh(every=1, window=1)]
)
def test_the_student_s_own_view_under_its_own_weights_teaches_nothing(tmp_path, weights):
    student = lora() if isinstance(weights, AdapterOff) else tiny_backbone()
    (row,) = run(tmp_path, routed(route(view="student", weights=weights)), student=student)
    assert row["kl/all"] < 1e-6 and row["grad_norm"] < 1e-4
    assert row["teacher/agreement"] == 1.0


def test_another_example_s_picture_is_another_teacher(tmp_path):
    same, other, none = (
        run(tmp_path, routed(route(view="student", images=images)))[0]["kl/all"]
        for images in ("same", "other", "none")
    )
    assert same < 1e-6 < 1e-3 < min(other, none) and other != none


# -- teachers that move -------------------------------------------------------------------------------------------


def test_a_live_teacher_moves_and_a_frozen_one_does_not(tmp_path):
    live, frozen, mean = (
        run(tmp_path, tiny_config(view="student_with_plan", weights=weights, steps=3))
        for weights in (Live(), FrozenCopy(), EMA(rate=0.3))
    )
    assert (
        live[0]["loss"]
        == pytest.approx(frozen[0]["loss"], rel=1e-5)
        == pytest.approx(mean[0]["loss"], rel=1e-5)
    )
    assert len({round(rows[2]["loss"], 6) for rows in (live, frozen, mean)}) == 3


@pytest.mark.parametrize(
    "weights", [EMA(rate=0.3), GatedRefresh(every=2, window=1, max_length_change=9.0)], ids=["ema", "refresh"]
)
def test_a_moving_teacher_goes_on_bit_for_bit(tmp_path, weights):
    config = tiny_config(steps=6, checkpoint_every=3, view="student_with_plan", weights=weights)

    class Stopped(Exception):
        pass

    def stop(row: dict[str, Any]) -> None:
        if row["step"] == 5:
            raise Stopped

    def once(name: str, on_step: Any = None) -> Path:
        return distill(
            config,
            student=tiny_backbone(),
            examples=tiny_examples(),
            run_dir=tmp_path / name,
            on_step=on_step,
        )

    whole = once("whole")
    with pytest.raises(Stopped):
        once("stopped", stop)
    resumed = once("stopped")
    assert rows_of(tmp_path / "stopped") == rows_of(tmp_path / "whole")
    ours, theirs = (load_file(directory / "model.safetensors") for directory in (resumed, whole))
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    if isinstance(weights, GatedRefresh):
        assert [row["teacher/refreshes"] for row in rows_of(tmp_path / "whole")] == [0, 1, 1, 2, 2, 3]


def test_a_remote_teacher_is_one_that_is_asked_over_the_wire(tmp_path, monkeypatch):
    monkeypatch.setattr(Remote, "scorer", lambda self: LocalServer())
    remote = Remote(url="http://there/v1", model="tiny")
    for estimator, mix in ((Sampled(as_="advantage"), None), (PolicyGradient(), AdvantageMix())):
        here, there = (
            run(tmp_path, routed(route(weights=weights, estimator=estimator), mix=mix))[0]
            for weights in (FrozenCopy(), remote)
        )
        assert there["grad_norm"] == pytest.approx(here["grad_norm"], rel=1e-3)
        assert "teacher/agreement" not in there
    sampled = Sampled(as_="advantage")
    with pytest.raises(PilotageError, match="text only.*'student_with_plan'"):
        routed(route(weights=remote, estimator=sampled, view="student_with_plan"))
    with pytest.raises(PilotageError, match="writes none"):
        source = FromTeacher(view="teacher", weights=remote)
        routed(route(weights=remote, estimator=sampled), sources=only(source))


# -- sources ------------------------------------------------------------------------------------------------------


def test_the_data_set_s_answers_are_taught_like_the_student_s_own(tmp_path):
    config = routed(route(), sources=only(FromDataSet()), max_new_tokens=300)
    (data,) = run(tmp_path, config)
    (own,) = run(tmp_path, routed(route(), max_new_tokens=300), engine=replay_references())
    assert data["loss"] == pytest.approx(own["loss"], rel=1e-6)
    assert data["source/dataset"] == 1.0
    assert "rollout/success" not in data and own["rollout/success"] == 1.0


def test_a_mixture_draws_its_share_whatever_the_ranks(tmp_path):
    config = routed(
        route(), sources=on_policy_share(0.5, FromStudent(), FromDataSet()), prompts_per_step=10, steps=2
    )
    first, second = run(tmp_path, config)
    assert 0 < first["source/dataset"] < 1 and 0 < second["source/dataset"] < 1
    trainer = DistillTrainer(
        config, student=tiny_backbone(), examples=tiny_examples(), run_dir=tmp_path / "own"
    )
    slots = trainer.order.slots(0)
    drawn = [row.source for row in trainer.rollouts.rows(0, slots, [False] * 10)]
    halves = [
        row.source for part in (slots[:5], slots[5:]) for row in trainer.rollouts.rows(0, part, [False] * 5)
    ]
    assert halves == drawn and len(set(drawn)) == 2


def test_a_teacher_s_own_answers_come_from_its_view_and_weights(tmp_path):
    source = FromTeacher(view="teacher", weights=FrozenCopy(), sampling=Sampling(num_samples=2))
    config = routed(route(view="teacher"), sources=only(source))
    (row,) = run(tmp_path, config)
    assert row["source/teacher"] == 1.0 and row["kl/all"] > 1e-3


def test_the_student_may_begin_with_a_prefill(tmp_path):
    config = routed(route(view="student", prefill="Size: "), student_prefill="Size: ")
    (row,) = run(tmp_path, config)
    assert row["kl/all"] < 1e-6
    (row,) = run(
        tmp_path, replace(config, router=Router(layout=MgsdLayout(), routes=(route(view="student"),)))
    )
    assert row["kl/all"] > 1e-3


# -- policy gradients and token weights ---------------------------------------------------------------------------


def test_a_policy_gradient_on_fresh_samples_is_the_sampled_advantage(tmp_path):
    weights = []
    for estimator, mix in (
        (Sampled(as_="advantage"), None),
        (PolicyGradient(clip=ClipRange()), AdvantageMix()),
    ):
        student = tiny_backbone()
        (row,) = run(tmp_path, routed(route(estimator=estimator), mix=mix), student=student)
        assert row["grad_norm"] > 1e-2
        weights.append((row["grad_norm"], student.model.lm_head.weight.detach().clone()))
    assert weights[1][0] == pytest.approx(weights[0][0], rel=1e-4)


def test_reward_and_teacher_are_mixed_and_a_group_needs_samples(tmp_path):
    mix = AdvantageMix(teacher=0.0, reward=1.0)
    config = routed(route(estimator=PolicyGradient()), mix=mix, sources=sampled(2))
    # No sample of a random model succeeds, so each is as good as its group.
    (row,) = run(tmp_path, config)
    assert row["rollout/success"] == 0.0 and row["grad_norm"] == 0.0
    with pytest.raises(PilotageError, match="one sample per prompt"):
        replace(config, sources=sampled(1))
    with pytest.raises(PilotageError, match="data set"):
        replace(config, sources=only(FromDataSet()), mix=AdvantageMix())


def test_a_reward_gate_teaches_only_what_reaches_it(tmp_path):
    failures = route(token_weights=(RewardGate(reached=0.0, missed=1.0),))
    (row,) = run(tmp_path, routed(failures, max_new_tokens=300), engine=replay_references())
    assert row["route/untaught"] == 1.0 and row["grad_norm"] == 0.0 and "kl/all" not in row
    (row,) = run(tmp_path, routed(failures))
    assert row["route/untaught"] == 0.0 and row["grad_norm"] > 0


def test_signals_are_measured_on_the_student_as_it_is(tmp_path):
    plain, capped, looking = (
        run(tmp_path, routed(route(token_weights=token_weights)))[0]
        for token_weights in ((), (ImportanceCap(cap=2.0),), (VisualAdvantage(cap=1.0, slope=1.0),))
    )
    # Fresh samples have a ratio of 1; a token that the picture does not help is not taught.
    assert capped["loss"] == pytest.approx(plain["loss"], rel=1e-3)
    assert 0 < looking["route/untaught"] < 1


# -- invariants ---------------------------------------------------------------------------------------------------


def test_the_routed_loss_does_not_depend_on_micro_batches(tmp_path):
    def loss_of(micro: int) -> tuple[float, float]:
        config = routed(*THREE, max_new_tokens=300, micro_batch_size=micro, prompts_per_step=6)
        mixed = replace(config, sources=on_policy_share(0.5, FromStudent(), FromDataSet()))
        (row,) = run(tmp_path, mixed, engine=replay_references(9))
        assert row["route/broken/tokens"] > 0 and row["route/seen/tokens"] > 0
        return row["loss"], row["grad_norm"]

    assert loss_of(1) == pytest.approx(loss_of(6), rel=1e-4)


def test_rollouts_are_kept_with_their_origin(tmp_path):
    run(tmp_path, routed(route(), sources=only(FromDataSet()), max_new_tokens=300))
    kept = [json.loads(line) for line in (tmp_path / "0" / "rollouts.jsonl").read_text().splitlines()]
    assert {row["origin"] for row in kept} == {"dataset"} and all(row["valid"] for row in kept)


def test_descriptions_have_a_route_of_their_own(tmp_path):
    config = routed(route(), perception_share=0.5, description=route("described", view="description"))
    (row, *_) = run(tmp_path, replace(config, steps=2))[1:]
    assert row["route/described/tokens"] > 0 and row["route/all/tokens"] > 0
    assert row["kl/description"] == pytest.approx(row["route/described/kl"])


def test_a_whole_response_needs_no_format(tmp_path):
    (row,) = run(
        tmp_path,
        routed(
            route(estimator=FullVocabulary(divergence=JSD(beta=0.5), cap=DropCap(tau=9.0))),
            layout=WholeLayout(),
        ),
    )
    assert row["kl/response"] == row["kl/all"] and row["rollout/valid"] == 1.0


def test_a_sharded_student_refuses_a_teacher_that_would_need_its_whole_weights():
    with pytest.raises(PilotageError, match="EMA keeps its weights whole; use FrozenCopy"):
        check_sharded(routed(route("kept", rows="valid"), route(weights=EMA(rate=0.1), rows="invalid")))
    check_sharded(routed(route(weights=Live(), rows="valid")))

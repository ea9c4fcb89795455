"""Policy gradients: expected gradients by enumeration over five entries, clipping by hand, baselines and rewards."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
from torch import Tensor

from pilotage.distill import chunked
from pilotage.distill.advantage import teacher_advantage
from pilotage.distill.chunked import Head
from pilotage.distill.divergences import JSD, Divergence, ForwardKL, ReverseKL
from pilotage.distill.estimators import FullVocabulary, Logits, Sampled
from pilotage.distill.policy_gradient import (
    AdvantageMix,
    Advantages,
    ClipRange,
    PolicyGradient,
    advantage_parts,
    advantages,
)
from pilotage.distill.reduce import global_reduced

V = 5
DIVERGENCES: list[Divergence] = [ReverseKL(), ForwardKL(), JSD(beta=0.5), JSD(beta=0.1)]


def logits(seed: int) -> Tensor:
    return torch.randn(1, V, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def exact_gradient(divergence: Divergence, student: Tensor, teacher: Tensor) -> Tensor:
    leaf = student.clone().requires_grad_()
    loss = FullVocabulary(divergence=divergence)(
        student=Logits(logits_MV=leaf), teacher=Logits(logits_MV=teacher)
    )
    return torch.autograd.grad(loss.value_M.sum(), leaf)[0][0]


def gradient(student: Tensor, ids_M: Tensor, given: Advantages, estimator: PolicyGradient) -> Tensor:
    """Gradient at the one row of logits, of the sum over tokens."""
    leaf = student.clone().requires_grad_()
    loss = estimator(student=Logits(logits_MV=leaf.expand(len(ids_M), V)), teacher=given, token_ids_M=ids_M)
    return torch.autograd.grad(loss.value_M.sum(), leaf)[0][0]


@pytest.mark.parametrize("divergence", DIVERGENCES, ids=str)
@pytest.mark.parametrize("constant", [0.0, 0.7], ids=["no baseline", "baseline"])
def test_expected_gradient_of_the_teachers_advantage_is_the_divergences(divergence, constant):
    student, teacher = logits(0), logits(1)
    logp_V, teacher_logp_V = student.log_softmax(-1)[0], teacher.log_softmax(-1)[0]
    advantage_V = teacher_advantage(teacher_logp_V, logp_V, divergence) - constant
    expected = torch.zeros(V, dtype=torch.float64)
    for token in range(V):
        given = Advantages(advantage_M=advantage_V[[token]], sampled_logp_M=logp_V[[token]])
        expected += logp_V[token].exp() * gradient(student, torch.tensor([token]), given, PolicyGradient())
    exact = exact_gradient(divergence, student, teacher)
    torch.testing.assert_close(expected, exact, rtol=0, atol=1e-12)
    assert exact.abs().max() > 1e-3


def test_importance_ratio_makes_samples_of_another_policy_unbiased():
    student, teacher, sampler = logits(0), logits(1), logits(2)
    logp_V, teacher_logp_V, sampler_logp_V = (x.log_softmax(-1)[0] for x in (student, teacher, sampler))
    advantage_V = teacher_advantage(teacher_logp_V, logp_V)
    for estimator, unbiased in ((PolicyGradient(), True), (PolicyGradient(cap=1.0), False)):
        expected = torch.zeros(V, dtype=torch.float64)
        for token in range(V):
            given = Advantages(advantage_M=advantage_V[[token]], sampled_logp_M=sampler_logp_V[[token]])
            part = gradient(student, torch.tensor([token]), given, estimator)
            expected += sampler_logp_V[token].exp() * part
        distance = (expected - exact_gradient(ReverseKL(), student, teacher)).abs().max()
        assert (distance < 1e-12) == unbiased


def test_advantages_by_hand():
    """p = 1/2, q = 3/4, m = 5/8."""
    logp, teacher = torch.tensor([0.5]).log(), torch.tensor([0.75]).log()
    assert teacher_advantage(teacher, logp).item() == pytest.approx(math.log(1.5))
    assert teacher_advantage(teacher, logp, ForwardKL()).item() == pytest.approx(0.5)
    assert teacher_advantage(teacher, logp, JSD(beta=0.5)).item() == pytest.approx(0.5 * math.log(1.25))


@pytest.mark.parametrize("divergence", DIVERGENCES, ids=str)
def test_equal_models_have_no_advantage(divergence):
    logp_V = logits(3).log_softmax(-1)[0]
    assert teacher_advantage(logp_V, logp_V, divergence).abs().max() == 0.0


def test_at_ratio_one_it_is_the_sampled_advantage():
    student, teacher, ids = logits(0), logits(1), torch.tensor([3])
    leaf = student.clone().requires_grad_()
    loss = Sampled(as_="advantage")(
        student=Logits(logits_MV=leaf), teacher=Logits(logits_MV=teacher), token_ids_M=ids
    )
    (theirs,) = torch.autograd.grad(loss.value_M.sum(), leaf)
    logp_M, teacher_logp_M = student.log_softmax(-1)[0, ids], teacher.log_softmax(-1)[0, ids]
    given = Advantages(advantage_M=teacher_advantage(teacher_logp_M, logp_M), sampled_logp_M=logp_M)
    for estimator in (PolicyGradient(), PolicyGradient(clip=ClipRange()), PolicyGradient(cap=1.0)):
        torch.testing.assert_close(gradient(student, ids, given, estimator), theirs[0], rtol=0, atol=1e-12)


# advantage, ratio -> value, d value / d log p, bounded; low = high = 0.2
CLIPPED = [
    (1.0, 1.0, -1.0, -1.0, 0.0),
    (1.0, 1.1, -1.1, -1.1, 0.0),
    (1.0, 1.5, -1.2, 0.0, 1.0),  # already likelier than the clip allows
    (1.0, 0.5, -0.5, -0.5, 0.0),  # the smaller of 0.5 and 0.8: not clipped
    (-1.0, 0.5, 0.8, 0.0, 1.0),  # already less likely
    (-1.0, 1.5, 1.5, 1.5, 0.0),
    (0.0, 1.5, 0.0, 0.0, 0.0),
]
CAPPED = [
    (1.0, 1.5, -1.5, -1.5, 0.0),
    (1.0, 4.0, -2.0, -2.0, 1.0),  # bounded, and still teaching
    (-1.0, 4.0, 2.0, 2.0, 1.0),
    (-1.0, 0.5, 0.5, 0.5, 0.0),
]
BOTH = [
    (1.0, 4.0, -1.2, 0.0, 1.0),
    (-1.0, 4.0, 2.0, 2.0, 1.0),  # PPO alone would push with 4
    (-1.0, 0.5, 0.8, 0.0, 1.0),
]
CASES = [
    *[(PolicyGradient(clip=ClipRange()), *case) for case in CLIPPED],
    *[(PolicyGradient(cap=2.0), *case) for case in CAPPED],
    *[(PolicyGradient(clip=ClipRange(), cap=2.0), *case) for case in BOTH],
    (PolicyGradient(clip=ClipRange(low=0.2, high=0.6)), 1.0, 1.5, -1.5, -1.5, 0.0),
    (PolicyGradient(clip=ClipRange(low=0.6, high=0.2)), -1.0, 0.5, 0.5, 0.5, 0.0),
]


@pytest.mark.parametrize(("estimator", "advantage", "ratio", "value", "slope", "bounded"), CASES, ids=str)
def test_clipping_and_truncation_by_hand(estimator, advantage, ratio, value, slope, bounded):
    logp_M = torch.tensor([0.3], dtype=torch.float64).log()
    given = Advantages(
        advantage_M=torch.tensor([advantage], dtype=torch.float64), sampled_logp_M=logp_M - math.log(ratio)
    )
    tokens = estimator.on_tokens(logp_M, given)
    assert tokens.value_M.item() == pytest.approx(value)
    assert tokens.slope_M.item() == pytest.approx(slope)
    assert tokens.bounded_M.item() == bounded


def test_absurd_ratio_stays_finite():
    given = Advantages(advantage_M=torch.tensor([1.0]), sampled_logp_M=torch.tensor([-2000.0]))
    for estimator in (PolicyGradient(), PolicyGradient(cap=2.0), PolicyGradient(clip=ClipRange())):
        tokens = estimator.on_tokens(torch.tensor([0.0]), given)
        assert tokens.value_M.isfinite().all() and tokens.slope_M.isfinite().all()


@pytest.mark.parametrize(
    "estimator",
    [
        PolicyGradient(temperature=1.3, chunk_size=4),
        PolicyGradient(clip=ClipRange(), cap=1.5, chunk_size=4),
        PolicyGradient(clip=ClipRange(low=0.1, high=0.1)),
    ],
    ids=str,
)
@pytest.mark.parametrize("uniform", [True, False])
def test_chunked_values_and_gradients_are_those_of_autograd(estimator, uniform, monkeypatch):
    monkeypatch.setattr(chunked, "_TILE_ENTRIES", 5)
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    hidden, weight, bias, weights = normal(9, 6), normal(23, 6), normal(23), normal(9).abs()
    ids = torch.randint(23, (9,), generator=generator)
    logp_MV = ((hidden @ weight.t() + bias) / estimator.temperature).log_softmax(-1)
    logp_M = logp_MV.gather(1, ids[:, None])[:, 0]
    given = Advantages(advantage_M=normal(9), sampled_logp_M=logp_M + 0.4 * normal(9))
    found = []
    for reference in (False, True):
        leaves = [x.clone().requires_grad_() for x in (hidden, weight, bias)]
        head = Head(hidden_MH=leaves[0], weight_VH=leaves[1], bias_V=leaves[2])
        student = Logits(logits_MV=head.logits()) if reference else head
        loss = estimator(student=student, teacher=given, token_ids_M=ids, weight_M=weights)
        (loss.value_M * (2.0 if uniform else torch.arange(9.0))).sum().backward()
        found.append(
            [loss.value_M, loss.divergence_M, loss.capped_M, loss.entropy_M, *(x.grad for x in leaves)]
        )
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-10)
    if estimator.clip is not None:
        assert 0.0 < float(found[0][2].mean()) < 1.0


def test_no_tokens_give_no_loss():
    head = Head(hidden_MH=torch.zeros(0, 4, requires_grad=True), weight_VH=torch.ones(7, 4))
    none = torch.zeros(0)
    loss = PolicyGradient()(
        student=head,
        teacher=Advantages(advantage_M=none, sampled_logp_M=none),
        token_ids_M=torch.zeros(0, dtype=torch.long),
    )
    loss.value_M.sum().backward()
    assert loss.value_M.numel() == 0


# -- baselines and rewards ----------------------------------------------------------------------------------------


def mixed(
    mix: AdvantageMix, teacher: list[float], rewards: list[float], lengths: list[int], groups: list[int]
):
    """Advantages where the sampling policy finds every token certain, so that the teacher's are its log-probs."""
    return advantages(
        mix,
        advantage_parts(
            mix,
            teacher_logp_M=torch.tensor(teacher, dtype=torch.float64),
            sampled_logp_M=torch.zeros(len(teacher), dtype=torch.float64),
            rewards_R=rewards,
            num_tokens_R=lengths,
            groups_R=groups,
        ),
    ).tolist()


ROWS: dict[str, Any] = {
    "teacher": [-1.0, -2.0, -3.0, -4.0, -10.0],
    "rewards": [1.0, 0.0, 1.0, 0.0],
    "lengths": [2, 1, 0, 2],
    "groups": [7, 7, 3, 3],
}


@pytest.mark.parametrize(
    ("mix", "expected"),
    [
        (AdvantageMix(), [-1, -2, -3, -4, -10]),
        (AdvantageMix(teacher=0.5), [-0.5, -1, -1.5, -2, -5]),
        (AdvantageMix(teacher_baseline="batch"), [3, 2, 1, 0, -6]),
        (AdvantageMix(teacher_baseline="group"), [1, 0, -1, 3, -3]),
        (AdvantageMix(teacher=0.0, reward=1.0, reward_baseline="none"), [1, 1, 0, 0, 0]),
        (AdvantageMix(teacher=0.0, reward=1.0, reward_baseline="batch"), [0.5, 0.5, -0.5, -0.5, -0.5]),
        (AdvantageMix(teacher=1.0, reward=2.0), [0, -1, -4, -5, -11]),
    ],
    ids=str,
)
def test_baselines_and_rewards_by_hand(mix, expected):
    assert mixed(mix, **ROWS) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("credits", "scale", "expected"),
    [
        ([1, 1, 1, 0], False, [0.5, 0.5, 0.5, -0.5]),
        ([0.25, 0.5, 1, 0], False, [-1 / 24, 5 / 24, 17 / 24, -7 / 24]),
        ([1, 1, 1, 0], True, [0.5 / (0.5**0.5 + 1e-4)] * 3 + [-0.5 / (0.5**0.5 + 1e-4)]),
        ([1, 1, 1, 1], True, [0, 0, 0, 0]),
    ],
)
def test_a_group_counts_each_episode_once_however_many_turns_it_has(credits, scale, expected):
    mix = AdvantageMix(teacher=0.0, reward=1.0, scale_by_spread=scale)
    parts = advantage_parts(
        mix,
        teacher_logp_M=None,
        sampled_logp_M=torch.zeros(4),
        rewards_R=credits,
        num_tokens_R=[1] * 4,
        groups_R=[0] * 4,
        episodes_R=[0, 0, 0, 1],
    )
    assert advantages(mix, parts).tolist() == pytest.approx(expected)


def test_a_group_of_one_episode_teaches_nothing():
    mix = AdvantageMix(teacher=0.0, reward=1.0, scale_by_spread=True)
    assert mixed(mix, [-1.0], [1.0], [1], [0]) == [0.0]


def test_batch_baseline_is_that_of_all_ranks():
    mix = AdvantageMix(teacher_baseline="batch", reward=1.0, reward_baseline="batch")

    def parts(rows: slice, tokens: slice):
        return advantage_parts(
            mix,
            teacher_logp_M=torch.tensor(ROWS["teacher"][tokens]),
            sampled_logp_M=torch.zeros(len(ROWS["teacher"][tokens])),
            rewards_R=ROWS["rewards"][rows],
            num_tokens_R=ROWS["lengths"][rows],
            groups_R=ROWS["groups"][rows],
        )

    ranks = [parts(slice(0, 2), slice(0, 3)), parts(slice(2, 4), slice(3, 5))]
    sent: list[Tensor] = []
    for rank in ranks:
        global_reduced(rank.sums(), lambda flat: sent.append(flat) or flat)
    sums = global_reduced(ranks[0].sums(), lambda flat: sent[0] + sent[1])
    together = [value for rank in ranks for value in advantages(mix, rank, sums).tolist()]
    assert together == pytest.approx(mixed(mix, **ROWS))


def test_group_baseline_shrinks_the_expected_gradient_by_one_over_the_samples():
    """All 25 pairs of samples of one prompt: half the reverse KL's gradient is left, in the same direction."""
    student, teacher = logits(0), logits(1)
    logp_V, teacher_logp_V = student.log_softmax(-1)[0], teacher.log_softmax(-1)[0]
    mix = AdvantageMix(teacher_baseline="group")
    expected = torch.zeros(V, dtype=torch.float64)
    for pair in itertools.product(range(V), repeat=2):
        ids = torch.tensor(pair)
        parts = advantage_parts(
            mix,
            teacher_logp_M=teacher_logp_V[ids],
            sampled_logp_M=logp_V[ids],
            rewards_R=[0.0, 0.0],
            num_tokens_R=[1, 1],
            groups_R=[0, 0],
        )
        given = Advantages(advantage_M=advantages(mix, parts), sampled_logp_M=logp_V[ids])
        expected += logp_V[ids].sum().exp() * gradient(student, ids, given, PolicyGradient()) / 2
    exact = exact_gradient(ReverseKL(), student, teacher)
    torch.testing.assert_close(expected, exact / 2, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda: AdvantageMix(teacher=0.0), "nothing would be learnt"),
        (lambda: AdvantageMix(teacher_baseline="mean"), "none, batch, group"),  # type: ignore[arg-type]
        (lambda: ClipRange(low=0.0), r"low in \(0, 1\]"),
        (lambda: PolicyGradient(cap=0.5), "at least 1"),
        (lambda: PolicyGradient(temperature=0.0), "above 0"),
        (lambda: AdvantageMix(scale_by_spread=True), "set reward"),
        (
            lambda: AdvantageMix(reward=1.0, reward_baseline="batch", scale_by_spread=True),
            "reward_baseline='group'",
        ),
        (
            lambda: advantage_parts(
                AdvantageMix(),
                teacher_logp_M=None,
                sampled_logp_M=torch.zeros(1),
                rewards_R=[1.0],
                num_tokens_R=[1],
                groups_R=[0],
            ),
            "no teacher has scored",
        ),
        (lambda: mixed(AdvantageMix(), [-1.0], [1.0], [2], [0]), "for 2 tokens"),
        (lambda: mixed(AdvantageMix(), [-1.0], [1.0], [1], [0, 1]), "2 groups for 1 rows"),
    ],
)
def test_settings_that_make_no_sense_are_refused(make, named):
    with pytest.raises(ValueError, match=named):
        make()

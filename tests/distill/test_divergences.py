"""Divergences and caps: numbers worked out by hand, and agreement with torch and TRL."""

from __future__ import annotations

import math

import pytest
import torch

from pilotage.distill.divergences import JSD, DropCap, ElementCap, ForwardKL, RescaleCap, ReverseKL

# Student (1/2, 1/2), teacher (3/4, 1/4):
#   KL(teacher || student) = 3/4 ln(3/2) + 1/4 ln(1/2),  KL(student || teacher) = 1/2 ln(2/3) + 1/2 ln 2.
STUDENT_LOGP = torch.tensor([[0.5, 0.5]], dtype=torch.float64).log()
TEACHER_LOGP = torch.tensor([[0.75, 0.25]], dtype=torch.float64).log()
FORWARD = 0.75 * math.log(1.5) + 0.25 * math.log(0.5)
REVERSE = 0.5 * math.log(2 / 3) + 0.5 * math.log(2.0)
# m = (5/8, 3/8) at beta = 1/2.
JSD_HALF = 0.5 * (0.75 * math.log(1.2) + 0.25 * math.log(2 / 3)) + 0.5 * (
    0.5 * math.log(0.8) + 0.5 * math.log(4 / 3)
)

DIVERGENCES = [
    ForwardKL(),
    ReverseKL(),
    JSD(beta=0.0),
    JSD(beta=0.1),
    JSD(beta=0.5),
    JSD(beta=0.9),
    JSD(beta=1.0),
]


def random_logp(*shape: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (3 * torch.randn(*shape, generator=generator, dtype=torch.float64)).log_softmax(-1)


@pytest.mark.parametrize(
    ("divergence", "expected"),
    [(ForwardKL(), FORWARD), (ReverseKL(), REVERSE), (JSD(beta=0.5), JSD_HALF)],
    ids=["forward", "reverse", "jsd"],
)
def test_direction_is_the_documented_one(divergence, expected):
    assert divergence(STUDENT_LOGP, TEACHER_LOGP).item() == pytest.approx(expected, abs=1e-12)


def test_kl_agrees_with_torch():
    student, teacher = random_logp(6, 11, seed=0), random_logp(6, 11, seed=1)
    kl_div = torch.nn.functional.kl_div
    forward = kl_div(student, teacher, reduction="none", log_target=True).sum(-1)
    reverse = kl_div(teacher, student, reduction="none", log_target=True).sum(-1)
    torch.testing.assert_close(ForwardKL()(student, teacher), forward, rtol=0, atol=1e-13)
    torch.testing.assert_close(ReverseKL()(student, teacher), reverse, rtol=0, atol=1e-13)


@pytest.mark.parametrize("beta", [0.0, 0.1, 0.5, 0.9, 1.0])
def test_jsd_convention_is_trls(beta):
    gkd = pytest.importorskip("trl.experimental.gkd.gkd_trainer")
    student, teacher = random_logp(2, 5, 11, seed=2), random_logp(2, 5, 11, seed=3)
    theirs = gkd.GKDTrainer.generalized_jsd_loss(student, teacher, beta=beta, reduction="sum")
    assert JSD(beta=beta)(student, teacher).sum().item() == pytest.approx(theirs.item(), abs=1e-6)


def test_jsd_is_a_weighted_sum_of_kls_to_the_mixture():
    student, teacher, beta = random_logp(4, 7, seed=4), random_logp(4, 7, seed=5), 0.3
    mixture = (beta * teacher.exp() + (1 - beta) * student.exp()).log()
    expected = beta * ForwardKL()(mixture, teacher) + (1 - beta) * ForwardKL()(mixture, student)
    torch.testing.assert_close(JSD(beta=beta)(student, teacher), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("divergence", DIVERGENCES, ids=str)
def test_slopes_are_the_derivatives_of_the_summands(divergence):
    student, teacher = random_logp(5, 8, seed=6).requires_grad_(), random_logp(5, 8, seed=7)
    expected = divergence.summands(student, teacher)
    (expected_slopes,) = torch.autograd.grad(expected.sum(), student)
    with torch.no_grad():
        summands, slopes = divergence.summands_and_slopes(student, teacher, student.exp(), teacher.exp())
    torch.testing.assert_close(summands, expected.detach(), rtol=0, atol=1e-12)
    torch.testing.assert_close(slopes, expected_slopes, rtol=0, atol=1e-12)


@pytest.mark.parametrize("divergence", DIVERGENCES, ids=str)
def test_divergence_is_finite_where_probabilities_underflow(divergence):
    student = torch.tensor([[0.0, -300.0, -400.0]]).log_softmax(-1)
    teacher = torch.tensor([[0.0, -400.0, -300.0]]).log_softmax(-1)
    summands, slopes = divergence.summands_and_slopes(student, teacher, student.exp(), teacher.exp())
    assert divergence(student, teacher).item() == pytest.approx(0.0, abs=1e-6)
    assert summands.isfinite().all()
    assert slopes.isfinite().all()


def test_drop_cap_has_value_tau_and_no_gradient_above_it():
    nats = torch.tensor([0.02, 0.05, 0.4], requires_grad=True)
    value, factor, capped = DropCap(tau=0.05).on_tokens(nats)
    value.sum().backward()
    assert value.tolist() == pytest.approx([0.02, 0.05, 0.05])
    assert nats.grad is not None
    assert factor is not None
    assert capped is not None
    assert nats.grad.tolist() == factor.tolist() == [1.0, 1.0, 0.0]
    assert capped.tolist() == [0.0, 0.0, 1.0]


def test_rescale_cap_keeps_a_gradient_above_tau():
    nats = torch.tensor([0.02, 0.4], requires_grad=True)
    value, factor, capped = RescaleCap(tau=0.05).on_tokens(nats)
    value.sum().backward()
    assert value.tolist() == pytest.approx([0.02, 0.05])
    assert nats.grad is not None
    assert factor is not None
    assert capped is not None
    assert nats.grad.tolist() == pytest.approx([1.0, 0.125])  # 0.05 / 0.4
    assert factor.tolist() == pytest.approx([1.0, 0.125])
    assert capped.tolist() == [0.0, 1.0]


@pytest.mark.parametrize("beta", [-0.1, 1.5, float("nan")])
def test_beta_outside_the_unit_interval_is_refused(beta):
    with pytest.raises(ValueError, match="teacher's share of the mixture"):
        JSD(beta=beta)


@pytest.mark.parametrize("cap", [DropCap, RescaleCap, ElementCap])
def test_cap_of_zero_is_refused(cap):
    with pytest.raises(ValueError, match="use NoCap"):
        cap(tau=0.0)

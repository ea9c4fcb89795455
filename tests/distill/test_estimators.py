"""Estimators: the chunked path against autograd, the checks every combination must pass, and the known hazards."""

from __future__ import annotations

import itertools
import sys

import pytest
import torch

from pilotage.distill import chunked
from pilotage.distill.chunked import Head
from pilotage.distill.divergences import JSD, DropCap, ElementCap, ForwardKL, NoCap, RescaleCap, ReverseKL
from pilotage.distill.estimators import FullVocabulary, Logits, Sampled, SampledLogProbs, TokenLoss, TopK

M, V, H = 9, 23, 6  # KLs of about 0.5 to 6 nats, so that a cap of 2.5 acts on some tokens and not on others
DIVERGENCES = [ForwardKL(), ReverseKL(), JSD(beta=0.3)]
CAPS = [NoCap(), DropCap(tau=2.5), RescaleCap(tau=2.5), ElementCap(tau=0.05)]


def estimators(*, temperature: float = 1.0, chunk_size: int | None = None) -> list:
    common = {"temperature": temperature, "chunk_size": chunk_size}
    found: list = []
    for divergence, cap in itertools.product(DIVERGENCES, CAPS):
        found.append(FullVocabulary(divergence=divergence, cap=cap, **common))
        for mode, of in itertools.product(("renormalise", "tail"), ("teacher", "student")):
            found.append(TopK(k=4, divergence=divergence, mode=mode, of=of, cap=cap, **common))
    for as_, cap in itertools.product(("advantage", "loss"), CAPS[:3]):
        found.append(Sampled(as_=as_, cap=cap, **common))
    found.append(Sampled(as_="advantage", divergence=JSD(beta=0.3), cap=DropCap(tau=0.5), **common))
    found.append(Sampled(as_="advantage", gate=10.0, **common))
    found.append(Sampled(as_="likelihood", **common))
    return found


class Case:
    """Two models' last layers, sampled ids and weights, in float64."""

    def __init__(
        self, *, seed: int = 0, equal: bool = False, num_tokens: int = M, dtype=torch.float64
    ) -> None:
        generator = torch.Generator().manual_seed(seed)

        def normal(*shape: int) -> torch.Tensor:
            return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)

        self.hidden, self.weight, self.bias = normal(num_tokens, H), normal(V, H), normal(V)
        self.teacher = Head(hidden_MH=normal(num_tokens, 4), weight_VH=normal(V, 4))
        if equal:
            self.teacher = Head(hidden_MH=self.hidden, weight_VH=self.weight, bias_V=self.bias)
        self.ids = torch.randint(V, (num_tokens,), generator=generator)
        self.weights = torch.rand(num_tokens, generator=generator, dtype=torch.float64).to(dtype)

    def student(self) -> Head:
        leaves = [tensor.clone().requires_grad_() for tensor in (self.hidden, self.weight, self.bias)]
        return Head(hidden_MH=leaves[0], weight_VH=leaves[1], bias_V=leaves[2])

    def loss(self, estimator, student: Head, *, reference: bool = False, **kwargs) -> TokenLoss:
        scores = Logits(logits_MV=student.logits()) if reference else student
        kwargs = {"weight_M": self.weights, **kwargs}
        return estimator(student=scores, teacher=self.teacher, token_ids_M=self.ids, **kwargs)


def gradients(student: Head) -> list[torch.Tensor]:
    assert student.bias_V is not None
    found = [student.hidden_MH.grad, student.weight_VH.grad, student.bias_V.grad]
    assert all(gradient is not None for gradient in found)
    return found  # type: ignore[return-value]


def assert_same(ours: TokenLoss, theirs: TokenLoss, atol: float = 1e-10) -> None:
    for name in ("value_M", "divergence_M", "capped_M", "entropy_M", "agreement_M"):
        torch.testing.assert_close(
            getattr(ours, name),
            getattr(theirs, name),
            rtol=0,
            atol=atol,
            msg=lambda text, name=name: f"{name}: {text}",
        )


@pytest.fixture(autouse=True)
def narrow_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several tiles even in a vocabulary of 23, the last one short."""
    monkeypatch.setattr(chunked, "_TILE_ENTRIES", 5)


@pytest.mark.parametrize("estimator", estimators(temperature=1.3, chunk_size=4), ids=str)
def test_chunked_values_and_gradients_are_those_of_autograd(estimator):
    case = Case()
    ours, theirs = case.student(), case.student()
    chunked_loss, reference_loss = case.loss(estimator, ours), case.loss(estimator, theirs, reference=True)
    assert_same(chunked_loss, reference_loss)
    (2.5 * chunked_loss.value_M.sum()).backward()
    (2.5 * reference_loss.value_M.sum()).backward()
    for got, expected in zip(gradients(ours), gradients(theirs), strict=True):
        torch.testing.assert_close(got, expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("estimator", estimators(chunk_size=4)[::3], ids=str)
def test_any_use_of_the_values_gets_its_gradient(estimator):
    case, factor_M = Case(), torch.arange(M, dtype=torch.float64)
    ours, theirs = case.student(), case.student()
    (case.loss(estimator, ours).value_M * factor_M).sum().backward()
    (case.loss(estimator, theirs, reference=True).value_M * factor_M).sum().backward()
    for got, expected in zip(gradients(ours), gradients(theirs), strict=True):
        torch.testing.assert_close(got, expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("divergence", DIVERGENCES, ids=str)
@pytest.mark.parametrize("used", ["summed", "apart"])
def test_gradients_pass_numerical_differentiation(divergence, used):
    case = Case(num_tokens=4)
    estimator = FullVocabulary(divergence=divergence, chunk_size=3)

    def values(hidden, weight, bias):
        student = Head(hidden_MH=hidden, weight_VH=weight, bias_V=bias)
        value_M = case.loss(estimator, student).value_M
        return value_M.sum() if used == "summed" else value_M

    student = case.student()
    assert student.bias_V is not None
    inputs = (student.hidden_MH, student.weight_VH, student.bias_V)
    assert torch.autograd.gradcheck(values, inputs, fast_mode=True)


def test_gradient_can_be_asked_for_twice():
    case, student = Case(), Case().student()
    total = case.loss(FullVocabulary(divergence=ReverseKL()), student).value_M.sum()
    (first,) = torch.autograd.grad(total, student.hidden_MH, retain_graph=True)
    first = first.clone()
    (second,) = torch.autograd.grad(3 * total, student.hidden_MH)
    torch.testing.assert_close(second, 3 * first)


@pytest.mark.parametrize(
    "estimator",
    # A reference is no model that the student could be equal to.
    [one for one in estimators(chunk_size=4) if getattr(one, "as_", "") != "likelihood"],
    ids=str,
)
@pytest.mark.parametrize("reference", [False, True], ids=["chunked", "autograd"])
def test_equal_models_have_zero_gradient(estimator, reference):
    case = Case(equal=True)
    student = case.student()
    loss = case.loss(estimator, student, reference=reference)
    loss.value_M.sum().backward()
    for gradient in gradients(student):
        assert gradient.abs().max().item() < 1e-12
    assert loss.divergence_M.abs().max().item() < 1e-12
    assert loss.agreement_M is not None
    assert loss.agreement_M.tolist() == [1.0] * M
    assert loss.cap_rate.item() == 0.0


@pytest.mark.parametrize("divergence", DIVERGENCES, ids=str)
def test_unnormalised_top_k_would_have_a_gradient_even_when_equal(divergence):
    """Why `TopK` has no mode that leaves the probabilities as they are."""
    case = Case(equal=True)
    logp = case.student().logits().log_softmax(-1)
    logits = case.student().logits().detach().requires_grad_()
    top = logp.detach().topk(4).indices
    student_logp = logits.log_softmax(-1).gather(-1, top)
    divergence(student_logp, logp.detach().gather(-1, top)).sum().backward()
    assert logits.grad is not None
    largest = logits.grad.abs().max().item()
    if isinstance(divergence, JSD):
        assert largest < 1e-12  # its slope at equality is 0, for every entry by itself
    else:
        assert largest > 0.01


@pytest.mark.parametrize("divergence", DIVERGENCES, ids=str)
@pytest.mark.parametrize("cap", CAPS, ids=str)
@pytest.mark.parametrize("mode", ["renormalise", "tail"])
def test_top_k_of_the_whole_vocabulary_is_the_full_divergence(divergence, cap, mode):
    case = Case()
    full, top = case.student(), case.student()
    full_loss = case.loss(FullVocabulary(divergence=divergence, cap=cap, chunk_size=4), full)
    top_loss = case.loss(TopK(k=V, divergence=divergence, cap=cap, mode=mode, chunk_size=4), top)
    assert_same(top_loss, full_loss)
    full_loss.value_M.sum().backward()
    top_loss.value_M.sum().backward()
    for got, expected in zip(gradients(top), gradients(full), strict=True):
        torch.testing.assert_close(got, expected, rtol=0, atol=1e-10)


def test_top_k_tail_by_hand():
    """Student (1/2, 1/4, 1/4), teacher (1/4, 1/2, 1/4), k = 1: entry 1 against the rest, (1/4, 3/4) and (1/2, 1/2)."""
    student = Logits(logits_MV=torch.tensor([[0.5, 0.25, 0.25]], dtype=torch.float64).log())
    teacher = Logits(logits_MV=torch.tensor([[0.25, 0.5, 0.25]], dtype=torch.float64).log())
    loss = TopK(k=1, divergence=ForwardKL(), mode="tail")(student=student, teacher=teacher)
    assert loss.value_M.item() == pytest.approx(0.14384103622589042)  # 1/2 ln 2 + 1/2 ln(2/3)
    both = TopK(k=2, divergence=ForwardKL(), mode="renormalise")(student=student, teacher=teacher)
    # The teacher's two likeliest are 1 and, of the tied others, either: (1/2, 1/4) -> (2/3, 1/3).
    assert both.value_M.item() in (pytest.approx(0.2310490601866484), pytest.approx(0.05663301226513249))


def expected_gradient(estimator, case: Case) -> torch.Tensor:
    """Gradient at the student's logits [V], averaged over the student's own choice of the token."""
    logits = case.student().logits().detach().requires_grad_()
    p_V = logits.detach().softmax(-1)[0]
    total = torch.zeros(V, dtype=torch.float64)
    for token in range(V):
        loss = estimator(
            student=Logits(logits_MV=logits), teacher=case.teacher, token_ids_M=torch.tensor([token])
        )
        (gradient,) = torch.autograd.grad(loss.value_M.sum(), logits)
        total += p_V[token] * gradient[0]
    return total


@pytest.mark.parametrize(
    ("sampled", "divergence"),
    [
        (Sampled(as_="advantage"), ReverseKL()),
        (Sampled(as_="loss"), ForwardKL()),
        (Sampled(as_="advantage", divergence=JSD(beta=0.5)), JSD(beta=0.5)),
        (Sampled(as_="advantage", divergence=ForwardKL()), ForwardKL()),
    ],
    ids=str,
)
def test_expected_gradient_of_the_sampled_token_is_that_of_a_divergence(sampled, divergence, monkeypatch):
    monkeypatch.setattr(sys.modules[__name__], "V", 5)
    case = Case(num_tokens=1)
    logits = case.student().logits().detach().requires_grad_()
    full = FullVocabulary(divergence=divergence)(student=Logits(logits_MV=logits), teacher=case.teacher)
    (exact,) = torch.autograd.grad(full.value_M.sum(), logits)
    torch.testing.assert_close(expected_gradient(sampled, case), exact[0], rtol=0, atol=1e-12)
    assert exact.abs().max() > 0.01


def test_expected_value_of_the_sampled_loss_is_the_reverse_kl():
    case = Case(num_tokens=1)
    ids = torch.arange(V)
    student = case.student().logits().detach()
    sampled = Sampled(as_="loss")(
        student=Logits(logits_MV=student.expand(V, V)),
        teacher=Logits(logits_MV=case.teacher.logits().expand(V, V)),
        token_ids_M=ids,
    )
    expected = (student.softmax(-1)[0] * sampled.value_M).sum()
    exact = ReverseKL()(student.log_softmax(-1), case.teacher.logits().log_softmax(-1))
    torch.testing.assert_close(expected, exact[0])


def test_sampled_token_needs_only_the_teachers_log_probabilities():
    case = Case()
    teacher_logp_M = case.teacher.logits().log_softmax(-1).gather(-1, case.ids[:, None]).squeeze(-1)
    for as_ in ("advantage", "loss"):
        estimator = Sampled(as_=as_, chunk_size=4)
        local, remote = case.student(), case.student()
        case.loss(estimator, local).value_M.sum().backward()
        loss = estimator(
            student=remote,
            teacher=SampledLogProbs(logp_M=teacher_logp_M),
            token_ids_M=case.ids,
            weight_M=case.weights,
        )
        loss.value_M.sum().backward()
        for got, expected in zip(gradients(remote), gradients(local), strict=True):
            torch.testing.assert_close(got, expected, rtol=0, atol=1e-12)
        student_logp_M = remote.logits().log_softmax(-1).gather(-1, case.ids[:, None]).squeeze(-1)
        torch.testing.assert_close(loss.divergence_M, (student_logp_M - teacher_logp_M).detach())
        assert loss.agreement_M is None


def test_advantage_pushes_towards_what_the_teacher_prefers():
    """Student (1/2, 1/2), teacher (3/4, 1/4), sampled entry 0: A = ln(3/2), dL/dz = -A (1/2, -1/2)."""
    logits = torch.zeros(1, 2, dtype=torch.float64, requires_grad=True)
    teacher = Logits(logits_MV=torch.tensor([[0.75, 0.25]], dtype=torch.float64).log())
    loss = Sampled(as_="advantage")(
        student=Logits(logits_MV=logits), teacher=teacher, token_ids_M=torch.tensor([0])
    )
    loss.value_M.sum().backward()
    assert logits.grad is not None
    assert logits.grad[0].tolist() == pytest.approx([-0.2027325540540822, 0.2027325540540822])


@pytest.mark.parametrize("cap", [DropCap(tau=2.5), RescaleCap(tau=2.5)], ids=str)
@pytest.mark.parametrize(
    "estimator",
    [FullVocabulary(divergence=ReverseKL()), Sampled(as_="advantage")],
    ids=lambda e: type(e).__name__,
)
def test_dropping_cap_silences_tokens_above_it_and_rescaling_does_not(cap, estimator):
    case = Case()
    student, free = case.student(), case.student()
    capped = case.loss(type(estimator)(**{**vars(estimator), "cap": cap}), student)
    uncapped = case.loss(estimator, free)
    capped.value_M.sum().backward()
    uncapped.value_M.sum().backward()
    above = capped.capped_M == 1.0
    assert 0.0 < capped.cap_rate.item() < 1.0
    assert capped.cap_rate.item() == pytest.approx(above.double().mean().item())
    got, raw = gradients(student)[0], gradients(free)[0]
    torch.testing.assert_close(got[~above], raw[~above])
    if isinstance(cap, DropCap):
        assert got[above].abs().max().item() == 0.0
    else:
        shrink = got[above].norm(dim=-1) / raw[above].norm(dim=-1)
        assert ((shrink > 0.0) & (shrink < 1.0)).all()


def test_element_cap_bounds_each_summand_and_counts_the_tokens():
    case, tau = Case(), 0.05
    loss = case.loss(
        FullVocabulary(divergence=ForwardKL(), cap=ElementCap(tau=tau)), case.student(), weight_M=None
    )
    student_logp = case.student().logits().log_softmax(-1).detach()
    summands = ForwardKL().summands(student_logp, case.teacher.logits().log_softmax(-1))
    torch.testing.assert_close(loss.value_M.detach(), summands.clamp(max=tau).sum(-1))
    torch.testing.assert_close(loss.divergence_M, summands.sum(-1))
    assert loss.cap_rate.item() == pytest.approx((summands > tau).any(-1).double().mean().item())


@pytest.mark.parametrize("chunk_size", [1, 2, 5, M, 100, None])
def test_result_does_not_depend_on_the_chunk_size(chunk_size):
    case = Case()
    whole, cut = case.student(), case.student()
    one = case.loss(FullVocabulary(divergence=JSD(beta=0.5), chunk_size=M), whole)
    other = case.loss(FullVocabulary(divergence=JSD(beta=0.5), chunk_size=chunk_size), cut)
    assert_same(other, one)
    one.value_M.sum().backward()
    other.value_M.sum().backward()
    for got, expected in zip(gradients(cut), gradients(whole), strict=True):
        torch.testing.assert_close(got, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    "estimator",
    [FullVocabulary(divergence=ReverseKL()), TopK(k=3, divergence=ForwardKL()), Sampled(as_="advantage")],
)
def test_no_tokens_give_zero_loss_and_zero_gradient(estimator):
    case = Case(num_tokens=0)
    student = case.student()
    loss = case.loss(estimator, student)
    loss.value_M.sum().backward()
    assert loss.cap_rate.item() == 0.0
    assert all(gradient.abs().sum().item() == 0.0 for gradient in gradients(student))


@pytest.mark.parametrize("estimator", estimators()[::4], ids=str)
def test_token_of_weight_zero_has_no_influence(estimator):
    case = Case()
    weights = case.weights.clone()
    weights[3] = 0.0
    student = case.student()
    loss = case.loss(estimator, student, weight_M=weights)
    loss.value_M.sum().backward()
    assert loss.value_M[3].item() == 0.0
    assert gradients(student)[0][3].abs().max().item() == 0.0


def test_no_gradient_reaches_the_teacher_or_the_weights():
    case = Case()
    teacher = Head(
        hidden_MH=torch.randn(M, 4).double().requires_grad_(), weight_VH=torch.randn(V, 4).double()
    )
    weights = case.weights.clone().requires_grad_()
    for scores in (teacher, Logits(logits_MV=teacher.logits())):
        student = case.student()
        student = student if isinstance(scores, Head) else Logits(logits_MV=student.logits())
        loss = FullVocabulary(divergence=ForwardKL())(student=student, teacher=scores, weight_M=weights)
        loss.value_M.sum().backward()
    assert teacher.hidden_MH.grad is None
    assert weights.grad is None


def test_frozen_head_still_teaches_the_hidden_states():
    case = Case()
    hidden, frozen = case.hidden.clone().requires_grad_(), case.student()
    case.loss(FullVocabulary(divergence=ReverseKL()), frozen).value_M.sum().backward()
    head = Head(hidden_MH=hidden, weight_VH=case.weight, bias_V=case.bias)
    case.loss(FullVocabulary(divergence=ReverseKL()), head).value_M.sum().backward()
    torch.testing.assert_close(hidden.grad, gradients(frozen)[0])


def test_without_gradients_the_values_are_the_same():
    case = Case()
    estimator = FullVocabulary(divergence=ReverseKL())
    with torch.no_grad():
        quiet = case.loss(estimator, case.student())
    assert not quiet.value_M.requires_grad
    assert_same(quiet, case.loss(estimator, case.student()))


@pytest.mark.parametrize("estimator", estimators(chunk_size=4)[::5], ids=str)
def test_bfloat16_states_are_accumulated_in_float32(estimator):
    low, high = Case(dtype=torch.bfloat16), Case()
    for name in ("hidden", "weight", "bias", "weights"):
        setattr(high, name, getattr(low, name).double())
    high.teacher = Head(hidden_MH=low.teacher.hidden_MH.double(), weight_VH=low.teacher.weight_VH.double())
    ours, exact = low.student(), high.student()
    loss, expected = low.loss(estimator, ours), high.loss(estimator, exact)
    assert loss.value_M.dtype == torch.float32
    torch.testing.assert_close(loss.value_M.double(), expected.value_M, rtol=1e-4, atol=1e-4)
    loss.value_M.sum().backward()
    expected.value_M.sum().backward()
    for got, wanted in zip(gradients(ours), gradients(exact), strict=True):
        assert got.dtype == torch.bfloat16
        assert (got.double() - wanted).norm() < 0.01 * wanted.norm()


def test_tail_gradient_is_finite_when_the_tail_underflows():
    logits = torch.tensor([[200.0, 199.0, 0.0, -1.0]])
    head = torch.eye(4)
    student = Head(hidden_MH=logits.clone().requires_grad_(), weight_VH=head)
    teacher = Head(hidden_MH=torch.tensor([[199.0, 200.0, 0.0, 1.0]]), weight_VH=head)
    TopK(k=2, divergence=ForwardKL(), mode="tail")(student=student, teacher=teacher).value_M.sum().backward()
    assert student.hidden_MH.grad is not None
    # p_student - p_teacher on two entries: 1 / (1 + e^-1) - 1 / (1 + e) = tanh(1/2).
    assert student.hidden_MH.grad[0].tolist() == pytest.approx([0.46211716, -0.46211716, 0.0, 0.0], abs=1e-6)


def test_logit_buffers_do_not_grow_with_tokens():
    """Sizes that the loop asks torch for, by a mode that sees every new tensor: none reaches M x V."""
    from torch.utils._python_dispatch import TorchDispatchMode

    class Largest(TorchDispatchMode):
        numel = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            out = func(*args, **(kwargs or {}))
            for tensor in out if isinstance(out, tuple | list) else (out,):
                if isinstance(tensor, torch.Tensor):
                    self.numel = max(self.numel, tensor.untyped_storage().nbytes() // tensor.element_size())
            return out

    largest = {}
    for num_tokens in (16, 160):
        case = Case(num_tokens=num_tokens)
        with Largest() as mode:
            case.loss(
                FullVocabulary(divergence=JSD(beta=0.5), chunk_size=8), case.student()
            ).value_M.sum().backward()
        largest[num_tokens] = mode.numel
    assert largest[16] == 8 * V
    assert largest[160] == 160 * H  # the hidden states themselves
    assert 160 * H < 160 * V


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: TopK(k=1, divergence=ForwardKL(), mode="renormalise"), "one entry is always 1"),
        (lambda: TopK(k=0, divergence=ForwardKL()), "k must be >= 1"),
        (lambda: TopK(k=2, divergence=ForwardKL(), mode="raw"), "mode='raw'"),  # type: ignore[arg-type]
        (lambda: Sampled(as_="loss", divergence=ForwardKL()), "only an 'advantage' has other divergences"),
        (lambda: Sampled(as_="gradient"), "'advantage', 'loss'"),  # type: ignore[arg-type]
        (lambda: Sampled(as_="advantage", gate=-1.0), "gate=-1.0"),
        (lambda: Sampled(as_="likelihood", gate=1.0), "no teacher to be bounded"),
        (lambda: Sampled(as_="loss", cap=ElementCap(tau=1.0)), "DropCap or RescaleCap"),  # type: ignore[arg-type]
        (lambda: FullVocabulary(divergence=ForwardKL(), temperature=0.0), "temperature=0.0"),
        (lambda: FullVocabulary(divergence=ForwardKL(), chunk_size=0), "chunk_size=0"),
        (
            lambda: Head(hidden_MH=torch.zeros(2, 3, 4), weight_VH=torch.zeros(5, 4)),
            "select the active tokens",
        ),
    ],
)
def test_impossible_settings_are_refused_with_a_remedy(make, words):
    with pytest.raises(ValueError, match=words):
        make()


def test_mismatched_heads_are_refused():
    case = Case()
    short = Head(hidden_MH=case.teacher.hidden_MH[:-1], weight_VH=case.teacher.weight_VH)
    with pytest.raises(ValueError, match="same tokens over the same vocabulary"):
        FullVocabulary(divergence=ForwardKL())(student=case.student(), teacher=short)
    with pytest.raises(ValueError, match="only 23 entries"):
        case.loss(TopK(k=24, divergence=ForwardKL()), case.student())
    with pytest.raises(ValueError, match="token_ids_M"):
        Sampled(as_="advantage")(student=case.student(), teacher=case.teacher)


def test_likelihood_is_the_cross_entropy_of_the_given_words():
    case, student = Case(), Case().student()
    loss = Sampled(as_="likelihood", chunk_size=4)(
        student=student, teacher=SampledLogProbs(logp_M=torch.zeros(M)), token_ids_M=case.ids
    )
    expected_M = torch.nn.functional.cross_entropy(student.logits(), case.ids, reduction="none")
    torch.testing.assert_close(loss.value_M, expected_M, rtol=0, atol=1e-12)
    torch.testing.assert_close(loss.divergence_M, expected_M.detach(), rtol=0, atol=1e-12)
    (ours,) = torch.autograd.grad(loss.value_M.sum(), student.hidden_MH)
    (theirs,) = torch.autograd.grad(expected_M.sum(), student.hidden_MH)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)


def test_the_gate_lets_through_what_the_teacher_endorses():
    case = Case()
    plain, gated = case.student(), case.student()
    case.loss(Sampled(as_="advantage"), plain).value_M.sum().backward()
    loss = case.loss(Sampled(as_="advantage", gate=10.0), gated)
    ids_M1 = case.ids[:, None]
    teacher_M = case.teacher.logits().log_softmax(-1).gather(-1, ids_M1)[:, 0]
    student_M = plain.logits().detach().log_softmax(-1).gather(-1, ids_M1)[:, 0]
    factor_M = torch.sigmoid(10.0 * (teacher_M - student_M))
    assert factor_M.min() < 0.01 and factor_M.max() > 0.99
    loss.value_M.sum().backward()
    plain_MH, gated_MH = gradients(plain)[0], gradients(gated)[0]
    torch.testing.assert_close(gated_MH, factor_M[:, None] * plain_MH, rtol=0, atol=1e-10)

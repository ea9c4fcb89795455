"""How a divergence is computed from two heads: the full vocabulary, its top k entries, or the sampled token.

Axis letters: M active tokens, C tokens of one chunk, V vocabulary entries, K selected entries, H hidden.

Every estimator is called the same way and returns the same record:

    loss = estimator(student=Head(...), teacher=Head(...), token_ids_M=ids, weight_M=weights)
    loss.value_M.sum().backward()

Heads are projected in chunks of tokens with gradients written out by hand (`pilotage.distill.chunked`). Logits are
accepted in place of either head; both are then plain tensors and autograd does the rest: that is the reference that
the chunked path is tested against. No gradient ever reaches the teacher.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from pilotage.distill.advantage import teacher_advantage
from pilotage.distill.chunked import ChunkPlan, Head, RowProgram, RowStats, RowTask, Tiles, chunked_rows
from pilotage.distill.divergences import Cap, Divergence, ElementCap, NoCap, ReverseKL


@dataclass(frozen=True, kw_only=True, eq=False)
class Logits:
    """Logits that already exist, in place of a head."""

    logits_MV: Tensor


@dataclass(frozen=True, kw_only=True, eq=False)
class SampledLogProbs:
    """All that is known of a remote teacher: log-probabilities, in nats, of the sampled ids."""

    logp_M: Tensor


@dataclass(frozen=True, kw_only=True, eq=False)
class TokenLoss:
    """What an estimator says of M active tokens."""

    value_M: Tensor
    """weight * capped divergence (or surrogate); its sum is this call's part of the loss. Differentiable."""
    divergence_M: Tensor
    """Monitor, detached: nats per token, neither weighted nor capped."""
    capped_M: Tensor
    """Monitor, detached: 1.0 where the cap acted on the token or on one of its entries."""
    entropy_M: Tensor
    """Monitor, detached: entropy of the student's distribution, nats."""
    agreement_M: Tensor | None
    """Monitor, detached: 1.0 where both find the same entry most likely; None if the teacher gave no distribution."""

    @property
    def cap_rate(self) -> Tensor:
        """Share of the tokens that the cap touched, in [0, 1]; 0 when there are no tokens."""
        return self.capped_M.sum() / max(self.capped_M.numel(), 1)


@dataclass(frozen=True, kw_only=True)
class FullVocabulary:
    """The divergence over all V entries."""

    divergence: Divergence
    cap: Cap = field(default_factory=NoCap)
    temperature: float = 1.0
    """Divides both models' logits. Values and gradients are not multiplied by its square."""
    chunk_size: int | None = None
    """Tokens projected at once; None chooses by cache and memory: 80 MiB of logits (1 GiB on an accelerator)."""

    def __post_init__(self) -> None:
        _check(self.temperature, self.chunk_size)

    def __call__(
        self,
        *,
        student: Head | Logits,
        teacher: Head | Logits,
        token_ids_M: Tensor | None = None,
        weight_M: Tensor | None = None,
    ) -> TokenLoss:
        """Loss of M tokens; `token_ids_M` is not needed here and is accepted so that estimators can be swapped."""
        if isinstance(student, Head) and isinstance(teacher, Head):
            return _chunked(self, self._rows, student=student, teacher=teacher, weight_M=weight_M)
        student_logp_MV, teacher_logp_MV = _both_logp(student, teacher, self.temperature)
        value_M, nats_M, capped_M = _capped_sum(self.divergence, self.cap, student_logp_MV, teacher_logp_MV)
        return _token_loss(value_M, nats_M, capped_M, student_logp_MV, teacher_logp_MV, weight_M)

    def _rows(self, task: RowTask) -> RowStats:
        # Two passes over the tiles: sum_u slope_u, and whether a token cap acts, are known only behind the last tile.
        # Until then the student's buffer keeps p and the teacher's, whose logits are spent, keeps the slopes.
        by_entry = isinstance(self.cap, ElementCap)
        student_log_total_C, teacher_log_total_C = _shift(task.student), _shift(task.teacher)
        # Before the loop: it needs the maxima at exactly 0, as _shift leaves them.
        agreement_C = _agreement(task.student, task.teacher)
        nats_C, uncapped_C, slope_total_C, entropy_C = (torch.zeros_like(task.weight_C) for _ in range(4))
        entry_capped_C = torch.zeros_like(task.weight_C, dtype=torch.bool)
        for student_CV, teacher_CV in zip(task.student, task.teacher, strict=True):
            student_CV.sub_(student_log_total_C[:, None])
            teacher_CV.sub_(teacher_log_total_C[:, None])
            student_p_CV, teacher_p_CV = student_CV.exp(), teacher_CV.exp()
            entropy_C -= torch.linalg.vecdot(student_p_CV, student_CV)
            summands_CV, slopes_CV = self.divergence.summands_and_slopes(
                student_CV, teacher_CV, student_p_CV, teacher_p_CV
            )
            if isinstance(self.cap, ElementCap):
                uncapped_C += summands_CV.sum(-1)
                above_CV = summands_CV > self.cap.tau
                entry_capped_C |= above_CV.any(-1)
                summands_CV.clamp_(max=self.cap.tau)
                # A capped entry is a constant, but its logit still moves the others' p: only its own slope goes.
                slopes_CV.masked_fill_(above_CV, 0.0)
            nats_C += summands_CV.sum(-1)
            # Last: both buffers are read above, and hold no log-probabilities from here on.
            if task.with_gradient:
                slope_total_C += slopes_CV.sum(-1)
                teacher_CV.copy_(slopes_CV)
                student_CV.copy_(student_p_CV)
        on_tokens = self.cap.on_tokens(nats_C)
        if task.with_gradient:
            factor_C = task.weight_C if on_tokens.factor_M is None else task.weight_C * on_tokens.factor_M
            pull_C = factor_C * slope_total_C
            # dD/dz_v = slope_v - p_v * sum_u slope_u (see divergences.py), times the token's weight and cap factor.
            # The p in the buffer becomes the gradient itself, which is what chunked_rows carries on.
            for grad_CV, slopes_CV in zip(task.student, task.teacher, strict=True):
                grad_CV.mul_(-pull_C[:, None]).addcmul_(slopes_CV, factor_C[:, None])
        return RowStats(
            value_C=on_tokens.value_M,
            divergence_C=uncapped_C if by_entry else nats_C,
            capped_C=entry_capped_C.to(nats_C.dtype) if by_entry else on_tokens.capped_M,
            entropy_C=entropy_C,
            agreement_C=agreement_C,
        )


@dataclass(frozen=True, kw_only=True)
class TopK:
    """The divergence over the k likeliest entries of one of the models.

    Leaving the k probabilities as they are would have a gradient even when the two models are equal: they do not sum
    to 1, so the divergence is not least at equality. Hence both modes make distributions of them.
    """

    k: int
    divergence: Divergence
    mode: Literal["renormalise", "tail"] = "tail"
    """`renormalise`: the k entries alone, summing to 1. `tail`: all other entries together are the (k+1)-th."""
    of: Literal["teacher", "student"] = "teacher"
    """Whose likeliest entries."""
    cap: Cap = field(default_factory=NoCap)
    temperature: float = 1.0
    chunk_size: int | None = None

    def __post_init__(self) -> None:
        _check(self.temperature, self.chunk_size)
        if self.k < 1 or (self.k == 1 and self.mode == "renormalise"):
            raise ValueError(
                f"TopK(k={self.k}): k must be >= 1, and >= 2 to renormalise (one entry is always 1)"
            )
        if self.mode not in ("renormalise", "tail") or self.of not in ("teacher", "student"):
            raise ValueError(
                f"TopK: mode={self.mode!r} (renormalise, tail), of={self.of!r} (teacher, student)"
            )

    def __call__(
        self,
        *,
        student: Head | Logits,
        teacher: Head | Logits,
        token_ids_M: Tensor | None = None,
        weight_M: Tensor | None = None,
    ) -> TokenLoss:
        """Loss of M tokens; raises ValueError when k exceeds the vocabulary."""
        if isinstance(student, Head) and isinstance(teacher, Head):
            self._check_k(student.weight_VH.shape[0])
            return _chunked(
                self, self._rows, student=student, teacher=teacher, weight_M=weight_M, whole_rows=True
            )
        student_logp_MV, teacher_logp_MV = _both_logp(student, teacher, self.temperature)
        self._check_k(student_logp_MV.shape[1])
        top_MK = self._select(student_logp_MV, teacher_logp_MV)
        student_logp_MK, teacher_logp_MK = (
            self._categories(logp_MV, top_MK) for logp_MV in (student_logp_MV, teacher_logp_MV)
        )
        value_M, nats_M, capped_M = _capped_sum(self.divergence, self.cap, student_logp_MK, teacher_logp_MK)
        return _token_loss(value_M, nats_M, capped_M, student_logp_MV, teacher_logp_MV, weight_M)

    def _check_k(self, num_entries: int) -> None:
        if self.k > num_entries:
            raise ValueError(f"TopK(k={self.k}): the vocabulary has only {num_entries} entries")

    def _select(self, student_MV: Tensor, teacher_MV: Tensor) -> Tensor:
        chosen_MV = teacher_MV if self.of == "teacher" else student_MV
        return chosen_MV.detach().topk(self.k, dim=-1, sorted=False).indices

    def _categories(self, logp_MV: Tensor, top_MK: Tensor) -> Tensor:
        """Log-probabilities [M, K] or, with the tail, [M, K+1]."""
        logp_MK = logp_MV.gather(-1, top_MK)
        if self.mode == "renormalise":
            return logp_MK.log_softmax(-1)
        if self.k == logp_MV.shape[-1]:
            return logp_MK
        rest_MV = logp_MV.scatter(-1, top_MK, -torch.inf)
        return torch.cat([logp_MK, rest_MV.logsumexp(-1, keepdim=True)], dim=-1)

    def _rows(self, task: RowTask) -> RowStats:
        (student_CV,), (teacher_CV,) = task.student, task.teacher
        log_total_C = _shift(task.student), _shift(task.teacher)
        agreement_C = _agreement(task.student, task.teacher)
        student_CV.sub_(log_total_C[0][:, None])
        teacher_CV.sub_(log_total_C[1][:, None])
        top_CK = self._select(student_CV, teacher_CV)
        # A new tensor, no view of the buffer: it is read again below, while the buffer turns into the gradient.
        student_logp_CK = self._categories(student_CV, top_CK).requires_grad_(task.with_gradient)
        teacher_logp_CK = self._categories(teacher_CV, top_CK)
        # k categories are few: autograd gives their slopes, and the softmax over V is undone by hand below.
        with torch.set_grad_enabled(task.with_gradient):
            value_C, nats_C, capped_C = _capped_sum(
                self.divergence, self.cap, student_logp_CK, teacher_logp_CK
            )
        slopes_CK = torch.zeros_like(student_logp_CK)
        if task.with_gradient:
            (slopes_CK,) = torch.autograd.grad(value_C, student_logp_CK, task.weight_C)
        # The last use of the log-probabilities: below the buffer becomes the gradient.
        student_p_CV = student_CV.exp()
        entropy_C = -torch.linalg.vecdot(student_p_CV, student_CV)
        if task.with_gradient:
            total_C1 = slopes_CK.sum(-1, keepdim=True)
            # The same formula over the k (+ 1) categories; the tail's is that of its entries together, as of one logit.
            # With 'renormalise' the rest of the vocabulary cancels in the quotient and has no gradient at all.
            grad_top_CK = slopes_CK - student_logp_CK.detach().exp() * total_C1
            if self.mode == "renormalise":
                student_CV.zero_()
            elif self.k < student_CV.shape[-1]:
                # An entry of the tail moves the tail's log-probability by its share of the tail.
                student_CV.sub_(student_logp_CK.detach()[:, -1:]).exp_().mul_(grad_top_CK[:, -1:])
            student_CV.scatter_(-1, top_CK, grad_top_CK[:, : self.k])
        return RowStats(
            value_C=value_C.detach(),
            divergence_C=nats_C.detach(),
            capped_C=capped_C,
            entropy_C=entropy_C,
            agreement_C=agreement_C,
        )


@dataclass(frozen=True, kw_only=True)
class Sampled:
    """One-sample estimates from the token that the student drew; unbiased only for the student's own rollouts.

    With A = log p_teacher(y) - log p_student(y) at the sampled id y:

    * `advantage`: value -sg[A] * log p_student(y), the policy gradient with A as advantage. Its expected gradient is
      that of the reverse KL (MGSD's released objective; dense-feedback RL). The value itself means nothing. With
      another `divergence`, A is its `teacher_advantage`, and the expected gradient that divergence's.
    * `loss`: value exp(A) - 1 - A, differentiated as it stands (Schulman's k3, as in GRPO's KL term). Its expected
      value is the reverse KL, but its expected *gradient* is the forward KL's.

    * `likelihood`: value -log p_student(y), the cross-entropy of a text that somebody else wrote: a reference or a
      demonstration. Of the student's own samples its expected gradient is zero. There is no teacher, or one that is
      sure of the text: log p_teacher(y) = 0.
    """

    as_: Literal["advantage", "loss", "likelihood"]
    divergence: Divergence = field(default_factory=ReverseKL)
    """What is lowered; the others know the reverse KL alone."""
    cap: Cap = field(default_factory=NoCap)
    """Bounds |A|: `DropCap` drops the token above tau, `RescaleCap` scales its contribution by tau / |A|."""
    gate: float = field(default=0.0, metadata={"left_out_at_default": True})
    """SDAR's gate (arXiv 2605.15155): above 0 each token's part is multiplied by sigmoid(gate * A), not differentiated,
    so that a token which the teacher finds likelier counts, and one that it rejects hardly does."""
    temperature: float = 1.0
    """The temperature that the rollout was sampled at."""
    chunk_size: int | None = None

    def __post_init__(self) -> None:
        _check(self.temperature, self.chunk_size)
        if self.as_ not in ("advantage", "loss", "likelihood"):
            raise ValueError(f"Sampled(as_={self.as_!r}): one of 'advantage', 'loss', 'likelihood'")
        if self.as_ != "advantage" and not isinstance(self.divergence, ReverseKL):
            raise ValueError(
                f"Sampled(as_={self.as_!r}, divergence={self.divergence}): only an 'advantage' has other divergences"
            )
        if self.as_ == "likelihood" and (self.gate or not isinstance(self.cap, NoCap)):
            raise ValueError("Sampled(as_='likelihood') has no teacher to be bounded: leave out cap and gate")
        if not (self.gate >= 0.0 and math.isfinite(self.gate)):
            raise ValueError(f"Sampled(gate={self.gate}): at least 0, and 0 for no gate")
        if isinstance(self.cap, ElementCap):
            raise ValueError(
                "ElementCap bounds vocabulary entries and a sampled estimate has one entry only; "
                "use DropCap or RescaleCap"
            )

    def __call__(
        self,
        *,
        student: Head | Logits,
        teacher: Head | Logits | SampledLogProbs,
        token_ids_M: Tensor | None = None,
        weight_M: Tensor | None = None,
    ) -> TokenLoss:
        """Loss of M tokens.

        The monitor `divergence_M` is the exact reverse KL, or -A (which may be negative) when the teacher is known by
        its log-probabilities alone; those must be at this estimator's temperature.
        """
        if token_ids_M is None:
            raise ValueError(
                "Sampled needs token_ids_M: the ids that the student sampled at the active positions"
            )
        if isinstance(student, Head) and isinstance(teacher, Head | SampledLogProbs):
            return _chunked(
                self, self._rows, student=student, teacher=teacher, token_ids_M=token_ids_M, weight_M=weight_M
            )
        teacher_logp_MV: Tensor | None = None
        if isinstance(teacher, SampledLogProbs):
            student_logp_MV = _logp(student, self.temperature)
        else:
            student_logp_MV, teacher_logp_MV = _both_logp(student, teacher, self.temperature)
        student_logp_M = _at(student_logp_MV, token_ids_M)
        if isinstance(teacher, SampledLogProbs):
            teacher_logp_M = teacher.logp_M.detach()
            nats_M = student_logp_M - teacher_logp_M
        else:
            assert teacher_logp_MV is not None
            teacher_logp_M = _at(teacher_logp_MV, token_ids_M)
            nats_M = (student_logp_MV.exp() * (student_logp_MV - teacher_logp_MV)).sum(-1)
        advantage_M = self._advantage(teacher_logp_M, student_logp_M)
        factor_M, capped_M = self._factor(advantage_M.detach())
        if self.as_ == "advantage":
            value_M = -advantage_M.detach() * factor_M * student_logp_M
        elif self.as_ == "likelihood":
            value_M, nats_M = -student_logp_M, -student_logp_M
        else:
            value_M = factor_M * (advantage_M.expm1() - advantage_M)
        return _token_loss(value_M, nats_M, capped_M, student_logp_MV, teacher_logp_MV, weight_M)

    def _advantage(self, teacher_logp_M: Tensor, student_logp_M: Tensor) -> Tensor:
        if isinstance(self.divergence, ReverseKL):
            return teacher_logp_M - student_logp_M
        return teacher_advantage(teacher_logp_M, student_logp_M, self.divergence).to(student_logp_M.dtype)

    def _factor(self, advantage_M: Tensor) -> tuple[Tensor, Tensor]:
        on_tokens = self.cap.on_tokens(advantage_M.abs())
        factor_M = torch.ones_like(advantage_M) if on_tokens.factor_M is None else on_tokens.factor_M
        if self.gate:
            factor_M = factor_M * torch.sigmoid(self.gate * advantage_M)
        return factor_M, torch.zeros_like(factor_M) if on_tokens.capped_M is None else on_tokens.capped_M

    def _rows(self, task: RowTask) -> RowStats:
        ids_C = task.token_ids_C
        assert ids_C is not None
        student_log_total_C = _shift(task.student)
        # Picked before the loop, where the tiles turn into gradients one after another.
        student_logp_C = _pick(task.student, ids_C) - student_log_total_C
        agreement_C, teacher_logp_C = None, task.teacher_logp_C
        teacher_log_total_C = None
        if task.teacher:
            teacher_log_total_C = _shift(task.teacher)
            teacher_logp_C = _pick(task.teacher, ids_C) - teacher_log_total_C
            agreement_C = _agreement(task.student, task.teacher)
        assert teacher_logp_C is not None
        advantage_C = self._advantage(teacher_logp_C, student_logp_C)
        factor_C, capped_C = self._factor(advantage_C)
        if self.as_ == "advantage":
            value_C, slope_C = -advantage_C * factor_C * student_logp_C, -advantage_C * factor_C
        elif self.as_ == "likelihood":
            value_C, slope_C = -student_logp_C, -torch.ones_like(student_logp_C)
        else:
            value_C, slope_C = (advantage_C.expm1() - advantage_C) * factor_C, -advantage_C.expm1() * factor_C
        # Slopes are d value / d log p(y) with A held fixed for 'advantage' and A = t - log p(y) for 'loss', where
        # d(exp(A) - 1 - A) = -(exp(A) - 1). Cap and gate are constants in both, as in the reference path.
        slope_C = slope_C * task.weight_C
        entropy_C, nats_C = torch.zeros_like(value_C), torch.zeros_like(value_C)
        first = 0
        for index, student_CV in enumerate(task.student):
            student_CV.sub_(student_log_total_C[:, None])
            p_CV = student_CV.exp()
            entropy_C -= torch.linalg.vecdot(p_CV, student_CV)
            if teacher_log_total_C is not None:
                teacher_CV = task.teacher[index].sub_(teacher_log_total_C[:, None])
                nats_C -= torch.linalg.vecdot(p_CV, teacher_CV)
            if task.with_gradient:
                # d log p(y) / dz_v = [v = y] - p_v. Tiles without y add 0 at a clamped column: no branch per row.
                torch.mul(p_CV, -slope_C[:, None], out=student_CV)
                columns_C1, inside_C = _columns_of(ids_C, first, student_CV.shape[1])
                student_CV.scatter_add_(1, columns_C1, (slope_C * inside_C)[:, None])
            first += student_CV.shape[1]
        if self.as_ == "likelihood":
            nats_C = value_C
        else:
            nats_C = -advantage_C if teacher_log_total_C is None else nats_C - entropy_C
        return RowStats(
            value_C=value_C,
            divergence_C=nats_C,
            capped_C=capped_C,
            entropy_C=entropy_C,
            agreement_C=agreement_C,
        )


class Estimator(Protocol):
    """What a route teaches by; `FullVocabulary`, `TopK` and `Sampled` are those that there are."""

    @property
    def temperature(self) -> float:
        """Divides both models' logits."""
        ...

    def __call__(
        self,
        *,
        student: Head | Logits,
        teacher: Any,
        token_ids_M: Tensor | None = None,
        weight_M: Tensor | None = None,
    ) -> TokenLoss:
        """Loss of M active tokens, under the student's gradient.

        `teacher` is a `Head`; of a remote one `SampledLogProbs` are all that there is, which an estimator may refuse
        with a TypeError. `token_ids_M` are the tokens that were sampled, `weight_M` what each counts (None: 1).
        """
        ...


def _check(temperature: float, chunk_size: int | None) -> None:
    if not temperature > 0.0:
        raise ValueError(f"temperature={temperature}: must be above 0")
    if chunk_size is not None and chunk_size < 1:
        raise ValueError(
            f"chunk_size={chunk_size}: at least one token at a time, or None to choose by memory"
        )


def _chunked(
    estimator: FullVocabulary | TopK | Sampled,
    program: RowProgram,
    *,
    student: Head,
    teacher: Head | SampledLogProbs,
    token_ids_M: Tensor | None = None,
    weight_M: Tensor | None,
    whole_rows: bool = False,
) -> TokenLoss:
    num_tokens = student.hidden_MH.shape[0]
    if isinstance(teacher, Head):
        shapes = (teacher.hidden_MH.shape[0], teacher.weight_VH.shape[0])
        if shapes != (num_tokens, student.weight_VH.shape[0]):
            raise ValueError(
                f"student has {num_tokens} tokens and {student.weight_VH.shape[0]} entries, teacher {shapes[0]} and "
                f"{shapes[1]}: both must score the same tokens over the same vocabulary"
            )
    plan = ChunkPlan(
        program=program,
        temperature=estimator.temperature,
        chunk_size=estimator.chunk_size,
        whole_rows=whole_rows,
        with_gradient=torch.is_grad_enabled(),
    )
    if weight_M is None:
        weight_M = torch.ones(num_tokens, device=student.hidden_MH.device)
    value_M, stats = chunked_rows(
        plan,
        student=student,
        teacher=teacher if isinstance(teacher, Head) else None,
        token_ids_M=token_ids_M,
        teacher_logp_M=teacher.logp_M.detach() if isinstance(teacher, SampledLogProbs) else None,
        weight_M=weight_M,
    )
    assert stats.capped_C is not None
    return TokenLoss(
        value_M=value_M,
        divergence_M=stats.divergence_C,
        capped_M=stats.capped_C,
        entropy_M=stats.entropy_C,
        agreement_M=stats.agreement_C,
    )


# -- the reference path: whole log-probabilities and autograd ---------------------------------------------------------


def _logp(scores: Head | Logits, temperature: float) -> Tensor:
    logits_MV = scores.logits_MV if isinstance(scores, Logits) else scores.logits()
    dtype = torch.float64 if logits_MV.dtype == torch.float64 else torch.float32
    return (logits_MV.to(dtype) / temperature).log_softmax(-1)


def _both_logp(student: Head | Logits, teacher: Head | Logits, temperature: float) -> tuple[Tensor, Tensor]:
    student_logp_MV = _logp(student, temperature)
    with torch.no_grad():
        teacher_logp_MV = _logp(teacher, temperature)
    if student_logp_MV.shape != teacher_logp_MV.shape:
        raise ValueError(
            f"student logits {tuple(student_logp_MV.shape)}, teacher logits {tuple(teacher_logp_MV.shape)}: both "
            "must be [M, V] over the same tokens and vocabulary"
        )
    return student_logp_MV, teacher_logp_MV


def _capped_sum(
    divergence: Divergence, cap: Cap, student_logp: Tensor, teacher_logp: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Capped value, uncapped nats and 1.0 where the cap acted, each summed over the last axis."""
    summands = divergence.summands(student_logp, teacher_logp)
    nats_M = summands.sum(-1)
    if isinstance(cap, ElementCap):
        capped_M = (summands > cap.tau).any(-1).to(nats_M.dtype)
        return summands.clamp(max=cap.tau).sum(-1), nats_M, capped_M
    on_tokens = cap.on_tokens(nats_M)
    capped_M = torch.zeros_like(nats_M) if on_tokens.capped_M is None else on_tokens.capped_M
    return on_tokens.value_M, nats_M, capped_M.detach()


def _token_loss(
    value_M: Tensor,
    nats_M: Tensor,
    capped_M: Tensor,
    student_logp_MV: Tensor,
    teacher_logp_MV: Tensor | None,
    weight_M: Tensor | None,
) -> TokenLoss:
    student_logp_MV = student_logp_MV.detach()
    agreement_M = None
    if teacher_logp_MV is not None:
        agreement_M = (student_logp_MV.argmax(-1) == teacher_logp_MV.argmax(-1)).to(student_logp_MV.dtype)
    return TokenLoss(
        value_M=value_M if weight_M is None else value_M * weight_M.detach(),
        divergence_M=nats_M.detach(),
        capped_M=capped_M,
        entropy_M=-(student_logp_MV.exp() * student_logp_MV).sum(-1),
        agreement_M=agreement_M,
    )


def _at(logp_MV: Tensor, token_ids_M: Tensor) -> Tensor:
    return logp_MV.gather(-1, token_ids_M[:, None]).squeeze(-1)


# -- pieces of row programs -------------------------------------------------------------------------------------------


def _shift(tiles: Tiles) -> Tensor:
    """Moves each row's maximum to 0, in place, and returns the log of the rows' total [C]: logp = tile - total."""
    # The maxima are taken off before exp, or a logit above 88 overflows float32. The log of the total is left to the
    # caller: `_agreement` looks for exact zeros, which it would wash away.
    highest_C = tiles[0].amax(-1)
    for tile_CV in tiles[1:]:
        highest_C = torch.maximum(highest_C, tile_CV.amax(-1))
    total_C = torch.zeros_like(highest_C)
    for tile_CV in tiles:
        total_C += tile_CV.sub_(highest_C[:, None]).exp().sum(-1)
    return total_C.log_()


def _agreement(student: Tiles, teacher: Tiles) -> Tensor:
    """1.0 where an entry is the maximum of both, given rows whose maximum is 0 [C]."""
    # Neither summand exceeds 0, so their sum is 0 only where both are.
    best_C = torch.stack([(a_CV + b_CV).amax(-1) for a_CV, b_CV in zip(student, teacher, strict=True)]).amax(
        0
    )
    return (best_C == 0.0).to(best_C.dtype)


def _columns_of(ids_C: Tensor, first: int, width: int) -> tuple[Tensor, Tensor]:
    """Column in a tile that begins at entry `first` [C, 1], and whether the id lies in it [C]."""
    columns_C = ids_C - first
    return columns_C.clamp(0, width - 1)[:, None], (columns_C >= 0) & (columns_C < width)


def _pick(tiles: Tiles, ids_C: Tensor) -> Tensor:
    """The value at each row's id [C]."""
    picked_C, first = torch.zeros_like(tiles[0][:, 0]), 0
    for tile_CV in tiles:
        columns_C1, inside_C = _columns_of(ids_C, first, tile_CV.shape[1])
        picked_C += tile_CV.gather(1, columns_C1).squeeze(1) * inside_C
        first += tile_CV.shape[1]
    return picked_C

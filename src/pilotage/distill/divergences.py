"""Divergences between the teacher's and the student's next-token distributions, and caps on them.

Axis letters: M active tokens, V vocabulary entries.

A divergence is a sum over the vocabulary of a function of the two log-probabilities, so each class gives its
summands and their slopes. The slopes make the gradient with respect to the student's logits z,

    dD/dz_v = slope_v - p_v * sum_u slope_u,        p = softmax(z) of the student,

which is what lets an estimator work through the vocabulary in tiles without autograd.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor


class Divergence(Protocol):
    """A divergence of two categorical distributions given by log-probabilities over the same entries."""

    def __call__(self, student_logp_MV: Tensor, teacher_logp_MV: Tensor) -> Tensor:
        """Nats per token [M], differentiable with respect to both arguments."""
        ...

    def summands(self, student_logp_MV: Tensor, teacher_logp_MV: Tensor) -> Tensor:
        """What each vocabulary entry adds to the divergence [M, V]; single entries may be negative."""
        ...

    def summands_and_slopes(
        self, student_logp: Tensor, teacher_logp: Tensor, student_p: Tensor, teacher_p: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Summands and their derivatives with respect to `student_logp`, both in new tensors."""
        ...


@dataclass(frozen=True, kw_only=True)
class ForwardKL:
    """KL(teacher || student), nats per token: the student must cover whatever the teacher does."""

    def __call__(self, student_logp_MV: Tensor, teacher_logp_MV: Tensor) -> Tensor:
        return self.summands(student_logp_MV, teacher_logp_MV).sum(-1)

    def summands(self, student_logp_MV: Tensor, teacher_logp_MV: Tensor) -> Tensor:
        return teacher_logp_MV.exp() * (teacher_logp_MV - student_logp_MV)

    def summands_and_slopes(self, student_logp, teacher_logp, student_p, teacher_p):
        return (teacher_logp - student_logp).mul_(teacher_p), -teacher_p


@dataclass(frozen=True, kw_only=True)
class ReverseKL:
    """KL(student || teacher), nats per token: the student must stay where the teacher is."""

    def __call__(self, student_logp_MV: Tensor, teacher_logp_MV: Tensor) -> Tensor:
        return self.summands(student_logp_MV, teacher_logp_MV).sum(-1)

    def summands(self, student_logp_MV: Tensor, teacher_logp_MV: Tensor) -> Tensor:
        return student_logp_MV.exp() * (student_logp_MV - teacher_logp_MV)

    def summands_and_slopes(self, student_logp, teacher_logp, student_p, teacher_p):
        summands = (student_logp - teacher_logp).mul_(student_p)
        return summands, summands + student_p


@dataclass(frozen=True, kw_only=True)
class JSD:
    """Generalised Jensen-Shannon divergence, nats per token (Agarwal et al., arXiv 2306.13649, eq. 1).

    With the mixture m = beta * teacher + (1 - beta) * student,

        JSD(beta) = beta * KL(teacher || m) + (1 - beta) * KL(student || m),     0 < beta < 1.

    Its limits at both ends are zero, so the ends are defined as what JSD(beta) / beta and JSD(beta) / (1 - beta)
    tend to: `beta=0` is the forward KL, `beta=1` the reverse KL. TRL uses the same convention. The scale therefore
    jumps at the ends: a small beta needs a larger weight than beta = 0.
    """

    beta: float = 0.5
    """The teacher's share of the mixture, in [0, 1]."""

    def __post_init__(self) -> None:
        if not 0.0 <= self.beta <= 1.0:
            raise ValueError(f"JSD(beta={self.beta}): beta is the teacher's share of the mixture, in [0, 1]")

    def __call__(self, student_logp_MV: Tensor, teacher_logp_MV: Tensor) -> Tensor:
        return self.summands(student_logp_MV, teacher_logp_MV).sum(-1)

    def summands(self, student_logp_MV: Tensor, teacher_logp_MV: Tensor) -> Tensor:
        if self.beta == 0.0:
            return ForwardKL().summands(student_logp_MV, teacher_logp_MV)
        if self.beta == 1.0:
            return ReverseKL().summands(student_logp_MV, teacher_logp_MV)
        mixture_logp_MV = torch.logaddexp(
            student_logp_MV + math.log1p(-self.beta), teacher_logp_MV + math.log(self.beta)
        )
        of_teacher_MV = teacher_logp_MV.exp() * (teacher_logp_MV - mixture_logp_MV)
        of_student_MV = student_logp_MV.exp() * (student_logp_MV - mixture_logp_MV)
        return self.beta * of_teacher_MV + (1.0 - self.beta) * of_student_MV

    def summands_and_slopes(self, student_logp, teacher_logp, student_p, teacher_p):
        if self.beta == 0.0:
            return ForwardKL().summands_and_slopes(student_logp, teacher_logp, student_p, teacher_p)
        if self.beta == 1.0:
            return ReverseKL().summands_and_slopes(student_logp, teacher_logp, student_p, teacher_p)
        # Both probabilities may underflow to 0; the floor keeps log finite, and 0 * finite adds nothing.
        floor = torch.finfo(student_p.dtype).tiny
        mixture_logp = torch.lerp(student_p, teacher_p, self.beta).clamp_min_(floor).log_()
        # The mixture's own dependence on the student cancels the "+ 1" of d(p log p), so this is the whole slope.
        slopes = (student_logp - mixture_logp).mul_(student_p).mul_(1.0 - self.beta)
        of_teacher = torch.sub(teacher_logp, mixture_logp, out=mixture_logp).mul_(teacher_p)
        return of_teacher.mul_(self.beta).add_(slopes), slopes


class Capped(NamedTuple):
    """A capped divergence per token [M]."""

    value_M: Tensor
    """min(nats, tau) for the token caps, with the cap's own gradient."""
    factor_M: Tensor | None
    """d value / d nats; None stands for all ones."""
    capped_M: Tensor | None
    """1.0 where the cap acted; None stands for nowhere."""


def _check_tau(cap: DropCap | RescaleCap | ElementCap) -> None:
    if not cap.tau > 0.0:
        raise ValueError(
            f"{type(cap).__name__}(tau={cap.tau}): tau is a bound in nats, above 0; use NoCap() for none"
        )


@dataclass(frozen=True, kw_only=True)
class NoCap:
    """Leaves every token as it is."""

    def on_tokens(self, nats_M: Tensor) -> Capped:
        return Capped(nats_M, None, None)


@dataclass(frozen=True, kw_only=True)
class DropCap:
    """Clamps the token's divergence at `tau` after the vocabulary sum (ViGOS's released code, tau 0.05).

    A token above `tau` has exactly zero gradient: it is dropped just where the teacher disagrees most.
    """

    tau: float
    """Bound in nats."""

    def __post_init__(self) -> None:
        _check_tau(self)

    def on_tokens(self, nats_M: Tensor) -> Capped:
        capped_M = nats_M > self.tau
        return Capped(nats_M.clamp(max=self.tau), (~capped_M).to(nats_M.dtype), capped_M.to(nats_M.dtype))


@dataclass(frozen=True, kw_only=True)
class RescaleCap:
    """Scales the token's divergence by the detached factor min(1, tau / nats): bounded, and still teaching."""

    tau: float
    """Bound in nats."""

    def __post_init__(self) -> None:
        _check_tau(self)

    def on_tokens(self, nats_M: Tensor) -> Capped:
        factor_M = self.tau / nats_M.detach().clamp_min(self.tau)
        return Capped(nats_M * factor_M, factor_M, (nats_M > self.tau).to(nats_M.dtype))


@dataclass(frozen=True, kw_only=True)
class ElementCap:
    """Clamps every (token, vocabulary entry) summand at `tau` before the sum (OPSD, arXiv 2601.18734, tau 0.05).

    Negative summands stay, so the capped sum may be below zero.
    """

    tau: float
    """Bound in nats on one summand."""

    def __post_init__(self) -> None:
        _check_tau(self)

    def on_tokens(self, nats_M: Tensor) -> Capped:
        return Capped(nats_M, None, None)


Cap = NoCap | DropCap | RescaleCap | ElementCap
"""A bound on what one token, or one vocabulary entry of a token, may add to the loss."""

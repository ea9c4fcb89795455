"""What following one sampled token does for a divergence.

Axis letters: M active tokens.
"""

from __future__ import annotations

from torch import Tensor

from pilotage.distill.divergences import Divergence, ReverseKL


def teacher_advantage(
    teacher_logp_M: Tensor, student_logp_M: Tensor, divergence: Divergence | None = None
) -> Tensor:
    """What following a sampled token does for a divergence, float64 [M]; 0 where both find the token equally likely.

    The policy gradient with this advantage has the divergence's gradient as its expectation over the student's own
    samples. ReverseKL (the default): log q - log p. ForwardKL: q / p - 1. JSD(beta): (1 - beta) * (log m - log p) with
    the mixture m. `student_logp_M` are the sampling policy's.
    """
    divergence = divergence or ReverseKL()
    student_logp_M1, teacher_logp_M1 = (
        student_logp_M.detach().double()[:, None],
        teacher_logp_M.detach().double()[:, None],
    )

    def slope_per_p(other_M1: Tensor) -> Tensor:
        p_M1 = student_logp_M1.exp()
        _, slopes_M1 = divergence.summands_and_slopes(student_logp_M1, other_M1, p_M1, other_M1.exp())
        return (slopes_M1 / p_M1).squeeze(1)

    # A constant in an advantage has no expected gradient; this one makes it vanish at equality.
    return slope_per_p(student_logp_M1) - slope_per_p(teacher_logp_M1)

"""PALR, the privileged answer leakage rate (ViGOS, arXiv 2606.19120): how much of what is taught comes from the answer.

For a token y_t of a rollout, the student pi and the teacher q that supervises it:

    s_t   = |log q(y_t) - log pi(y_t)|
    c^A_t = [log q(y_t) - log (1/K) sum_k q(y_t | the k-th wrong answer)]+,    0 where q does not see the answer
    c^I_t = [log q(y_t) - log q(y_t | the image of another example)]+
    PALR(G) = sum_G s c^A / (sum_G s (c^A + c^I) + eps)

over the tokens of a group G in valid rollouts; 0 says that nothing taught hangs on the answer, 1 that all of it does.
The paper leaves invalid rollouts out; here they have a figure of their own, `INVALID`. Sums of parts add up.

T tokens of one rollout, K wrong answers: as many as there are, for each row.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from pilotage.distill.spans import Spans

ALL, INVALID = "all", "invalid"
EPS = 1e-8

VIGOS_GROUPS: Mapping[str, tuple[str, ...]] = {
    "description": ("description",),
    "reasoning_answer": ("reasoning", "answer"),
}
"""Group -> its spans. `all` is every token that has a teacher and is always there."""


@dataclass(frozen=True, kw_only=True, eq=False)
class PalrRow:
    """Log-probabilities, in nats, of one rollout's own tokens. Where a token has no teacher they are not read."""

    spans: Spans
    student_logp_T: np.ndarray
    teacher_logp_T: np.ndarray
    """The teacher that supervises the token, shown the right answer (if any) and the right image (if any)."""
    taught_T: np.ndarray
    """bool: the token has a teacher."""
    sees_answer_T: np.ndarray
    """bool: that teacher sees the answer."""
    wrong_answer_logp_KT: np.ndarray
    """The same teacher shown each of K wrong answers; read where it sees the answer. [0, T] when none does."""
    sees_image_T: np.ndarray
    """bool: that teacher sees the image."""
    other_image_logp_T: np.ndarray
    """The same teacher shown another example's image; read where it sees the image."""


@dataclass(frozen=True, kw_only=True)
class PalrSums:
    """What a group's tokens add up to."""

    num_tokens: int = 0
    answer_nats2: float = 0.0
    """sum s c^A."""
    image_nats2: float = 0.0
    """sum s c^I."""

    def __add__(self, other: PalrSums) -> PalrSums:
        return PalrSums(
            num_tokens=self.num_tokens + other.num_tokens,
            answer_nats2=self.answer_nats2 + other.answer_nats2,
            image_nats2=self.image_nats2 + other.image_nats2,
        )

    @property
    def rate(self) -> float:
        """PALR, in [0, 1); NaN without tokens, so that it cannot pass for a measured zero."""
        if not self.num_tokens:
            return float("nan")
        return self.answer_nats2 / (self.answer_nats2 + self.image_nats2 + EPS)


@dataclass(frozen=True, kw_only=True)
class Palr:
    """PALR of a set of rollouts."""

    groups: Mapping[str, PalrSums]
    """The named groups and `all`, over valid rollouts, and `invalid`, over all taught tokens of the others."""
    num_wrong_answers: int
    """K, the most that any row has."""
    num_valid: int
    num_invalid: int

    def as_dict(self) -> dict[str, float]:
        """`palr/<group>` as a share, tokens counted, K and the numbers of rollouts; groups without tokens left out."""
        found: dict[str, float] = {}
        for name, sums in self.groups.items():
            if sums.num_tokens:
                found |= {f"palr/{name}": sums.rate, f"palr/{name}_tokens": float(sums.num_tokens)}
        return found | {
            "palr/num_wrong_answers": float(self.num_wrong_answers),
            "palr/num_valid": float(self.num_valid),
            "palr/num_invalid": float(self.num_invalid),
        }


def palr(rows: Sequence[PalrRow], groups: Mapping[str, tuple[str, ...]] = VIGOS_GROUPS) -> Palr:
    """PALR of some rollouts, by group. Raises ValueError for lengths that differ and for numbers not finite."""
    if reserved := {ALL, INVALID} & set(groups):
        raise ValueError(f"groups {sorted(reserved)} are always there; choose other names")
    counts_K = [len(row.wrong_answer_logp_KT) for row in rows if row.sees_answer_T.any()]
    sums = dict.fromkeys((*groups, ALL, INVALID), PalrSums())
    for at, row in enumerate(rows):
        strength_T, answer_T, image_T = _changes(row, at)
        masks = {INVALID: row.taught_T}
        if row.spans.valid:
            masks = {
                name: row.taught_T & np.array(row.spans.mask(*spans), bool) for name, spans in groups.items()
            }
            masks[ALL] = row.taught_T
        for name, mask_T in masks.items():
            sums[name] += PalrSums(
                num_tokens=int(mask_T.sum()),
                answer_nats2=float((strength_T * answer_T)[mask_T].sum()),
                image_nats2=float((strength_T * image_T)[mask_T].sum()),
            )
    num_valid = sum(row.spans.valid for row in rows)
    return Palr(
        groups=sums,
        num_wrong_answers=max(counts_K, default=0),
        num_valid=num_valid,
        num_invalid=len(rows) - num_valid,
    )


def _changes(row: PalrRow, at: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """s, c^A and c^I of each token, float64; 0 where they are not defined."""
    num_tokens = len(row.spans.owners)
    for name in (
        "student_logp_T",
        "teacher_logp_T",
        "taught_T",
        "sees_answer_T",
        "sees_image_T",
        "other_image_logp_T",
    ):
        if np.shape(getattr(row, name)) != (num_tokens,):
            raise ValueError(
                f"row {at}: {name} has shape {np.shape(getattr(row, name))}, the row {num_tokens} tokens"
            )
    wrong_KT = np.asarray(row.wrong_answer_logp_KT, dtype=np.float64)
    reads_answer_T, reads_image_T = row.taught_T & row.sees_answer_T, row.taught_T & row.sees_image_T
    if wrong_KT.ndim != 2 or wrong_KT.shape[1] != num_tokens or (reads_answer_T.any() and not len(wrong_KT)):
        raise ValueError(
            f"row {at}: wrong_answer_logp_KT has shape {wrong_KT.shape}; a teacher that sees the answer needs K >= 1 "
            f"rows of {num_tokens} tokens"
        )
    teacher_T = _finite(row.teacher_logp_T, row.taught_T, at, "teacher_logp_T")
    strength_T = np.abs(teacher_T - _finite(row.student_logp_T, row.taught_T, at, "student_logp_T"))
    answer_T = np.zeros(num_tokens)
    if reads_answer_T.any():
        wrong_KT = np.stack(
            [_finite(wrong_T, reads_answer_T, at, "wrong_answer_logp_KT") for wrong_T in wrong_KT]
        )
        mean_T = np.logaddexp.reduce(wrong_KT, axis=0) - np.log(len(wrong_KT))
        answer_T = np.where(reads_answer_T, np.maximum(teacher_T - mean_T, 0.0), 0.0)
    other_T = _finite(row.other_image_logp_T, reads_image_T, at, "other_image_logp_T")
    image_T = np.where(reads_image_T, np.maximum(teacher_T - other_T, 0.0), 0.0)
    return strength_T, answer_T, image_T


def _finite(logp_T: np.ndarray, read_T: np.ndarray, at: int, name: str) -> np.ndarray:
    """float64 log-probabilities, 0 where they are not read; ValueError for one that is read and not finite."""
    values_T = np.where(read_T, np.asarray(logp_T, dtype=np.float64), 0.0)
    if not np.isfinite(values_T).all():
        position = int(np.flatnonzero(~np.isfinite(values_T))[0])
        raise ValueError(
            f"row {at}, token {position}: {name} is {values_T[position]}, not a finite log-probability"
        )
    return values_T

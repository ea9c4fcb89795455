"""The loss of a micro-batch under several routes: heads and masks in, one sum and each route's monitors out.

Axis letters: N response tokens of the micro-batch (row by row, in order), M taught tokens of one route (in the same
order), R rows, T tokens of one row, H hidden.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from pilotage.distill.chunked import Head
from pilotage.distill.estimators import SampledLogProbs, TokenLoss
from pilotage.distill.policy_gradient import Advantages
from pilotage.distill.routes import Route, RoutedRow


class HasRoutes(Protocol):
    """A `Router`, or all routes of several routers whose rows differ."""

    @property
    def routes(self) -> Sequence[Route]: ...


TeacherScores = Head | SampledLogProbs | Advantages
"""What is known of a teacher at the M taught tokens of its route."""


@dataclass(frozen=True, kw_only=True, eq=False)
class RoutedLoss:
    """A micro-batch's part of the step's loss."""

    total: Tensor
    """Sum over routes and tokens of weight * value; differentiable."""
    by_route: Mapping[str, TokenLoss]
    """Monitors of each route's M tokens, detached; `split_rows` of the routed lengths gives them by row."""


def taught_index(rows: Sequence[RoutedRow]) -> Tensor:
    """[M] places, among the N response tokens of these rows, of those that a route teaches."""
    masks = [row.mask_T for row in rows]
    return torch.from_numpy(np.flatnonzero(np.concatenate(masks)) if masks else np.zeros(0, np.int64))


def taught_weights(rows: Sequence[RoutedRow], row_weights_R: Sequence[float]) -> Tensor:
    """[M] float32: the weight of each taught token, its row's times its own."""
    parts = [weight * row.weight_T[row.mask_T] for row, weight in zip(rows, row_weights_R, strict=True)]
    return torch.from_numpy(np.concatenate(parts) if parts else np.zeros(0)).float()


def routed_loss(
    router: HasRoutes,
    routed: Mapping[str, Sequence[RoutedRow]],
    row_weights: Mapping[str, Sequence[float]],
    *,
    student: Head,
    teachers: Mapping[str, TeacherScores],
    token_ids_N: Tensor,
) -> RoutedLoss:
    """The loss of one micro-batch.

    `routed` and `row_weights` hold its rows only (`route_rows`, `route_row_weights` over the whole step). `student` has
    all N response tokens, `teachers` the taught tokens of their routes. Routes with equal estimators whose teachers
    share a head are computed in one call. Raises ValueError for a route without teacher or with another number of
    tokens.
    """
    device = student.hidden_MH.device
    index_of = {route.name: taught_index(routed[route.name]).to(device) for route in router.routes}
    for route in router.routes:
        _check(route, teachers.get(route.name), len(index_of[route.name]))
    total = student.hidden_MH.new_zeros((), dtype=_value_dtype(student))
    by_route: dict[str, TokenLoss] = {}
    for group in _calls(router, teachers, index_of):
        index_M = torch.cat([index_of[route.name] for route in group])
        weight_M = torch.cat([taught_weights(routed[route.name], row_weights[route.name]) for route in group])
        loss = group[0].estimator(
            student=_selected(student, index_M),
            teacher=_joined([teachers[route.name] for route in group]),  # pyright: ignore[reportArgumentType]
            token_ids_M=token_ids_N[index_M],
            weight_M=weight_M.to(device),
        )
        total = total + loss.value_M.sum()
        by_route |= _split(loss, {route.name: len(index_of[route.name]) for route in group})
    return RoutedLoss(total=total, by_route={route.name: by_route[route.name] for route in router.routes})


def _value_dtype(student: Head) -> torch.dtype:
    return torch.float64 if student.hidden_MH.dtype == torch.float64 else torch.float32


def _check(route: Route, teacher: TeacherScores | None, num_tokens: int) -> None:
    if teacher is None:
        raise ValueError(f"route {route.name!r} has no teacher's scores")
    got = len(_tokens_of(teacher))
    if got != num_tokens:
        raise ValueError(
            f"route {route.name!r} teaches {num_tokens} tokens and its teacher scored {got}; select the taught ones"
        )


def _tokens_of(teacher: TeacherScores) -> Tensor:
    if isinstance(teacher, Head):
        return teacher.hidden_MH
    return teacher.logp_M if isinstance(teacher, SampledLogProbs) else teacher.advantage_M


def _calls(
    router: HasRoutes, teachers: Mapping[str, TeacherScores], index_of: Mapping[str, Tensor]
) -> list[list[Route]]:
    """Routes that one call of one estimator can take together. Those without tokens are taken too: it is cheap."""
    groups: dict[object, list[Route]] = {}
    for route in router.routes:
        teacher = teachers[route.name]
        key: tuple[object, ...] = (route.estimator, type(teacher))
        if isinstance(teacher, Head):
            key += (id(teacher.weight_VH), id(teacher.bias_V))
        groups.setdefault(key, []).append(route)
    return list(groups.values())


def _selected(student: Head, index_M: Tensor) -> Head:
    if len(index_M) == len(student.hidden_MH) and bool(
        (index_M == torch.arange(len(index_M)).to(index_M)).all()
    ):
        return student
    return Head(hidden_MH=student.hidden_MH[index_M], weight_VH=student.weight_VH, bias_V=student.bias_V)


def _joined(teachers: Sequence[TeacherScores]) -> TeacherScores:
    first = teachers[0]
    if len(teachers) == 1:
        return first
    if isinstance(first, Head):
        hidden = [teacher.hidden_MH for teacher in teachers if isinstance(teacher, Head)]
        return Head(hidden_MH=torch.cat(hidden), weight_VH=first.weight_VH, bias_V=first.bias_V)
    if isinstance(first, SampledLogProbs):
        return SampledLogProbs(logp_M=torch.cat([_tokens_of(teacher) for teacher in teachers]))
    given = [teacher for teacher in teachers if isinstance(teacher, Advantages)]
    return Advantages(
        advantage_M=torch.cat([teacher.advantage_M for teacher in given]),
        sampled_logp_M=torch.cat([teacher.sampled_logp_M for teacher in given]),
    )


def _split(loss: TokenLoss, lengths: Mapping[str, int]) -> dict[str, TokenLoss]:
    sizes = list(lengths.values())

    def parts(values_M: Tensor) -> list[Tensor]:
        return list(values_M.detach().split(sizes))

    agreement = [None] * len(sizes) if loss.agreement_M is None else parts(loss.agreement_M)
    fields = zip(
        parts(loss.value_M),
        parts(loss.divergence_M),
        parts(loss.capped_M),
        parts(loss.entropy_M),
        agreement,
        strict=True,
    )
    return {
        name: TokenLoss(
            value_M=value, divergence_M=nats, capped_M=capped, entropy_M=entropy, agreement_M=agreed
        )
        for name, (value, nats, capped, entropy, agreed) in zip(lengths, fields, strict=True)
    }

"""From values per token to the loss of one optimiser step, divided once over all micro-batches and ranks.

Axis letters: M active tokens of a micro-batch (row by row, in order), R rows of it.

| reduction | the step's loss |
| --- | --- |
| `token` | mean over all active tokens |
| `sequence` | mean over rows of each row's token mean; rows without active tokens do not count |
| `task` | mean over tasks of each task's token mean; tasks without active tokens do not count |

Means per micro-batch would overweight short or rare rows, so the counts of the whole step come first and every token
gets its weight before the first backward pass:

    counts = global_route_counts(count_routes(means, num_tokens_of, tasks_R, task_names=...), all_sum)
    weights_R = route_row_weights(means, reduction, num_tokens_of, tasks_R, counts, scale_of=...)[route]
    estimator(..., weight_M=weights_R by token).value_M.sum().backward()

The values so weighted sum, over micro-batches and ranks, to the step's loss. Where gradients are *averaged* over ranks
(DDP, FSDP) instead of summed, multiply the loss by the number of ranks.

A loss of several routes is the sum of scale * mean over them. `RouteMeans` says what each mean divides by: the route's
own tokens (rows, tasks), or those of all routes together.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

Reduction = Literal["token", "sequence", "task"]
REDUCTIONS: tuple[Reduction, ...] = ("token", "sequence", "task")

RouteMeans = Literal["apart", "pooled"]
"""`apart`: each route is a mean over its own active tokens, however few (ViGOS). `pooled`: all routes divide by their
tokens together, so that a token counts alike whichever route teaches it; one that two routes teach counts twice."""
ROUTE_MEANS: tuple[RouteMeans, ...] = ("apart", "pooled")
_POOL = "*"

AllSum = Callable[[Tensor], Tensor]
"""Sums a tensor over all ranks, e.g. `lambda t: accelerator.reduce(t, reduction="sum")`; one rank: the identity."""


@dataclass(frozen=True, kw_only=True)
class Reduced:
    """A sum and the count of what was summed: parts add up, and are divided once, at the end."""

    sum: float
    count: float

    @classmethod
    def of(cls, values_M: Tensor, mask_M: Tensor | None = None) -> Reduced:
        """Sum and count of the values, or of those where the mask holds."""
        values_M = values_M.detach()
        if mask_M is None:
            return cls(sum=float(values_M.double().sum()), count=float(values_M.numel()))
        return cls(sum=float(values_M[mask_M].double().sum()), count=float(mask_M.sum()))

    def __add__(self, other: Reduced) -> Reduced:
        return Reduced(sum=self.sum + other.sum, count=self.count + other.count)

    @property
    def mean(self) -> float:
        """sum / count; NaN when nothing was counted, so that it cannot pass for a measured zero."""
        return self.sum / self.count if self.count else float("nan")


def global_reduced(parts: Mapping[str, Reduced], all_sum: AllSum) -> dict[str, Reduced]:
    """Every named part summed over the ranks in one call; all ranks must have the same names."""
    names = sorted(parts)
    flat = all_sum(
        torch.tensor([[parts[name].sum, parts[name].count] for name in names], dtype=torch.float64)
    )
    return {
        name: Reduced(sum=total, count=count)
        for name, (total, count) in zip(names, flat.tolist(), strict=True)
    }


@dataclass(frozen=True, kw_only=True)
class StepCounts:
    """How much there is to average over in one optimiser step."""

    num_tokens: float
    num_sequences: float
    """Rows with at least one active token."""
    tokens_by_task: Mapping[str, float]

    @property
    def num_tasks(self) -> int:
        """Tasks with at least one active token."""
        return sum(count > 0 for count in self.tokens_by_task.values())


def count_step(
    num_tokens_R: Sequence[int], tasks_R: Sequence[str], *, task_names: Sequence[str] | None = None
) -> StepCounts:
    """Counts of the rows at hand: all of the step's, or this rank's, to be summed over ranks.

    For the latter name the tasks of the whole run, the same on every rank. Raises ValueError for a row of another.
    """
    names = set(tasks_R) if task_names is None else set(task_names)
    tokens_by_task = dict.fromkeys(sorted(names), 0.0)
    for num_tokens, task in zip(num_tokens_R, tasks_R, strict=True):
        if task not in tokens_by_task:
            raise ValueError(f"a row of task {task!r}, but the step was announced for {sorted(names)}")
        tokens_by_task[task] += num_tokens
    return StepCounts(
        num_tokens=float(sum(num_tokens_R)),
        num_sequences=float(sum(num_tokens > 0 for num_tokens in num_tokens_R)),
        tokens_by_task=tokens_by_task,
    )


def count_routes(
    means: RouteMeans,
    num_tokens_of: Mapping[str, Sequence[int]],
    tasks_R: Sequence[str],
    *,
    task_names: Sequence[str] | None = None,
) -> dict[str, StepCounts]:
    """What each route divides by, from the rows at hand; `num_tokens_of` are its active tokens per row [R].

    With `pooled` there is one entry for all. Sum over ranks with `global_route_counts`.
    """
    return {
        name: count_step(num_tokens_R, tasks_R, task_names=task_names)
        for name, num_tokens_R in _pools(means, num_tokens_of).items()
    }


def global_route_counts(local: Mapping[str, StepCounts], all_sum: AllSum) -> dict[str, StepCounts]:
    """The routes' counts of all ranks in one call of `all_sum`; all ranks must have the same routes and tasks."""
    names = sorted(local)
    tasks = {name: sorted(local[name].tokens_by_task) for name in names}
    flat = [
        [local[name].num_tokens, local[name].num_sequences]
        + [local[name].tokens_by_task[task] for task in tasks[name]]
        for name in names
    ]
    summed = iter(all_sum(torch.tensor(sum(flat, []), dtype=torch.float64)).tolist())
    return {
        name: StepCounts(
            num_tokens=next(summed),
            num_sequences=next(summed),
            tokens_by_task={task: next(summed) for task in tasks[name]},
        )
        for name in names
    }


def route_row_weights(
    means: RouteMeans,
    reduction: Reduction,
    num_tokens_of: Mapping[str, Sequence[int]],
    tasks_R: Sequence[str],
    counts: Mapping[str, StepCounts],
    *,
    scale_of: Mapping[str, float],
) -> dict[str, list[float]]:
    """Route -> the weight of each of its tokens, by row [R], its scale included; 0 where it has none in a row.

    sum(weight * value) over routes, rows and tokens of the whole step is the step's loss.
    """
    pools = _pools(means, num_tokens_of)
    weights: dict[str, list[float]] = {}
    for name, num_tokens_R in num_tokens_of.items():
        pool = _POOL if means == "pooled" else name
        of_pool_R = row_weights(reduction, pools[pool], tasks_R, counts[pool])
        weights[name] = [
            scale_of[name] * weight if num_tokens else 0.0
            for weight, num_tokens in zip(of_pool_R, num_tokens_R, strict=True)
        ]
    return weights


def _pools(means: RouteMeans, num_tokens_of: Mapping[str, Sequence[int]]) -> dict[str, Sequence[int]]:
    if means == "apart":
        return dict(num_tokens_of)
    if means == "pooled":
        return {_POOL: [sum(row) for row in zip(*num_tokens_of.values(), strict=True)]}
    raise ValueError(f"means={means!r}: one of {', '.join(ROUTE_MEANS)}")


def row_weights(
    reduction: Reduction, num_tokens_R: Sequence[int], tasks_R: Sequence[str], counts: StepCounts
) -> list[float]:
    """The weight of each token of each row, given the counts of the whole step; 0 for rows without active tokens."""
    return [_weight(reduction, *row, counts) for row in zip(num_tokens_R, tasks_R, strict=True)]


def _weight(reduction: Reduction, num_tokens: int, task: str, counts: StepCounts) -> float:
    if num_tokens == 0:
        return 0.0
    if reduction == "token":
        return 1.0 / counts.num_tokens
    if reduction == "sequence":
        return 1.0 / (counts.num_sequences * num_tokens)
    if reduction == "task":
        return 1.0 / (counts.num_tasks * counts.tokens_by_task[task])
    raise ValueError(f"reduction={reduction!r}: one of {', '.join(REDUCTIONS)}")

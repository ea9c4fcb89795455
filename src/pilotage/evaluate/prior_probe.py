"""Does a model plan by habit? Success where a task's usual regularity holds, less success where it is reversed.

Works on the rows of any measurement: answers to states that follow the prior are paired with answers to states
that reverse it, of the same task, level and optimal length, so that both sets are equally hard. `prior_pairs`
in `pilotage.data.prior` draws levels that leave none over.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from pilotage.data.prior import prior_of
from pilotage.errors import PilotageError
from pilotage.evaluate.attribution import FaultCounts, attribute_all, count_faults
from pilotage.evaluate.bootstrap import Figures, Interval, bootstrap_macro_mean, bootstrap_mean
from pilotage.evaluate.compare import excludes_zero
from pilotage.evaluate.roles import is_description
from pilotage.evaluate.samples import Row, grouped
from pilotage.evaluate.summary import rate_of
from pilotage.worlds.capabilities import able
from pilotage.worlds.registry import planning_world
from pilotage.worlds.task import Plans, Recites


@dataclass(frozen=True, kw_only=True)
class PriorCell(Figures):
    """One condition on one task."""

    prior: str
    """The regularity in words."""
    num_pairs: int
    num_unpaired: tuple[int, int]
    """Examples that follow it, and that reverse it, for which there was none as hard on the other side."""
    follows: Interval
    """Success where it holds, of the paired examples."""
    reverses: Interval
    """Success where it is reversed."""
    difference: Interval
    """`follows` less `reverses`, pairs resampled: above zero for a model that leans on the prior."""
    faults: tuple[FaultCounts | None, FaultCounts | None]
    """What failed where it holds, and where it is reversed; None for views that ask for no plan."""

    @property
    def leans(self) -> bool:
        """The difference is above zero beyond chance."""
        return self.difference.low > 0

    def as_dict(self) -> dict[str, Any]:
        difference = self.difference.as_dict() | {"distinguishable": excludes_zero(self.difference)}
        return super().as_dict() | {"difference": difference}


@dataclass(frozen=True, kw_only=True)
class PriorProbe(Figures):
    """Success with and against the prior; differences are shares, from -1 to 1."""

    conditions: Mapping[str, Mapping[str, PriorCell]]
    """Condition -> task -> cell."""
    macro: Mapping[str, Interval]
    """Condition -> plain mean of the tasks' differences."""


def prior_conflict(rows: Iterable[Row]) -> PriorProbe:
    """The probe over rows of any number of conditions; tasks without a prior, and states without one, take no part.

    Raises PilotageError where no two examples can be paired.
    """
    conditions = _pairs_by_condition(rows)
    if not conditions:
        raise PilotageError(
            "no two examples can be paired, one with a task's prior and one against it, at one level and length"
        )
    return PriorProbe(
        conditions={
            condition: {task: _cell(paired, condition, task) for task, paired in by_task.items()}
            for condition, by_task in conditions.items()
        },
        macro={
            condition: bootstrap_macro_mean(
                [paired.differences for paired in by_task.values()], bounds=(-1.0, 1.0)
            )
            for condition, by_task in conditions.items()
        },
    )


def paired_success(rows: Iterable[Row], condition: str) -> dict[str, tuple[list[float], list[float]]]:
    """Task -> success on its pairs where the prior holds, and where it is reversed: equally long, in one order.

    Measurements of the same examples have the same pairs, so their values may be compared pair by pair.
    """
    by_task = _pairs_by_condition(rows).get(condition, {})
    return {task: (paired.values(0), paired.values(1)) for task, paired in by_task.items()}


@dataclass(frozen=True, kw_only=True)
class _Paired:
    pairs: Sequence[tuple[Sequence[Row], Sequence[Row]]]
    """(answers to an example that follows the prior, answers to one that reverses it)"""
    num_unpaired: tuple[int, int]

    def values(self, side: int) -> list[float]:
        return [fmean(map(rate_of("success"), pair[side])) for pair in self.pairs]

    @property
    def differences(self) -> list[float]:
        return [a - b for a, b in zip(self.values(0), self.values(1), strict=True)]


def _pairs_by_condition(rows: Iterable[Row]) -> dict[str, dict[str, _Paired]]:
    """Condition -> task -> pairs, where there are any; tasks without a prior take no part."""
    found: dict[str, dict[str, _Paired]] = {}
    for (condition, task), group in grouped(rows, "condition", "task").items():
        if prior_of(planning_world(task, Plans)) is not None and (paired := _pair(group)).pairs:
            found.setdefault(condition, {})[task] = paired
    return found


def _pair(rows: Sequence[Row]) -> _Paired:
    """Pairs within a level and an optimal length, by the order of the ids, which are hashes."""
    strata: dict[tuple[int, int], tuple[list[str], list[str]]] = {}
    answers = grouped(rows, "id")
    for id_ in sorted(answers):
        row = answers[id_][0]
        task = planning_world(row["task"], Plans)
        prior = prior_of(task)
        assert prior is not None, "rows of tasks without a prior were left out"
        follows = prior.follows_prior(task.parse_state(row["state"]))
        if follows is not None:
            sides = strata.setdefault((row["level"], row["optimal_length"]), ([], []))
            sides[0 if follows else 1].append(id_)
    pairs = [
        (answers[one], answers[other])
        for _, sides in sorted(strata.items())
        for one, other in zip(*sides, strict=False)
    ]
    left = [sum(len(sides[i]) for sides in strata.values()) - len(pairs) for i in (0, 1)]
    return _Paired(pairs=pairs, num_unpaired=(left[0], left[1]))


def _cell(paired: _Paired, condition: str, task: str) -> PriorCell:
    prior = prior_of(planning_world(task, Plans))
    assert prior is not None
    is_explained = not is_description(condition) and able(prior, Recites) is not None

    def faults(side: int) -> FaultCounts | None:
        rows = [row for pair in paired.pairs for row in pair[side]]
        return count_faults(attribute_all(rows)) if is_explained else None

    return PriorCell(
        prior=prior.prior,
        num_pairs=len(paired.pairs),
        num_unpaired=paired.num_unpaired,
        follows=bootstrap_mean(paired.values(0)),
        reverses=bootstrap_mean(paired.values(1)),
        difference=bootstrap_mean(paired.differences, bounds=(-1.0, 1.0)),
        faults=(faults(0), faults(1)),
    )

"""pass@k and avg@k of several sampled answers to each example.

pass@k is the chance that at least one of k answers succeeds. With c successes among n >= k answers its unbiased
estimator is 1 - C(n-c, k) / C(n, k), the share of all sets of k answers that hold a success (Chen et al. 2021,
arXiv 2107.03374). avg@k is the mean success of one answer. Intervals resample examples.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from pilotage.errors import PilotageError
from pilotage.evaluate.bootstrap import Figures, Interval, bootstrap_macro_mean, bootstrap_mean
from pilotage.evaluate.samples import Row, grouped
from pilotage.evaluate.summary import rate_of


@dataclass(frozen=True, kw_only=True)
class PassK(Figures):
    """One condition."""

    num_samples: tuple[int, int]
    """Fewest and most answers to an example."""
    temperatures: tuple[float, ...]
    """Sampling temperatures of the rows, as far as they tell; one in a sound measurement."""
    tasks: Mapping[str, Mapping[int, Interval]]
    """Task -> k -> pass@k."""
    average: Mapping[str, Interval]
    """Task -> avg@k: success of one answer, the mean over all of an example's."""
    macro: Mapping[int, Interval]
    """k -> plain mean of pass@k over tasks."""
    macro_average: Interval


def pass_at_k(num_answers: int, num_successes: int, k: int) -> float:
    """1 - C(n-c, k) / C(n, k): of 4 answers with 1 success, pass@2 is 1 - 3/6 = 0.5."""
    return 1.0 - math.comb(num_answers - num_successes, k) / math.comb(num_answers, k)


def passk(rows: Iterable[Row], ks: Sequence[int] | None = None) -> dict[str, PassK]:
    """Condition -> estimates. `ks` defaults to 1, 2, 4, … and the number of answers that every example has.

    Raises PilotageError for a k below 1 or beyond the answers of some example.
    """
    return {
        condition: _passk(grouped(of_condition, "task"), condition, ks)
        for condition, of_condition in grouped(rows, "condition").items()
    }


def default_ks(num_samples: int) -> list[int]:
    """Powers of two up to `num_samples`, and that number itself."""
    ks = [2**i for i in range(num_samples.bit_length())]
    return ks if ks[-1] == num_samples else [*ks, num_samples]


def _passk(by_task: Mapping[str, Sequence[Row]], condition: str, ks: Sequence[int] | None) -> PassK:
    success = rate_of("success")
    tallies = {
        task: [(len(answers), round(sum(map(success, answers)))) for answers in grouped(rows, "id").values()]
        for task, rows in by_task.items()
    }
    sizes = [n for of_task in tallies.values() for n, _ in of_task]
    chosen = default_ks(min(sizes)) if ks is None else list(dict.fromkeys(ks))
    for k in chosen:
        if not 1 <= k <= min(sizes):
            raise PilotageError(
                f"pass@{k} of {condition}: k is a whole number from 1 to the {min(sizes)} answers that every example "
                "has; ask for more samples"
            )
    values = {
        task: {k: [pass_at_k(n, c, k) for n, c in of_task] for k in chosen}
        for task, of_task in tallies.items()
    }
    shares = {task: [c / n for n, c in of_task] for task, of_task in tallies.items()}
    temperatures = {
        float(settings["temperature"])
        for rows in by_task.values()
        for row in rows
        if "temperature" in (settings := row.get("settings") or {})
    }
    return PassK(
        num_samples=(min(sizes), max(sizes)),
        temperatures=tuple(sorted(temperatures)),
        tasks={task: {k: bootstrap_mean(at_k) for k, at_k in by_k.items()} for task, by_k in values.items()},
        average={task: bootstrap_mean(of_task) for task, of_task in shares.items()},
        macro={k: bootstrap_macro_mean([by_k[k] for by_k in values.values()]) for k in chosen},
        macro_average=bootstrap_macro_mean(list(shares.values())),
    )

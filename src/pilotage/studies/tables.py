"""What came out of a study: success with intervals over seeds and states, each variant against the reference."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from pilotage.evaluate import USUAL_CONDITIONS, rows_path
from pilotage.evaluate.bootstrap import Interval
from pilotage.evaluate.jsonl import read_jsonl
from pilotage.evaluate.summary import rate_of
from pilotage.runs.recipe import BASE_STAGE
from pilotage.runs.runner import read_summary
from pilotage.studies.study import Study, StudyTable, Variant, run_folder

Values = Mapping[str, np.ndarray]
"""Task -> one value per test state, in the order of the states' ids, which all runs share."""
PerSeed = Sequence[Sequence[np.ndarray]]
"""Seed -> task -> one value per state."""


def success_table(study: Study, out: Path, seeds: Sequence[int]) -> StudyTable:
    """Image success per task and macro, text success, perception; mean over seeds and 95 % interval.

    The last column is the image macro less the reference's, in points, paired by seed and state. A variant that
    some seed has not finished says so.
    """
    tasks = [name for name, _ in study.base_run(seeds[0]).levels]
    head = (
        [f"image {task}" for task in tasks]
        + [f"{condition} macro" for condition in USUAL_CONDITIONS]
        + ["image against reference"]
    )
    reference = study.variant(study.reference)
    lines = []
    for variant in study.variants:
        if not all_measured(out, seeds, variant):
            lines.append(not_run(variant.title, len(head)))
            continue
        values = {
            condition: [outcomes(out, seed, variant, condition) for seed in seeds]
            for condition in USUAL_CONDITIONS
        }
        cells = [cell([[seed[task]] for seed in values["image"]]) for task in tasks]
        cells += [cell([list(seed.values()) for seed in values[condition]]) for condition in USUAL_CONDITIONS]
        against = "" if variant is reference else _against(out, seeds, reference, values["image"])
        lines.append([variant.title, *cells, against])
    return StudyTable(
        title="Success on unseen levels, per cent",
        head=["variant", *head],
        rows=lines,
        note=f"Reference: {study.reference}.",
    )


def stages_table(study: Study, out: Path, seeds: Sequence[int]) -> StudyTable:
    """The base run's stages side by side, every condition and task; mean over seeds and 95 % interval."""
    base_run = study.base_run(seeds[0])
    stages = [
        Variant(title=name, folder=study.base_run_folder, stage=name, make=None)
        for name in (
            *([BASE_STAGE] if base_run.measure_base else []),
            *(stage.stage for stage in base_run.stages),
        )
    ]
    lines = []
    for condition in USUAL_CONDITIONS:
        values = {
            stage.title: [outcomes(out, seed, stage, condition) for seed in seeds]
            if all_measured(out, seeds, stage)
            else None
            for stage in stages
        }
        for task, _ in base_run.levels:
            cells = [
                "not run" if by_seed is None else cell([[seed[task]] for seed in by_seed])
                for by_seed in values.values()
            ]
            lines.append([f"{condition}, {task}", *cells])
    return StudyTable(
        title="The stages of the whole method", head=["", *(stage.title for stage in stages)], rows=lines
    )


def not_run(title: str, num_cells: int) -> list[str]:
    """The line of what was not run."""
    return [title, *["not run"] * num_cells]


def all_measured(out: Path, seeds: Sequence[int], variant: Variant) -> bool:
    """Whether every seed's run has the variant's rates."""
    return all(is_measured(out, seed, variant) for seed in seeds)


def is_measured(out: Path, seed: int, variant: Variant) -> bool:
    """Whether the run's `summary.json` has rates of the variant's stage."""
    return is_measured_in(run_folder(out, seed, variant.folder), variant.stage)


def is_measured_in(folder: Path, stage: str) -> bool:
    """Whether the `summary.json` of a run's folder has rates of a stage."""
    summary = read_summary(folder)
    return summary is not None and "tasks" in summary["stages"].get(stage, {})


def outcomes(out: Path, seed: int, variant: Variant, condition: str, rate: str = "success") -> Values:
    """A rate of every test state, by task."""
    return outcomes_in(run_folder(out, seed, variant.folder), variant.stage, condition, rate)


def outcomes_in(folder: Path, stage: str, condition: str, rate: str = "success") -> Values:
    """The same of a run's folder."""
    rows = read_jsonl(rows_path(folder, stage, condition)).rows
    of = rate_of(rate)
    by_task: dict[str, list[tuple[str, float]]] = {}
    for row in rows:
        by_task.setdefault(row["task"], []).append((row["id"], of(row)))
    return {task: np.array([value for _, value in sorted(pairs)]) for task, pairs in sorted(by_task.items())}


def _against(out: Path, seeds: Sequence[int], reference: Variant, image: Sequence[Values]) -> str:
    """The variant's image success less the reference's, in points, or `not run` where that is not there."""
    if not all_measured(out, seeds, reference):
        return "not run"
    theirs = [outcomes(out, seed, reference, "image") for seed in seeds]
    return difference_cell(
        less([list(seed.values()) for seed in image], [list(seed.values()) for seed in theirs])
    )


def less(ours: PerSeed, theirs: PerSeed) -> PerSeed:
    """State by state, `ours` less `theirs`."""
    return [[a - b for a, b in zip(one, other, strict=True)] for one, other in zip(ours, theirs, strict=True)]


def difference_cell(per_seed: PerSeed) -> str:
    """Mean over seeds of the mean over tasks of values in [-1, 1], in points, signed, with its interval."""
    mean = float(np.mean([[task.mean() for task in seed] for seed in per_seed]))
    if all((values == mean).all() for seed in per_seed for values in seed):
        low, high = max(-1.0, mean - _reach(per_seed)), min(1.0, mean + _reach(per_seed))
    else:
        low, high = bounds(per_seed)
    return f"{100 * mean:+.1f} ({100 * low:+.1f} to {100 * high:+.1f})"


def cell(per_seed: PerSeed) -> str:
    """`interval_of` in per cent, in words."""
    found = interval_of(per_seed)
    return f"{100 * found.mean:.1f} ({100 * found.low:.1f}-{100 * found.high:.1f})"


def interval_of(per_seed: PerSeed) -> Interval:
    """Mean over seeds of the mean over tasks, with a bootstrap over seeds and over states."""
    mean = float(np.mean([[values.mean() for values in seed] for seed in per_seed]))
    n = sum(len(values) for values in per_seed[0])
    if mean in (0.0, 1.0):
        # Resampling sees no spread where all agree: the exact binomial bound for the states of one seed stands in.
        reach = _reach(per_seed)
        return Interval(mean=mean, low=max(0.0, mean - reach), high=min(1.0, mean + reach), n=n)
    low, high = bounds(per_seed)
    return Interval(mean=mean, low=low, high=high, n=n)


def _reach(per_seed: PerSeed) -> float:
    """Exact binomial 95 % bound of a share that was never seen, for the states of one seed and task."""
    return 1 - (0.05 / 2) ** (1 / min(len(values) for values in per_seed[0]))


def bounds(per_seed: PerSeed, num_resamples: int = 2000) -> tuple[float, float]:
    """95 % bootstrap interval of the mean over seeds of the mean over tasks of values by state.

    Both sources of chance: which seeds were run, and which states were drawn (the same ones for every seed).
    """
    rng = np.random.default_rng(0)
    num_states = [len(values) for values in per_seed[0]]
    resampled = np.empty(num_resamples)
    for i in range(num_resamples):
        seeds = rng.integers(len(per_seed), size=len(per_seed))
        states = [rng.integers(n, size=n) for n in num_states]
        resampled[i] = np.mean(
            [[values[at].mean() for values, at in zip(per_seed[s], states, strict=True)] for s in seeds]
        )
    low, high = np.percentile(resampled, [2.5, 97.5])
    return float(low), float(high)

"""A study: variants of a run at the same budget, with several seeds, in one command and one table.

Variants of a seed branch off its trunk, so that what they share is trained once. Every run resumes by itself: a
study can be killed and given again, and trains only what is missing.
"""

from __future__ import annotations

import importlib
import json
import logging
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from pilotage.errors import PilotageError
from pilotage.evaluate import KINDS, rows_path
from pilotage.evaluate.jsonl import read_jsonl
from pilotage.evaluate.summary import rate_of
from pilotage.files import write_whole
from pilotage.recipes.recipe import BASE_STAGE, Recipe
from pilotage.recipes.runner import run_recipe

logger = logging.getLogger(__name__)

Values = Mapping[str, np.ndarray]
"""Task -> one value per test state, in the order of the states' ids, which all runs share."""


@dataclass(frozen=True, kw_only=True)
class Variant:
    """One row of the table."""

    title: str
    folder: str
    stage: str
    """The stage whose evaluation is the row."""
    make: Callable[[int, Path], Recipe] | None
    """Recipe of a seed, given that seed's folder of the trunk; None when it is part of the trunk."""


Extra = Callable[[Recipe, Path], None]
"""A measurement of a finished run's last stage, besides the usual ones; it does nothing where its result is there."""


@dataclass(frozen=True, kw_only=True)
class Study:
    """Which runs, and what is told of them."""

    name: str
    title: str
    trunk: Callable[[int], Recipe]
    """The run of a seed that variants branch off."""
    trunk_folder: str
    variants: tuple[Variant, ...]
    reference: str
    """Title of the variant that the others are compared with."""
    extras: tuple[Extra, ...] = ()
    tables: tuple[Callable[[Study, Path, Sequence[int]], str], ...] = ()
    """Further tables, in Markdown."""

    def variant(self, title: str) -> Variant:
        return next(variant for variant in self.variants if variant.title == title)


def run_study(
    study: Study, out: Path, seeds: Sequence[int], *, jobs: int, tell: Callable[[str], None]
) -> str:
    """Runs what is missing in `out`, `jobs` processes at a time of one thread each; returns the Markdown tables."""
    if not seeds or jobs < 1:
        raise PilotageError(f"seeds {list(seeds)} and jobs {jobs}: give at least one of each")
    branches = dict.fromkeys(variant.folder for variant in study.variants if variant.make is not None)
    with ThreadPoolExecutor(jobs) as pool:
        # First come, first served: when a branch's turn comes, its trunk runs already, or is there.
        trunks = {seed: pool.submit(_spawn, study, out, seed, study.trunk_folder) for seed in seeds}
        parts = {(seed, study.trunk_folder): trunk for seed, trunk in trunks.items()}
        for folder in branches:
            for seed in seeds:
                parts[seed, folder] = pool.submit(_spawn_branch, study, out, seed, folder, trunks[seed])
        failed = []
        for (seed, folder), part in parts.items():
            if part.result():
                failed.append(f"seed {seed}, {folder}: see {run_folder(out, seed, folder) / 'log.txt'}")
            tell(f"seed {seed}: {folder} {'failed' if part.result() else 'is there'}")
    told = write_tables(study, out, seeds)
    if failed:
        raise PilotageError(f"{len(failed)} of {len(parts)} runs failed: {'; '.join(failed)}")
    return told


def write_tables(study: Study, out: Path, seeds: Sequence[int]) -> str:
    """The tables of what is there, also in `<study>.md`; returns them."""
    told = "\n".join(table(study, out, seeds) for table in (success_table, *study.tables))
    out.mkdir(parents=True, exist_ok=True)
    write_whole(out / f"{study.name}.md", told)
    return told


def run_part(study: Study, out: Path, seed: int, folder: str) -> None:
    """One run of the study, in this process."""
    trunk = run_folder(out, seed, study.trunk_folder)
    makers = {variant.folder: variant.make for variant in study.variants if variant.make is not None}
    if folder == study.trunk_folder:
        recipe = study.trunk(seed)
    elif folder in makers:
        recipe = makers[folder](seed, trunk)
    else:
        raise PilotageError(f"no part {folder!r}; there are {', '.join((study.trunk_folder, *makers))}")
    recipe = replace(recipe, num_threads=1)
    run_recipe(recipe, run_folder(out, seed, folder))
    for extra in study.extras:
        extra(recipe, run_folder(out, seed, folder))


def run_folder(out: Path, seed: int, folder: str) -> Path:
    return out / f"seed{seed}" / folder


def _spawn_branch(study: Study, out: Path, seed: int, folder: str, trunk: Future[int]) -> int:
    """Runs a branch once its trunk is there; without a trunk it has failed too."""
    return trunk.result() or _spawn(study, out, seed, folder)


def _spawn(study: Study, out: Path, seed: int, folder: str) -> int:
    target = run_folder(out, seed, folder)
    target.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "pilotage.recipes.study", study.name, str(out), str(seed), folder]
    with (target / "log.txt").open("a") as log:
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        return subprocess.run(command, stdout=log, stderr=log, env=environment, check=False).returncode


# -- tables -----------------------------------------------------------------------------------------------------------


def success_table(study: Study, out: Path, seeds: Sequence[int]) -> str:
    """Markdown: image success per task and macro, text success, perception; mean over seeds and 95 % interval.

    The last column is the image macro less the reference's, in points, paired by seed and state. A variant that
    some seed has not finished says so.
    """
    tasks = [name for name, _ in study.trunk(seeds[0]).levels]
    head = (
        [f"image {task}" for task in tasks]
        + [f"{kind} macro" for kind in KINDS]
        + ["image against reference"]
    )
    reference = study.variant(study.reference)
    lines = []
    for variant in study.variants:
        if not all(is_measured(out, seed, variant) for seed in seeds):
            lines.append([variant.title, *(["not run"] * len(head))])
            continue
        values = {kind: [outcomes(out, seed, variant, kind) for seed in seeds] for kind in KINDS}
        cells = [cell([[seed[task]] for seed in values["image"]]) for task in tasks]
        cells += [cell([list(seed.values()) for seed in values[kind]]) for kind in KINDS]
        against = "" if variant is reference else _against(out, seeds, reference, values["image"])
        lines.append([variant.title, *cells, against])
    return markdown(["variant", *head], lines) + f"\nReference: {study.reference}.\n"


def stages_table(study: Study, out: Path, seeds: Sequence[int]) -> str:
    """Markdown: the trunk's stages side by side, every kind and task; mean over seeds and 95 % interval."""
    trunk = study.trunk(seeds[0])
    stages = [
        Variant(title=name, folder=study.trunk_folder, stage=name, make=None)
        for name in (*([BASE_STAGE] if trunk.measure_base else []), *(stage.stage for stage in trunk.stages))
    ]
    lines = []
    for kind in KINDS:
        values = {
            stage.title: [outcomes(out, seed, stage, kind) for seed in seeds]
            if all(is_measured(out, seed, stage) for seed in seeds)
            else None
            for stage in stages
        }
        for task, _ in trunk.levels:
            cells = [
                "not run" if by_seed is None else cell([[seed[task]] for seed in by_seed])
                for by_seed in values.values()
            ]
            lines.append([f"{kind}, {task}", *cells])
    return markdown(["", *(stage.title for stage in stages)], lines)


def markdown(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """A Markdown table, the first column to the left."""
    rows = [head, ["---"] * len(head), *lines]
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def is_measured(out: Path, seed: int, variant: Variant) -> bool:
    path = run_folder(out, seed, variant.folder) / "summary.json"
    return path.exists() and "tasks" in json.loads(path.read_text())["stages"].get(variant.stage, {})


def outcomes(out: Path, seed: int, variant: Variant, kind: str, rate: str = "success") -> Values:
    """A rate of every test state, by task."""
    rows = read_jsonl(rows_path(run_folder(out, seed, variant.folder), variant.stage, kind)).rows
    of = rate_of(rate)
    by_task: dict[str, list[tuple[str, float]]] = {}
    for row in rows:
        by_task.setdefault(row["task"], []).append((row["id"], of(row)))
    return {task: np.array([value for _, value in sorted(pairs)]) for task, pairs in sorted(by_task.items())}


def _against(out: Path, seeds: Sequence[int], reference: Variant, image: Sequence[Values]) -> str:
    """The variant's image success less the reference's, in points, or `not run` where that is not there."""
    if not all(is_measured(out, seed, reference) for seed in seeds):
        return "not run"
    differences = [
        [values - theirs[task] for task, values in ours.items()]
        for ours, theirs in zip(
            image, [outcomes(out, seed, reference, "image") for seed in seeds], strict=True
        )
    ]
    low, high = bounds(differences)
    mean = np.mean([[task.mean() for task in seed] for seed in differences])
    return f"{100 * mean:+.1f} ({100 * low:+.1f} to {100 * high:+.1f})"


def cell(per_seed: Sequence[Sequence[np.ndarray]]) -> str:
    """Mean over seeds of the mean over tasks, in per cent, with a bootstrap over seeds and over states."""
    mean = np.mean([[values.mean() for values in seed] for seed in per_seed])
    if mean in (0.0, 1.0):
        # Resampling sees no spread where all agree: the exact binomial bound for the states of one seed stands in.
        reach = 1 - (0.05 / 2) ** (1 / min(len(values) for values in per_seed[0]))
        return f"{100 * mean:.1f} ({100 * max(0, mean - reach):.1f}-{100 * min(1, mean + reach):.1f})"
    low, high = bounds(per_seed)
    return f"{100 * mean:.1f} ({100 * low:.1f}-{100 * high:.1f})"


def bounds(per_seed: Sequence[Sequence[np.ndarray]], num_resamples: int = 2000) -> tuple[float, float]:
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


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO)
    studies: Any = importlib.import_module("pilotage.recipes.studies")
    run_part(studies.STUDIES[sys.argv[1]], Path(sys.argv[2]), int(sys.argv[3]), sys.argv[4])

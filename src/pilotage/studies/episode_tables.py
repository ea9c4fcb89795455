"""Tables of studies of episodes: success by level, circles and what else was measured; one arm less another."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pilotage.evaluate import rows_path
from pilotage.evaluate.jsonl import read_jsonl
from pilotage.evaluate.summary import rate_of
from pilotage.studies.study import Study, StudyTable, Variant, run_folder
from pilotage.studies.tables import PerSeed, all_measured, cell, difference_cell, less, not_run

PLAN, MOVED, CELLS = "plan", "moved", "cells"
"""Folders of further measurements: one plan from the start, after random moves, from every cell of some maps."""
NUM_MOVES = 4


Rows = Sequence[Mapping[str, Any]]


def rows_by_id(run_dir: Path, stage: str, condition: str) -> Rows:
    """What a stage was measured with, in the order of the examples' ids, which all runs share."""
    return sorted(read_jsonl(rows_path(run_dir, stage, condition)).rows, key=lambda row: row["id"])


def values(per_seed: Sequence[Rows], rate: str, level: int | None = None) -> PerSeed:
    """Seed -> all levels, or one, as one task -> whether each row counts for a rate."""
    value = rate_of(rate)
    return [[np.array([value(row) for row in rows if level in (None, row["level"])])] for rows in per_seed]


def episodes_table(study: Study, out: Path, seeds: Sequence[int]) -> StudyTable:
    """Success move by move, by level; circles; from elsewhere; in one plan. Means and intervals over seeds and maps."""
    arms = [variant for variant in study.variants if variant.make is not None]
    assert arms[0].make is not None
    levels = arms[0].make(seeds[0], Path()).levels[0][1]
    parts = {PLAN: "one plan", MOVED: f"after {NUM_MOVES} random moves", CELLS: "every start cell"}
    measured = [part for part in parts if any(of_seeds(out, seeds, arm, part) for arm in arms)]
    head = ["variant", *(f"level {level}" for level in levels), "all", "in circles", "turns"]
    head += [*(parts[part] for part in measured), "all, against reference"]
    theirs = of_seeds(out, seeds, study.variant(study.reference))
    lines = []
    for variant in arms:
        known = of_seeds(out, seeds, variant)
        if known is None:
            lines.append(not_run(variant.title, len(head) - 1))
            continue
        cells_ = [_success_at(known, level) for level in levels]
        cells_ += [cell(values(known, rate)) for rate in ("success", "circled")]
        turns = [row["num_turns"] for rows in known for row in rows]
        cells_.append(f"{np.mean(turns):.1f}")
        for part in measured:
            there = of_seeds(out, seeds, variant, part)
            cells_.append("not run" if there is None else cell(values(there, "success")))
        cells_.append(
            "" if theirs is None or variant.title == study.reference else _difference(known, theirs)
        )
        lines.append([variant.title, *cells_])
    return StudyTable(
        title="Success on unseen maps, per cent",
        head=head,
        rows=lines,
        note=f"Reference: {study.reference}. The same maps for all variants and seeds.",
    )


def _success_at(known: Sequence[Rows], level: int) -> str:
    per_seed = values(known, "success", level)
    return cell(per_seed) if all(len(of_seed) for (of_seed,) in per_seed) else "-"


def pairs_table(
    pairs: Sequence[tuple[str, str]], study: Study, out: Path, seeds: Sequence[int]
) -> StudyTable:
    """One arm less another, by folders, paired by seed and map: in all, by level, in circles, in one plan."""
    variant_of = {variant.folder: variant for variant in study.variants}
    make = study.variants[0].make
    assert make is not None
    levels = make(seeds[0], Path()).levels[0][1]
    lines = []
    for one, other in pairs:
        ours, theirs = (of_seeds(out, seeds, variant_of[folder]) for folder in (one, other))
        title = f"{variant_of[one].title} less {variant_of[other].title}"
        if ours is None or theirs is None:
            lines.append(not_run(title, len(levels) + 3))
            continue
        cells_ = [_difference(ours, theirs), *(_difference(ours, theirs, level=level) for level in levels)]
        cells_.append(_difference(ours, theirs, rate="circled"))
        plans = [of_seeds(out, seeds, variant_of[folder], PLAN) for folder in (one, other)]
        cells_.append("not run" if plans[0] is None or plans[1] is None else _difference(plans[0], plans[1]))
        lines.append([title, *cells_])
    return StudyTable(
        title="One arm less another, points",
        head=["pair", "all", *(f"level {level}" for level in levels), "in circles", "one plan"],
        rows=lines,
    )


def of_seeds(out: Path, seeds: Sequence[int], variant: Variant, part: str = "") -> list[Rows] | None:
    """The rows of each seed, of a further measurement where `part` names its folder; None where one is missing."""
    if not all_measured(out, seeds, variant):
        return None
    folders = [run_folder(out, seed, variant.folder) / part for seed in seeds]
    if not all(rows_path(folder, variant.stage, "image").exists() for folder in folders):
        return None
    if part and not all((folder / "done").exists() for folder in folders):
        return None
    return [rows_by_id(folder, variant.stage, "image") for folder in folders]


def _difference(
    ours: Sequence[Rows], theirs: Sequence[Rows], *, rate: str = "success", level: int | None = None
) -> str:
    one, other = values(ours, rate, level), values(theirs, rate, level)
    return difference_cell(less(one, other)) if all(len(of_seed) for (of_seed,) in one) else "-"

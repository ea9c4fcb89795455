"""Tables of studies of episodes: success by level, circles and what else was measured; one arm less another."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pilotage.evaluate import rows_path
from pilotage.evaluate.jsonl import read_jsonl
from pilotage.evaluate.summary import rate_of
from pilotage.studies.study import Study, StudyTable, Variant, run_folder
from pilotage.studies.tables import cell, difference_cell, is_measured, less

PLAN, MOVED, CELLS = "plan", "moved", "cells"
"""Folders of further measurements: one plan from the start, after random moves, from every cell of some maps."""
NUM_MOVES = 4


def _rows(out: Path, seed: int, variant: Variant, part: str = "") -> list[dict[str, Any]] | None:
    folder = run_folder(out, seed, variant.folder)
    path = rows_path(folder / part if part else folder, variant.stage, "image")
    if not path.exists() or (part and not (folder / part / "done").exists()):
        return None
    return sorted(read_jsonl(path).rows, key=lambda row: row["id"])


def _values(rows: Sequence[dict[str, Any]], rate: str, level: int | None = None) -> np.ndarray:
    of = rate_of(rate)
    return np.array([of(row) for row in rows if level is None or row["level"] == level])


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
            lines.append([variant.title, *(["not run"] * (len(head) - 1))])
            continue
        cells_ = [_success_at(known, level) for level in levels]
        cells_.append(cell([[_values(rows, "success")] for rows in known]))
        cells_.append(cell([[_values(rows, "circled")] for rows in known]))
        turns = [row["num_turns"] for rows in known for row in rows]
        cells_.append(f"{np.mean(turns):.1f}")
        for part in measured:
            there = of_seeds(out, seeds, variant, part)
            cells_.append(
                "not run" if there is None else cell([[_values(rows, "success")] for rows in there])
            )
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


def _success_at(known: Sequence[Sequence[dict[str, Any]]], level: int) -> str:
    per_seed = [[_values(rows, "success", level)] for rows in known]
    return cell(per_seed) if all(len(values) for (values,) in per_seed) else "-"


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
            lines.append([title, *(["not run"] * (len(levels) + 3))])
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


def of_seeds(
    out: Path, seeds: Sequence[int], variant: Variant, part: str = ""
) -> list[list[dict[str, Any]]] | None:
    """The rows of each seed; None where one is missing."""
    if not all(is_measured(out, seed, variant) for seed in seeds):
        return None
    per_seed = [_rows(out, seed, variant, part) for seed in seeds]
    known = [rows for rows in per_seed if rows is not None]
    return known if len(known) == len(seeds) else None


def _difference(
    ours: Sequence[Sequence[dict[str, Any]]],
    theirs: Sequence[Sequence[dict[str, Any]]],
    *,
    rate: str = "success",
    level: int | None = None,
) -> str:
    one, other = ([[_values(rows, rate, level)] for rows in per_seed] for per_seed in (ours, theirs))
    if not all(len(values) for (values,) in one):
        return "-"
    return difference_cell(less(one, other))

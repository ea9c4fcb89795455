"""Who leans on a task's prior: success where it holds and where it is reversed, each variant against the reference."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from pilotage.evaluate import rows_path
from pilotage.evaluate.jsonl import read_jsonl
from pilotage.evaluate.prior_probe import paired_success
from pilotage.studies.extras import PROBE_FOLDER
from pilotage.studies.study import Study, StudyTable, Variant, run_folder
from pilotage.studies.tables import PerSeed, cell, difference_cell, less, not_run


def prior_table(study: Study, out: Path, seeds: Sequence[int]) -> StudyTable:
    """Means over seeds and tasks, 95 % intervals over seeds and pairs of levels."""
    head = ["where it holds", "where it is reversed", "difference", "difference against reference"]
    reference = _all_pairs(study.variant(study.reference), out, seeds)
    lines = []
    for variant in study.variants:
        by_seed = _all_pairs(variant, out, seeds)
        if by_seed is None:
            # Rows of the base run that are not its last stage are never probed; a branch may still be missing.
            if variant.make is not None:
                lines.append(not_run(variant.title, len(head)))
            continue
        holds, reversed_ = by_seed
        leaning = less(holds, reversed_)
        cells = [cell(holds), cell(reversed_), difference_cell(leaning)]
        if variant.title == study.reference:
            cells.append("")
        elif reference is None:
            cells.append("not run")
        else:
            cells.append(difference_cell(less(leaning, less(*reference))))
        lines.append([variant.title, *cells])
    return StudyTable(
        title="Who leans on the prior",
        head=["variant", *head],
        rows=lines,
        note="Success from pictures of pairs of levels, equally large and equally hard: in one the task's prior "
        f"holds, in the other it is reversed. Per cent and points. Reference: {study.reference}.",
    )


def _all_pairs(variant: Variant, out: Path, seeds: Sequence[int]) -> tuple[PerSeed, PerSeed] | None:
    """Success where the prior holds, and where it is reversed, one value a pair; None where a seed has none."""
    holds, reversed_ = [], []
    for seed in seeds:
        path = rows_path(run_folder(out, seed, variant.folder) / PROBE_FOLDER, variant.stage, "image")
        if not path.exists():
            return None
        by_task = sorted(paired_success(read_jsonl(path).rows, "image").items())
        holds.append([np.array(values) for _, (values, _) in by_task])
        reversed_.append([np.array(values) for _, (_, values) in by_task])
    return holds, reversed_

"""What each switch of a study of all combinations is worth, the others held still."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from pilotage.evaluate import KINDS
from pilotage.studies.study import Study, StudyTable
from pilotage.studies.tables import PerSeed, all_measured, difference_cell, less, outcomes

Switches = Mapping[str, Sequence[tuple[str, str]]]
"""What is switched, in words -> pairs of variants' folders: switched, and not, all else being equal."""


def switch_table(switches: Switches, study: Study, out: Path, seeds: Sequence[int]) -> StudyTable:
    """Macro of each kind, switched less not, a mean over the pairs; 95 % intervals over seeds and states."""
    values = {
        variant.folder: {
            kind: [list(outcomes(out, seed, variant, kind).values()) for seed in seeds] for kind in KINDS
        }
        for variant in study.variants
        if all_measured(out, seeds, variant)
    }
    lines = []
    for what, pairs in switches.items():
        if all(folder in values for pair in pairs for folder in pair):
            cells = [
                difference_cell(_mean([less(values[on][kind], values[off][kind]) for on, off in pairs]))
                for kind in KINDS
            ]
        else:
            cells = ["not run"] * len(KINDS)
        lines.append([what, *cells])
    return StudyTable(
        title="What each switch is worth",
        head=["switch", *(f"{kind} macro" for kind in KINDS)],
        rows=lines,
        note=f"Points, means over the {len(next(iter(switches.values())))} pairs of variants that differ in the switch "
        "alone.",
    )


def _mean(differences: Sequence[PerSeed]) -> PerSeed:
    """State by state, the mean over the pairs of variants."""
    return [
        [np.mean(task, axis=0) for task in zip(*seed, strict=True)] for seed in zip(*differences, strict=True)
    ]

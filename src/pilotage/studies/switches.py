"""What each switch of a study of all combinations is worth, the others held still."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from pilotage.evaluate import USUAL_CONDITIONS
from pilotage.studies.study import Study, StudyTable
from pilotage.studies.tables import PerSeed, all_measured, difference_cell, less, outcomes

Switches = Mapping[str, Sequence[tuple[str, str]]]
"""What is switched, in words -> pairs of variants' folders: switched, and not, all else being equal."""


def switch_table(switches: Switches, study: Study, out: Path, seeds: Sequence[int]) -> StudyTable:
    """Macro of each condition, switched less not, a mean over the pairs; 95 % intervals over seeds and states."""
    values = {
        variant.folder: {
            condition: [list(outcomes(out, seed, variant, condition).values()) for seed in seeds]
            for condition in USUAL_CONDITIONS
        }
        for variant in study.variants
        if all_measured(out, seeds, variant)
    }
    lines = []
    for what, pairs in switches.items():
        if all(folder in values for pair in pairs for folder in pair):
            cells = [
                difference_cell(
                    _mean([less(values[on][condition], values[off][condition]) for on, off in pairs])
                )
                for condition in USUAL_CONDITIONS
            ]
        else:
            cells = ["not run"] * len(USUAL_CONDITIONS)
        lines.append([what, *cells])
    return StudyTable(
        title="What each switch is worth",
        head=["switch", *(f"{condition} macro" for condition in USUAL_CONDITIONS)],
        rows=lines,
        note=f"Points, means over the {len(next(iter(switches.values())))} pairs of variants that differ in the switch "
        "alone.",
    )


def _mean(differences: Sequence[PerSeed]) -> PerSeed:
    """State by state, the mean over the pairs of variants."""
    return [
        [np.mean(task, axis=0) for task in zip(*seed, strict=True)] for seed in zip(*differences, strict=True)
    ]

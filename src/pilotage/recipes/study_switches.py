"""What each switch of a study of all combinations is worth, the others held still."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from pilotage.evaluate import KINDS
from pilotage.recipes.study import Study, StudyTable
from pilotage.recipes.study_tables import difference_cell, is_measured, outcomes

Switches = Mapping[str, Sequence[tuple[str, str]]]
"""What is switched, in words -> pairs of variants' folders: switched, and not, all else being equal."""


def switch_table(switches: Switches, study: Study, out: Path, seeds: Sequence[int]) -> StudyTable:
    """Macro of each kind, switched less not, a mean over the pairs; 95 % intervals over seeds and states."""
    variants = {variant.folder: variant for variant in study.variants}
    lines = []
    for what, pairs in switches.items():
        named = [(variants[on], variants[off]) for on, off in pairs]
        if not all(is_measured(out, seed, each) for seed in seeds for pair in named for each in pair):
            lines.append([what, *(["not run"] * len(KINDS))])
            continue
        cells = []
        for kind in KINDS:
            by_seed = []
            for seed in seeds:
                differences = [
                    [
                        on - off
                        for on, off in zip(
                            *(outcomes(out, seed, each, kind).values() for each in pair), strict=True
                        )
                    ]
                    for pair in named
                ]
                by_seed.append([np.mean(task, axis=0) for task in zip(*differences, strict=True)])
            cells.append(difference_cell(by_seed))
        lines.append([what, *cells])
    return StudyTable(
        title="What each switch is worth",
        head=["switch", *(f"{kind} macro" for kind in KINDS)],
        lines=lines,
        note=f"Points, means over the {len(next(iter(switches.values())))} pairs of variants that differ in the switch "
        "alone.",
    )

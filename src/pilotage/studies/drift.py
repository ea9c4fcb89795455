"""Is a teacher carried off along the student's errors? Three teachers, each with and without two cures, move by move.

    pilotage study drift runs/drift --seeds 0 1 2

A teacher that is told this turn's state, one that holds on to the plan from the start, and one that sees what the
student sees; each on the student's own episodes, with TCOD's growing horizon, and taking turns with the student
(Guided-OPD).
What would show drift: a divergence that rises turn by turn, and success that falls as training goes on.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np

from pilotage.evaluate.jsonl import read_jsonl
from pilotage.recipes.nano import nano_mgsd
from pilotage.recipes.steps import STAGE, nano_seeing, nano_steps
from pilotage.runs.recipe import Recipe
from pilotage.studies.episode_tables import episodes_table
from pilotage.studies.study import Study, StudyTable, Variant
from pilotage.studies.tables import all_measured, not_run
from pilotage.train.step.monitors import turn_bins

SEEING = "seeing"
"""Folder of the teacher that sees what the student sees."""
TITLES = {
    "this_turn": "told this turn's state",
    "stale_plan": "told the plan of the start",
    "at_start": "told state and plan of the start",
    "same_view": "sees what the student sees",
}
CURES = {"own": "", "tcod": ", growing horizon", "guided": ", takes turns"}
ARMS = [(teacher, cure) for teacher in ("this_turn", "stale_plan", "same_view") for cure in CURES]
ARMS.append(("at_start", "own"))
PARTS = 3
"""Into how many parts the training is cut."""


def _arm(teacher: str, arm: str, seed: int, base_run: Path) -> Recipe:
    return nano_steps(
        seed,
        backbone=str(base_run / "stage2" / "model"),
        arm=arm,
        teacher=teacher,
        seeing=str(base_run.parent / SEEING / STAGE / "model"),
    )


def _seeing(seed: int, base_run: Path) -> Recipe:
    return nano_seeing(0, backbone=str(base_run / "stage2" / "model"))


def drift_table(study: Study, out: Path, seeds: Sequence[int]) -> StudyTable:
    """Divergence by turn in the last part of training, and success of the training's episodes part by part."""
    bins = turn_bins()
    parts = [f"success, part {part + 1} of {PARTS}" for part in range(PARTS)]
    head = [
        "variant",
        *(f"nats, turns {name}" for name in bins),
        *parts,
        "nats, first part",
        "nats, last part",
    ]
    lines = []
    for variant in study.variants:
        if not all_measured(out, seeds, variant):
            lines.append(not_run(variant.title, len(head) - 1))
            continue
        per_seed = [_metrics(study, out, seed, variant) for seed in seeds]
        cells = [_spread([_mean(rows[-1], f"turn/kl_{name}") for rows in per_seed]) for name in bins]
        cells += [
            _spread([100 * _mean(rows[part], "rollout/success") for rows in per_seed], digits=0)
            for part in range(PARTS)
        ]
        cells += [_spread([_mean(rows[part], "kl/all") for rows in per_seed]) for part in (0, -1)]
        lines.append([variant.title, *cells])
    return StudyTable(
        title="Divergence from the teacher by turn, and success by step",
        head=head,
        rows=lines,
        note=(
            f"From the metrics of training: means over its last {100 // PARTS} per cent of steps where nothing else is "
            "said, and over seeds, with the lowest and highest seed. The divergence is the loss's own: forward KL, and "
            "with a teacher that takes turns reverse KL on the student's. Success is that of the sampled episodes on "
            "training maps, cut off where the horizon ends, whoever moved."
        ),
    )


def _metrics(study: Study, out: Path, seed: int, variant: Variant) -> list[list[dict[str, float]]]:
    """The stage's rows of metrics, in equal parts."""
    rows = read_jsonl(study.folder(out, seed, variant.folder) / "metrics.jsonl").rows
    rows = [row for row in rows if row["stage"] == variant.stage]
    return [[rows[place] for place in part] for part in np.array_split(np.arange(len(rows)), PARTS)]


def _mean(rows: Sequence[dict[str, float]], name: str) -> float:
    known = [row[name] for row in rows if name in row]
    return float(np.mean(known)) if known else math.nan


def _spread(values: Sequence[float], *, digits: int = 2) -> str:
    known = [value for value in values if not math.isnan(value)]
    if not known:
        return "-"
    return f"{np.mean(known):.{digits}f} ({min(known):.{digits}f} to {max(known):.{digits}f})"


DRIFT = Study(
    name="drift",
    title="Is a teacher carried off along the student's errors? FrozenLake move by move",
    base_run=lambda seed: nano_mgsd(0),
    base_run_folder="base_run",
    one_base_run=True,
    shared=(Variant(title=TITLES["same_view"], folder=SEEING, stage=STAGE, make=_seeing),),
    variants=tuple(
        Variant(
            title=TITLES[teacher] + CURES[arm],
            folder=f"{teacher}_{arm}",
            stage=STAGE,
            make=partial(_arm, teacher, arm),
        )
        for teacher, arm in ARMS
    ),
    reference=TITLES["this_turn"],
    main_table=episodes_table,
    tables=(drift_table,),
)

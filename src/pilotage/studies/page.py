"""A study's folder as a page: what the runs measured, handed to the report."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from pilotage.evaluate import USUAL_CONDITIONS, rows_path
from pilotage.report.study_page import ShownVariant, StudyTable, render_study
from pilotage.runs.measurement import measured_conditions
from pilotage.runs.recipe import BASE_STAGE
from pilotage.runs.validation import VALIDATION
from pilotage.studies.costs import GOAL_SHARE, curve_of, rows_per_step
from pilotage.studies.study import Study, Variant
from pilotage.studies.tables import all_measured, interval_of, is_measured_in, outcomes, outcomes_in


def study_page(study: Study, out: Path, seeds: Sequence[int], tables: Sequence[StudyTable]) -> str:
    """The page of what is there."""
    base_run = study.base_run(seeds[0])
    makers = (variant.make for variant in study.variants if variant.make is not None)
    # What is measured is the variants': a base run may have been trained on other worlds.
    measurement = next((make(seeds[0], Path(study.base_run_folder)) for make in makers), base_run)
    levels = "; ".join(f"{name} {', '.join(map(str, sizes))}" for name, sizes in measurement.levels)
    facts = [
        ("Seeds", ", ".join(map(str, seeds))),
        ("Levels", levels),
        ("Test levels a task", str(measurement.num_test)),
        ("Backbone", base_run.backbone),
        ("Command", f"pilotage study {study.name}"),
    ]
    conditions = tuple(dict.fromkeys((*USUAL_CONDITIONS, *measured_conditions(measurement))))
    return render_study(
        name=study.name,
        what=study.title[:1].upper() + study.title[1:] + ("" if study.title.endswith("?") else "."),
        facts=facts,
        variants=[_shown(study, out, seeds, variant, conditions) for variant in study.variants],
        tables=tables,
        goal=_goal(study, out, seeds),
    )


def _shown(
    study: Study, out: Path, seeds: Sequence[int], variant: Variant, conditions: Sequence[str]
) -> ShownVariant:
    folders = [study.folder(out, seed, variant.folder) for seed in seeds]
    if not all(is_measured_in(folder, variant.stage) for folder in folders):
        return ShownVariant(title=variant.title, shares={})
    shares = {
        condition: interval_of(
            [list(outcomes_in(folder, variant.stage, condition).values()) for folder in folders]
        )
        for condition in conditions
        if all(rows_path(folder, variant.stage, condition).exists() for folder in folders)
    }
    curves = []
    for seed in seeds:
        if variant.make is not None and (study.folder(out, seed, variant.folder) / VALIDATION).exists():
            rows = rows_per_step(out, seed, variant)
            curves.append([(row["step"] * rows, row["macro"]) for row in curve_of(out, seed, variant)])
    return ShownVariant(
        title=variant.title,
        shares=shares,
        curves=[curve for curve in curves if curve],
        is_reference=variant.title == study.reference,
    )


def _goal(study: Study, out: Path, seeds: Sequence[int]) -> float | None:
    base = next((variant for variant in study.variants if variant.stage == BASE_STAGE), None)
    if base is None or not all_measured(out, seeds, base):
        return None
    texts = [list(outcomes(out, seed, base, "text").values()) for seed in seeds]
    return GOAL_SHARE * float(np.mean([[task.mean() for task in seed] for seed in texts]))

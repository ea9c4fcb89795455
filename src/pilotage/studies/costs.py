"""What each variant of a study took to get where it got, and what the answer has to do with it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pilotage.evaluate.jsonl import read_jsonl
from pilotage.files import read_json
from pilotage.runs.recipe import BASE_STAGE
from pilotage.runs.record import read_record
from pilotage.runs.validation import VALIDATION
from pilotage.studies.extras import LEAK_FILE, TEACHER_FILE
from pilotage.studies.study import Study, StudyTable, Variant, run_folder
from pilotage.studies.tables import Values, all_measured, cell, is_measured, not_run, outcomes
from pilotage.train.sft import SftConfig

GOAL_SHARE = 0.8
"""Of the base's success from words: what rollouts and seconds are counted to."""
_REMEDY = "remove it and run the study again, which measures it once more"
TEACHER, PALR = "its teacher itself", "PALR"
NOTES = {
    TEACHER: "Its teacher itself: success on val of the teacher of the plan, shown what it is shown.",
    PALR: "PALR of all taught tokens.",
}
"""Columns that a study need not measure, and what they are."""


def cost_table(study: Study, out: Path, seeds: Sequence[int]) -> StudyTable:
    """What it took, and what the answer has to do with it; means over seeds, lowest and highest in brackets.

    Rollouts and seconds are those of the second stage until unseen pictures of the split `val` are solved as often as
    `GOAL_SHARE` of the base's success from words; a dash where that was not reached. The same seconds: `val` at the
    time at which the fastest variant of the seed had finished.
    """
    base = next(variant for variant in study.variants if variant.stage == BASE_STAGE)
    head = [
        "variant",
        "optimal",
        "rollouts to goal",
        "seconds to goal",
        "seconds",
        "val at the same seconds",
        TEACHER,
        PALR,
    ]
    lines = []
    fastest_s = {seed: _fastest_s(study, out, seed) for seed in seeds}
    for variant in study.variants:
        if variant.make is None:
            continue
        if not (all_measured(out, seeds, variant) and all_measured(out, seeds, base)):
            lines.append(not_run(variant.title, len(head) - 1))
            continue
        curves = {seed: curve_of(out, seed, variant) for seed in seeds}
        goals = {seed: GOAL_SHARE * _macro(outcomes(out, seed, base, "text")) for seed in seeds}
        reached = [_reached(curves[seed], goals[seed]) for seed in seeds]
        rollouts = [
            None if at is None else at[0] * rows_per_step(out, seed, variant)
            for at, seed in zip(reached, seeds, strict=True)
        ]
        optimal = [list(outcomes(out, seed, variant, "image", "optimal").values()) for seed in seeds]
        lines.append(
            [
                variant.title,
                cell(optimal),
                _spread(rollouts, "{:.0f}"),
                _spread([None if at is None else at[1] for at in reached], "{:.0f}"),
                _spread([curves[seed][-1]["train_s"] for seed in seeds], "{:.0f}"),
                _spread([100 * _at(curves[seed], fastest_s[seed]) for seed in seeds], "{:.1f}"),
                _spread([_teacher(out, seed, variant) for seed in seeds], "{:.1f}"),
                _spread([leak_of(out, seed, variant) for seed in seeds], "{:.1f}"),
            ]
        )
    kept = [
        i
        for i, name in enumerate(head)
        if name not in NOTES or any(line[i] not in ("-", "not run") for line in lines)
    ]
    note = (
        "Per cent, rollouts, seconds; in brackets the lowest and the highest seed. "
        f"Goal: {GOAL_SHARE:.0%} of the base's success from words, on the split val."
    )
    return StudyTable(
        title="What it took, and what the answer has to do with it",
        head=[head[i] for i in kept],
        rows=[[line[i] for i in kept] for line in lines],
        note=" ".join([note, *(NOTES[head[i]] for i in kept if head[i] in NOTES)]),
    )


def curve_of(out: Path, seed: int, variant: Variant) -> list[dict[str, Any]]:
    """The validation rows of the variant's stage, in the order in which they were written."""
    rows = read_jsonl(run_folder(out, seed, variant.folder) / VALIDATION).rows
    return [row for row in rows if row["stage"] == variant.stage]


def rows_per_step(out: Path, seed: int, variant: Variant) -> int:
    """Answers that one optimiser step of the last stage sees."""
    record = read_record(run_folder(out, seed, variant.folder))
    assert record is not None, "a run that was measured has its record"
    stage = record.recipe.stages[-1]
    return (
        stage.batch_size
        if isinstance(stage, SftConfig)
        else stage.prompts_per_step * stage.sources.max_samples
    )


def _fastest_s(study: Study, out: Path, seed: int) -> float:
    ends = [
        curve_of(out, seed, variant)[-1]["train_s"]
        for variant in study.variants
        if variant.make is not None and is_measured(out, seed, variant)
    ]
    return min(ends, default=0.0)


def _reached(curve: Sequence[dict[str, Any]], goal: float) -> tuple[int, float] | None:
    """(step, seconds) of the first validation at the goal."""
    return next(((row["step"], row["train_s"]) for row in curve if row["macro"] >= goal), None)


def _at(curve: Sequence[dict[str, Any]], seconds: float) -> float:
    return float(np.interp(seconds, [row["train_s"] for row in curve], [row["macro"] for row in curve]))


def _macro(values: Values) -> float:
    return float(np.mean([task.mean() for task in values.values()]))


def _teacher(out: Path, seed: int, variant: Variant) -> float | None:
    path = run_folder(out, seed, variant.folder) / TEACHER_FILE
    return 100 * read_json(path, remedy=_REMEDY)["macro"] if path.exists() else None


def leak_of(out: Path, seed: int, variant: Variant) -> float | None:
    """PALR of all taught tokens, in per cent; None where it was not measured."""
    path = run_folder(out, seed, variant.folder) / LEAK_FILE
    figures = read_json(path, remedy=_REMEDY) if path.exists() else {}
    return 100 * figures["palr/all"] if "palr/all" in figures else None


def _spread(values: Sequence[float | None], form: str) -> str:
    """The mean and, in brackets, the lowest and the highest; of values that some seeds lack, how many have one."""
    known = [value for value in values if value is not None]
    if not known:
        return "-"
    low, high = (form.format(end(known)) for end in (min, max))
    reach = low if low == high else f"{low} to {high}"
    if len(known) < len(values):
        return f"{len(known)} of {len(values)} seeds: {reach}"
    return low if low == high else f"{form.format(np.mean(known))} ({reach})"

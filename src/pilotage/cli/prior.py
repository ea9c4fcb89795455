"""`pilotage diagnose RUN prior`: does a model plan by habit?"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tyro

from pilotage.cli.evaluate import Eval
from pilotage.cli.evaluation_rows import keep
from pilotage.cli.gap import SHOWN_FAULTS
from pilotage.cli.options import RecipeCount
from pilotage.cli.tables import make_table, points, say, signed, table_console
from pilotage.errors import PilotageError

if TYPE_CHECKING:
    from pilotage.evaluate.prior_probe import PriorProbe
    from pilotage.runs import Recipe
    from pilotage.runs.measurement import Measurement

NUM_PAIRS = 100
PROBE_FOLDER = "probe"


@dataclass(frozen=True, kw_only=True)
class PriorCommand(Eval):
    """Ask whether a model plans by habit: levels with a usual regularity, levels that reverse it.

    FrozenLake: the goal lies to the lower right of the player, or to its upper left. MiniBehaviour:
    the table stands in the lower half of the room, or in the upper. Levels come in pairs of one size
    and one optimal length, so that both sets are equally hard. Rows go to eval/ of the folder probe
    in the run, the figures to <stage>.prior.json beside them.
    """

    conditions: tuple[str, ...] = ("image", "text")
    """What is measured: a habit in the image view alone is one of seeing."""
    num: RecipeCount = None
    """Pairs of levels of each task (default: 100)."""
    rows_only: tyro.conf.FlagCreatePairsOff[bool] = False
    """Ask no model: pair the rows that are there, of a run, RUN/STAGE or FILE.jsonl, whatever they were made for."""

    def run(self) -> int:
        rows, beside = self.found_or_measured(rows_only=self.rows_only)
        from pilotage.evaluate.prior_probe import prior_conflict

        probe = prior_conflict(rows)
        path = beside.with_name(beside.name + ".prior.json")
        print_probe(probe)
        keep(path, probe.as_dict())
        return 0

    def _choose(self) -> tuple[str, str, Path, Recipe | None, Measurement]:
        """A folder of its own: these levels are no fair sample, and must not join the stage's rows."""
        stage, weights, out, recipe, measurement = super()._choose()
        return stage, weights, out if self.out is not None else out / PROBE_FOLDER, recipe, measurement

    def _examples(self, measurement: Measurement) -> list[Any]:
        from pilotage.data.prior import prior_of, prior_pairs, tasks_with_prior
        from pilotage.runs.measurement import TEST_SEED
        from pilotage.worlds.drawing import FIXED_SIDE_PX
        from pilotage.worlds.registry import planning_world
        from pilotage.worlds.task import Plans, Sampled

        if self.data is not None:
            examples = replace(self, num=None).load_examples(measurement, self.split)
            return [example for example in examples if prior_of(planning_world(example.task, Plans))]
        levels = {name: at for name, at in measurement.levels if prior_of(planning_world(name, Plans))}
        if not levels:
            raise PilotageError(
                f"none of the recipe's tasks has a prior; such tasks are {', '.join(tasks_with_prior())}"
            )
        return [
            example
            for name, at in levels.items()
            for pair in prior_pairs(
                planning_world(name, Sampled),
                at,
                self.num or NUM_PAIRS,
                split=self.split,
                seed=TEST_SEED,
                cell_px=measurement.cell_px,
                side_px=FIXED_SIDE_PX if measurement.cell_px is None else None,
            )
            for example in pair
        ]


def print_probe(probe: PriorProbe) -> None:
    console = table_console()
    table = make_table(
        "success, per cent with 95 % intervals; paired by level and optimal length",
        *("condition", "task", "pairs", "with the prior", "against it", "difference"),
    )
    for condition, cells in probe.conditions.items():
        for task, cell in cells.items():
            shown = (points(cell.follows), points(cell.reverses), signed(cell.difference))
            table.add_row(condition, task, str(cell.num_pairs), *shown)
        if len(cells) > 1:
            table.add_row(condition, "macro", "", "", "", signed(probe.macro[condition]), end_section=True)
    console.print(table)
    for condition, cells in probe.conditions.items():
        for task, cell in cells.items():
            says = (
                "the model leans on it" if cell.leans else "the difference is not distinguishable from zero"
            )
            if cell.difference.high < 0:
                says = "the model does better against it"
            say(console, f"{condition}, {task}: usually {cell.prior}; {says}")
            follows, reverses = cell.faults
            if cell.leans and follows and reverses:
                text = ", ".join(
                    f"{name} {follows.counts[fault]} -> {reverses.counts[fault]}"
                    for fault, name in SHOWN_FAULTS.items()
                    if follows.counts[fault] or reverses.counts[fault]
                )
                say(console, f"  answers with -> against: {text}")
            if sum(cell.num_unpaired):
                say(console, f"  left out, without a partner: {sum(cell.num_unpaired)} levels")

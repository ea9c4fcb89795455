"""`pilotage diagnose RUN gap`: where a model loses, in seeing or in planning."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import tyro

from pilotage.cli.evaluate import Eval
from pilotage.cli.evaluation_rows import keep
from pilotage.cli.tables import make_table, points, say, table_console
from pilotage.errors import PilotageError
from pilotage.evaluate.attribution import FAULTS

if TYPE_CHECKING:
    from pilotage.evaluate.gap import Gap, GapCell
    from pilotage.runs.measurement import Measurement

SHOWN_FAULTS = {name: "success" if name == "none" else name for name in FAULTS}


@dataclass(frozen=True, kw_only=True)
class GapCommand(Eval):
    """Explain where a model loses: in seeing or in planning.

    The same levels are asked as words, as pictures, and as pictures with the true state told at the
    head of the answer; perception questions go with them. Each failure from the image is attributed
    by judging its plan in the true state and in the state that the answer recites: misread (right
    for what was read), misplanned (read right, plan wrong), both, format, or error. Rows go where
    `pilotage eval` keeps them, and those that it has made are used; the diagnosis goes to
    eval/<stage>.gap.json.
    """

    conditions: tuple[str, ...] = ("text", "image", "corrected", "perception")
    """What is measured: image is needed; corrected is the image with the true state told at the head of the answer."""
    rows_only: tyro.conf.FlagCreatePairsOff[bool] = False
    """Ask no model: explain the rows that are there, of a run, RUN/STAGE or FILE.jsonl."""

    def run(self) -> int:
        if "image" not in self.conditions:
            raise PilotageError(
                f"conditions {list(self.conditions)} lack image: there would be no failures to explain"
            )
        rows, beside = self.found_or_measured(rows_only=self.rows_only)
        _check_planning(row.get("world") or row["task"] for row in rows)
        from pilotage.evaluate.gap import gap

        found_gap = gap(rows)
        path = beside.with_name(beside.name + ".gap.json")
        print_gap(found_gap, by_level=self.by_level)
        keep(path, found_gap.as_dict())
        return 0

    def _examples(self, measurement: Measurement) -> list[Any]:
        examples = super()._examples(measurement)
        _check_planning(example.world for example in examples)
        return examples


def _check_planning(worlds: Iterable[str]) -> None:
    """Raises PilotageError for a world that is no planning task, and for one that recites nothing."""
    from pilotage.worlds.registry import planning_world, planning_worlds
    from pilotage.worlds.task import Recites

    known = [task.name for task in planning_worlds()]
    for name in dict.fromkeys(worlds):
        if name not in known:
            raise PilotageError(
                f"the gap is measured on planning tasks ({', '.join(known)}), whose whole answer is one plan, and "
                f"{name} is none; pilotage eval measures it"
            )
        planning_world(name, Recites)


def print_gap(gap: Gap, *, by_level: bool) -> None:
    """Success by condition with what is lost where, then the faults, then the fields."""
    console = table_console()
    titles = {"text": "text", "image": "image", "corrected": "state told", "perception": "perception"}
    conditions = [
        condition for condition in titles if any(condition in cell.success for cell in gap.tasks.values())
    ]
    success = make_table(
        "success, per cent with 95 % intervals", "task", "n", *(titles[condition] for condition in conditions)
    )
    for name, cell in _lines(gap, by_level):
        n = cell.success["image"].n if cell.faults else ""
        success.add_row(name, str(n), *(points(cell.success.get(condition)) for condition in conditions))
    console.print(success)
    lost = make_table(
        "percentage points, paired by level; seeing = state told - image, rest = text - state told",
        "task",
        "text - image",
        "lost in seeing",
        "the rest",
    )
    if gap.macro.differences:
        for name, cell in _lines(gap, by_level):
            names = ("modality_gap", "lost_in_seeing", "lost_beside_picture")
            lost.add_row(name, *(points(cell.differences.get(each)) for each in names))
        console.print(lost)
    faults = make_table(
        "image answers, per cent: misread = the plan is right for what was read",
        "task",
        *SHOWN_FAULTS.values(),
    )
    for name, cell in _lines(gap, by_level):
        faults.add_row(name, *(points(cell.fault_shares[fault]) for fault in SHOWN_FAULTS))
    console.print(faults)
    fields = make_table(
        "fields of the state, per cent of the answers that recite a state",
        "task",
        "field",
        "reciting",
        "not read right",
        "at fault in",
    )
    for task, cell in gap.tasks.items():
        assert cell.faults is not None
        for name, field in cell.faults.fields.items():
            reciting = f"{cell.faults.num_recited} of {cell.faults.num_answers}"
            fields.add_row(task, name, reciting, points(field.unseen), f"{field.num_in_faults} failures")
    console.print(fields)
    for task, cell in gap.tasks.items():
        assert cell.faults is not None
        if cell.faults.num_lucky:
            console.print(f"{task}: {cell.faults.num_lucky} answers succeeded in spite of a misread state")
        for fault, details in cell.faults.details.items():
            if fault not in ("none", "misread"):
                text = ", ".join(f"{detail} {n}" for detail, n in details.items())
                say(console, f"{task}: {fault}: {text}")
    say(console, *(f"note: {note}" for note in gap.notes))


def _lines(gap: Gap, by_level: bool) -> list[tuple[str, GapCell]]:
    """(label, cell) of every line of a table: tasks, their levels where wanted, the mean."""
    lines = []
    for task, cell in gap.tasks.items():
        lines.append((task, cell))
        if by_level:
            lines += [(f"  level {level}", at_level) for level, at_level in gap.levels[task].items()]
    return [*lines, ("macro", gap.macro)] if len(gap.tasks) > 1 else lines

"""Where a thing stood and where it was read: confusion of recited positions over the grid.

Only fields that hold a single cell in every state take part (player, goal, agent, printer). They are found by
what they hold and not by their names, so that a new task's fields join by themselves.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from pilotage.evaluate.bootstrap import Figures
from pilotage.evaluate.samples import Row
from pilotage.worlds.capabilities import able
from pilotage.worlds.grid import Cell
from pilotage.worlds.recital import split_items
from pilotage.worlds.registry import planning_world
from pilotage.worlds.task import Generates, Recites

OUTSIDE = "outside"
UNREAD = "unread"


@dataclass(frozen=True, kw_only=True)
class Confusion(Figures):
    """One field of one task on boards of one level."""

    task: str
    field: str
    level: int
    counts: Mapping[tuple[Cell, Cell], int]
    """(true cell, recited cell inside the grid) -> answers."""
    outside: Mapping[Cell, int]
    """True cell -> answers that recited one cell beyond the grid."""
    unread: Mapping[Cell, int]
    """True cell -> answers in which the field was missing or held something else than one cell."""

    @property
    def num_answers(self) -> int:
        return sum(self.counts.values()) + sum(self.outside.values()) + sum(self.unread.values())

    def num_true(self, cell: Cell) -> int:
        """Answers to examples in which the thing stands on `cell`."""
        read = sum(n for (true, _), n in self.counts.items() if true == cell)
        return read + self.outside.get(cell, 0) + self.unread.get(cell, 0)

    def shares(self, true: Cell) -> dict[Cell, float]:
        """Recited cell -> share of the answers about a thing on `true`; the rest was outside or unread."""
        total = self.num_true(true)
        return {read: n / total for (at, read), n in self.counts.items() if at == true}

    def right_by_cell(self) -> list[list[float | None]]:
        """[level][level] share read right by true cell; None where the thing never stood."""
        side = range(self.level)
        return [
            [self.shares((r, c)).get((r, c), 0.0) if self.num_true((r, c)) else None for c in side]
            for r in side
        ]

    def offsets(self) -> dict[Cell, float]:
        """(rows down, columns right) from the true to the recited cell -> share of all answers."""
        moved: Counter[Cell] = Counter()
        for (true, read), n in self.counts.items():
            moved[read[0] - true[0], read[1] - true[1]] += n
        return {offset: n / self.num_answers for offset, n in sorted(moved.items())}

    def as_dict(self) -> dict[str, Any]:
        """Sparse: `[true row, true column, read row, read column, answers]`."""
        return {
            "task": self.task,
            "field": self.field,
            "level": self.level,
            "num_answers": self.num_answers,
            "counts": [[*true, *read, n] for (true, read), n in sorted(self.counts.items())],
            "outside": [[*true, n] for true, n in sorted(self.outside.items())],
            "unread": [[*true, n] for true, n in sorted(self.unread.items())],
            "right_by_cell": self.right_by_cell(),
            "offsets": [[*offset, share] for offset, share in self.offsets().items()],
        }


def confusions(rows: Iterable[Row]) -> list[Confusion]:
    """One for every task, field with a single cell, and level. Rows need `task`, `state`, `fields`.

    Answers without anything recited, failed ones among them, count as unread. Raises PilotageError for a row of a world
    that recites nothing; one whose states cannot be drawn has no fields that are known to hold a single cell.
    """
    counts: dict[tuple[str, str, int], Counter[tuple[Cell, Cell | str]]] = {}
    for row in rows:
        task = planning_world(row["task"], Recites)
        state = task.parse_state(row["state"])
        # The row's own word for its level could be anything; the grid has as many cells as the state has.
        truth, level = task.recital(state), task.level_of(state)
        for field in single_cell_fields(task):
            true = single_cell(truth[field])
            assert true is not None, f"{field} of {task.name} holds one cell in every state"
            read = single_cell(str((row.get("fields") or {}).get(field, "")))
            place: Cell | str = UNREAD if read is None else read
            if read is not None and max(read) >= level:
                place = OUTSIDE
            counts.setdefault((task.name, field, level), Counter())[true, place] += 1
    return [
        Confusion(
            task=task,
            field=field,
            level=level,
            counts={(true, read): n for (true, read), n in tally.items() if not isinstance(read, str)},
            outside={true: n for (true, read), n in tally.items() if read == OUTSIDE},
            unread={true: n for (true, read), n in tally.items() if read == UNREAD},
        )
        for (task, field, level), tally in sorted(counts.items())
    ]


@lru_cache(maxsize=64)
def single_cell_fields(task: Recites[Any]) -> tuple[str, ...]:
    """Fields of the recital that held exactly one cell in each of many random states."""
    generating, rng = able(task, Generates), np.random.default_rng(0)
    if generating is None:
        return ()
    recitals = [
        task.recital(generating.generate(level, rng)) for level in generating.levels for _ in range(16)
    ]
    return tuple(name for name in recitals[0] if all(single_cell(recital[name]) for recital in recitals))


def single_cell(text: str) -> Cell | None:
    """The cell of a text that holds one `(row,column)` and nothing else."""
    items = split_items(text)
    if len(items) != 1 or not items[0][0] or items[0][1]:
        return None
    r, c = items[0][0][1:-1].split(",")
    return int(r), int(c)

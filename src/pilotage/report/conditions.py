"""The words of the worlds on a page: what they call themselves, their conditions and their measures.

Rows of old or foreign files may name what no world has: such names are shown as they are.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from pilotage.errors import PilotageError
from pilotage.evaluate.roles import condition_order
from pilotage.evaluate.samples import Row
from pilotage.records import Measure
from pilotage.report.text import visible
from pilotage.worlds.capabilities import able
from pilotage.worlds.registry import get_world, planning_task, world_names
from pilotage.worlds.task import Recites

NUM_COLOURS = 10
"""Classes `k-0` to `k-9` of the style sheet, one a condition; `k-unknown` is of what no world has."""


def world_name(row: Row) -> str:
    """The world of a row; rows from before there were worlds name their task alone."""
    return str(row.get("world") or row.get("task", ""))


def known_world(name: str) -> Any | None:
    """The world of this name; None for one that is unknown or cannot be imported here."""
    try:
        return get_world(name) if name in world_names() else None
    except PilotageError:
        return None


def worlds_of(rows: Iterable[Row]) -> list[str]:
    """The known worlds of rows, in the order of the registry."""
    there = {world_name(row) for row in rows}
    return [name for name in world_names() if name in there and known_world(name) is not None]


def task_title(name: str) -> str:
    """What a page calls a world, or whatever else results are grouped by."""
    world = known_world(name)
    return visible(name if world is None else world.title, 40)


def ordered_tasks(there: Iterable[str]) -> list[str]:
    """Worlds in the order of the registry, then other names by themselves: how every part of a page numbers them."""
    names = set(there)
    known = [name for name in world_names() if name in names]
    return known + sorted(names - set(known))


def ordered_conditions(there: Iterable[str]) -> list[str]:
    """Conditions in the order of the worlds, then unknown ones: how every part of a page numbers them."""
    names = set(there)
    known = [condition for condition in condition_order() if condition in names]
    return known + sorted(names - set(known))


def condition_titles(there: Iterable[str], worlds: Sequence[str] = ()) -> dict[str, str]:
    """Condition -> its title, in `ordered_conditions`: as one of `worlds` calls it, else the first that has it."""
    titles: dict[str, str] = {}
    for name in (*worlds, *world_names()):
        world = known_world(name)
        for condition in () if world is None else world.conditions:
            titles.setdefault(condition.name, condition.title)
    return {
        condition: visible(titles.get(condition, condition), 60) for condition in ordered_conditions(there)
    }


def condition_class(condition: str) -> str:
    """The class that colours a condition, the same on every page."""
    order = condition_order()
    return f"k-{order.index(condition) % NUM_COLOURS}" if condition in order else "k-unknown"


def measures_of(worlds: Iterable[str]) -> dict[str, Measure]:
    """Measures of these worlds by name, the first world's words first."""
    found: dict[str, Measure] = {}
    for name in worlds:
        world = known_world(name)
        for measure in () if world is None else world.measures:
            found.setdefault(measure.name, measure)
    return found


def measure_title(name: str, measures: dict[str, Measure]) -> str:
    """`turns`; `states seen again, moves` where the title does not say the unit."""
    measure = measures.get(name)
    if measure is None:
        return visible(name, 40)
    unit = measure.unit if measure.unit and measure.unit not in measure.title else ""
    return visible(f"{measure.title}, {unit}" if unit else measure.title, 60)


def recites(worlds: Iterable[str]) -> bool:
    """Whether answers in some of these worlds can recite a state."""
    return any(name in world_names() and able(planning_task(name), Recites) is not None for name in worlds)


def size(level: int) -> str:
    """`4×4`, and nothing for the level 0 of worlds that have none."""
    return f"{level}×{level}" if level else ""

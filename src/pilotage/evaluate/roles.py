"""Which part the model played in a row: as the row says, or else the condition that it was made in."""

from __future__ import annotations

from functools import cache

from pilotage.evaluate.samples import Row
from pilotage.worlds.registry import get_world, world_names
from pilotage.worlds.score import DESCRIBE, PLAN


def role_of(row: Row) -> str:
    """The role of the row's answer; `""` where neither the row nor its condition says."""
    role = row.get("role")
    return role if isinstance(role, str) and role else role_of_condition(str(row.get("condition", "")))


def is_planning(row: Row) -> bool:
    """Whether the row is of a planning task: one plan or one description, which can be explained field by field."""
    return role_of(row) in (PLAN, DESCRIBE, "") and not row.get("turns")


def role_of_condition(condition: str) -> str:
    """The role that the condition of this name begins with, in the first world that has such a condition."""
    return _roles(world_names()).get(condition, "")


@cache
def _roles(names: tuple[str, ...]) -> dict[str, str]:
    """Condition -> role. Keyed by the worlds that there are: some are registered while a process runs."""
    return {c.name: c.role for name in reversed(names) for c in reversed(get_world(name).conditions)}


def is_description(condition: str) -> bool:
    """Whether answers of this condition describe the state and hold no plan."""
    return role_of_condition(condition) == DESCRIBE


def condition_order() -> tuple[str, ...]:
    """The names of all worlds' conditions, in the order in which tables show them."""
    return tuple(dict.fromkeys(c.name for name in world_names() for c in get_world(name).conditions))

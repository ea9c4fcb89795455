"""Worlds: what can be begun, shown, acted on and judged. No torch here."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pilotage.worlds.registry import get_task, get_world, tasks, world_names
from pilotage.worlds.task import Task

if TYPE_CHECKING:
    TASKS: tuple[Task[Any], ...]
    """Every planning world, ours and those of other packages."""


def __getattr__(name: str) -> Any:
    # When it is asked for: opening the worlds imports their packages.
    if name == "TASKS":
        return tasks()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


__all__ = ["TASKS", "Task", "get_task", "get_world", "tasks", "world_names"]

"""Worlds: what can be begun, shown, acted on and judged. No torch here."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pilotage.worlds.registry import get_task, get_world, tasks, world_names

if TYPE_CHECKING:
    from pilotage.worlds.task import Task

    TASKS: tuple[Task[Any], ...]
    """Every planning world, ours and those of other packages."""


def __getattr__(name: str) -> Any:
    # When they are asked for: opening the worlds imports their packages, and `Task` numpy.
    if name == "TASKS":
        return tasks()
    if name == "Task":
        from pilotage.worlds.task import Task

        return Task
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


__all__ = ["TASKS", "Task", "get_task", "get_world", "tasks", "world_names"]

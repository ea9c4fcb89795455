"""Planning worlds: states, generators, solvers, answers, the judge and the pictures. No torch here."""

from __future__ import annotations

from typing import Any

from pilotage.errors import PilotageError, meant
from pilotage.tasks.frozenlake import FrozenLake
from pilotage.tasks.maze import Maze
from pilotage.tasks.minibehaviour import MiniBehaviour
from pilotage.tasks.task import Task

TASKS: tuple[Task[Any], ...] = (
    FrozenLake(),
    Maze(),
    MiniBehaviour(),
)
"""Every world that the data, the views, the commands and the contract tests know of."""


def get_task(name: str) -> Task[Any]:
    for task in TASKS:
        if task.name == name:
            return task
    names = [task.name for task in TASKS]
    raise PilotageError(f"unknown task {name!r}; known are {', '.join(names)}{meant(name, names)}")

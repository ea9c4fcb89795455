"""The worlds that there are: a name -> where its class is. A world's module is imported when the world is opened.

Whoever brings a world of their own registers it as an entry point of the group `pilotage.worlds`, in the same form:

    [project.entry-points."pilotage.worlds"]
    sokoban = "my_package.sokoban:Sokoban"

What belongs to a world lies beside it: `<its package>.views`, `<its package>.data` and so on; each layer finds its own
with `beside_worlds`.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Iterable, Iterator
from functools import cache
from importlib.metadata import entry_points
from types import ModuleType
from typing import TYPE_CHECKING, Any, TypeVar

from pilotage.errors import PilotageError, meant
from pilotage.worlds.capabilities import able, need

if TYPE_CHECKING:
    from pilotage.worlds.task import Plans, Task

C = TypeVar("C")

GROUP = "pilotage.worlds"

_OURS = {
    "frozenlake": "pilotage.worlds.grids.frozenlake:FrozenLake",
    "maze": "pilotage.worlds.grids.maze:Maze",
    "minibehaviour": "pilotage.worlds.grids.minibehaviour:MiniBehaviour",
    "frozenlake_steps": "pilotage.worlds.grids.steps:FrozenLakeSteps",
    "maze_steps": "pilotage.worlds.grids.steps:MazeSteps",
    "minibehaviour_steps": "pilotage.worlds.grids.steps:MiniBehaviourSteps",
    "babyai": "pilotage.worlds.household.babyai:BabyAI",
    "questions": "pilotage.worlds.questions.world:Questions",
    "driving": "pilotage.worlds.driving.world:Driving",
}


_GIVEN: dict[str, Any] = {}
"""Worlds that this process was given as they are (`register_world`)."""


def register_world(world: Any) -> None:
    """Makes a world known by its name in this process alone. Raises PilotageError for a name that is taken.

    An entry point of the group `pilotage.worlds` makes one known everywhere, in the processes of workers too.
    """
    if world.name in places() and _GIVEN.get(world.name) is not world:
        raise PilotageError(f"there is a world {world.name!r} already; give yours another name")
    _GIVEN[world.name] = world


def forget_world(name: str) -> None:
    """Takes a registered world back."""
    _GIVEN.pop(name, None)


@cache
def places() -> dict[str, str]:
    """Name -> `module:Class` of every world, ours first. Raises PilotageError for a name that is there twice."""
    found = dict(_OURS)
    for point in sorted(entry_points(group=GROUP), key=lambda point: point.name):
        if found.setdefault(point.name, point.value) != point.value:
            raise PilotageError(
                f"two packages have a world {point.name!r}: {found[point.name]} and {point.value}; remove one of them"
            )
    return found


def world_names() -> tuple[str, ...]:
    """Names of all worlds: ours, installed ones, and those that this process was given."""
    return (*places(), *_GIVEN)


def is_world(name: str) -> bool:
    """Whether there is a world of this name, opened or not."""
    return name in places() or name in _GIVEN


def get_world(name: str) -> Any:
    """The world of this name. Raises PilotageError for an unknown one, and for one that cannot be imported."""
    return _GIVEN[name] if name in _GIVEN else _opened(name)


@cache
def _opened(name: str) -> Any:
    known = places()
    if name not in known:
        raise PilotageError(f"unknown world {name!r}; known are {', '.join(known)}{meant(name, known)}")
    module, _, attribute = known[name].partition(":")
    try:
        return getattr(importlib.import_module(module), attribute)()
    except (ImportError, AttributeError) as error:
        if known[name] == _OURS.get(name):
            raise
        raise PilotageError(f"world {name!r} cannot be opened at {known[name]}: {error}") from error


def planning_worlds() -> tuple[Plans[Any], ...]:
    """The worlds whose whole answer is one plan, whatever else they can do."""
    # Here, so that a process of worlds which are no tasks starts without numpy: half of the time that one takes.
    from pilotage.worlds.task import Plans

    found = (able(world, Plans) for world in (*_installed(), *_GIVEN.values()))
    return tuple(world for world in found if world is not None)


@cache
def _installed() -> tuple[Any, ...]:
    return tuple(map(get_world, places()))


def tasks() -> tuple[Task[Any], ...]:
    """The planning worlds that can do all that `Task` asks for."""
    from pilotage.worlds.task import Task

    found = (able(world, Task) for world in planning_worlds())
    return tuple(task for task in found if task is not None)


def get_task(name: str) -> Task[Any]:
    """The planning world of this name. Raises PilotageError for any other, and for one that lacks a part of `Task`."""
    from pilotage.worlds.task import Task

    return planning_world(name, Task)


def planning_world(name: str, capability: type[C]) -> C:
    """The planning world of this name, as one that has the capability.

    Raises PilotageError for any other world, and for one that lacks the capability.
    """
    from pilotage.worlds.task import Plans

    if not is_world(name) or able(get_world(name), Plans) is None:
        names = [world.name for world in planning_worlds()]
        raise PilotageError(f"unknown task {name!r}; known are {', '.join(names)}{meant(name, names)}")
    return need(get_world(name), capability)


def planning_task(name: str) -> Plans[Any] | None:
    """The planning world by which a world's states are read and drawn: itself, or what is played move by move."""
    if not is_world(name):
        return None
    from pilotage.worlds.task import Plans

    world = get_world(name)
    return able(getattr(world, "task", world), Plans)


def usual_conditions(names: Iterable[str]) -> tuple[str, ...]:
    """The conditions by which these worlds are usually measured, each once."""
    return tuple(dict.fromkeys(usual for name in dict.fromkeys(names) for usual in get_world(name).usual))


def beside_world(name: str, layer: str) -> ModuleType | None:
    """The module `<package of the world>.<layer>`, or None where there is none. Raises PilotageError for no world."""
    known = places()
    if name not in known:
        get_world(name)  # says what is wrong with the name, if it is not that of a world given as it is
        return None
    return _beside(_package(known[name]), layer)


def beside_worlds(layer: str) -> Iterator[ModuleType]:
    """The modules `<package of a world>.<layer>` that there are, each once, in the order of the worlds."""
    for package in dict.fromkeys(map(_package, places().values())):
        if (module := _beside(package, layer)) is not None:
            yield module


def _package(place: str) -> str:
    return place.partition(":")[0].rpartition(".")[0]


@cache
def _beside(package: str, layer: str) -> ModuleType | None:
    if not package or importlib.util.find_spec(f"{package}.{layer}") is None:
        return None
    return importlib.import_module(f"{package}.{layer}")

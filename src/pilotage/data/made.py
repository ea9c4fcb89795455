"""Examples that a world makes without any file, whichever way it makes them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol

from pilotage.data.store import sampled
from pilotage.errors import PilotageError
from pilotage.records import Example, Split
from pilotage.worlds.capabilities import able
from pilotage.worlds.registry import beside_world, get_world
from pilotage.worlds.task import Sampled


class Make(Protocol):
    """`made_examples`, or what gives the same in another way."""

    def __call__(
        self,
        name: str,
        levels: Sequence[int],
        count: int,
        split: Split,
        seed: int,
        *,
        cell_px: int | None = 32,
        side_px: int | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> list[Example]: ...


def made_examples(
    name: str,
    levels: Sequence[int],
    count: int,
    split: Split,
    seed: int,
    *,
    cell_px: int | None = 32,
    side_px: int | None = None,
    options: Mapping[str, Any] | None = None,
) -> list[Example]:
    """`count` examples in all: sampled of a planning world (`Sampled`), else by `examples` of the data module beside
    the world, else by the world's own `examples`, which knows no levels.

    Raises PilotageError for a world that makes none.
    """
    return list(making(name, levels, count, split, seed, cell_px=cell_px, side_px=side_px, options=options))


def making(
    name: str,
    levels: Sequence[int],
    count: int,
    split: Split,
    seed: int,
    *,
    cell_px: int | None = 32,
    side_px: int | None = None,
    options: Mapping[str, Any] | None = None,
) -> Iterator[Example]:
    """The examples of `made_examples`, each when it is made, as far as the world makes them one by one: by a method
    `making` beside `examples`, of the same arguments, or because what it makes them by is a generator.
    """
    world, beside = get_world(name), _beside(name)
    found: Iterable[Example]
    if (task := able(world, Sampled)) is not None:
        found = sampled(task, levels, count, split, seed, cell_px=cell_px, side_px=side_px)
    elif beside is not None:
        found = beside(name, levels, count, split, seed, cell_px=cell_px or 32, options=dict(options or {}))
    elif hasattr(world, "examples"):
        found = getattr(world, "making", world.examples)(count, split, seed)
    else:
        raise PilotageError(f"the world {name} makes no examples by itself: give a data set of it (--data)")
    yield from found


def own_levels(name: str) -> tuple[int, ...]:
    """The levels that a world has where nobody names any; 0 alone where it has none.

    They are its own, those of the task that it plays, or `LEVELS` of the data module beside it.
    """
    world = get_world(name)
    beside = getattr(beside_world(name, "data"), "LEVELS", (0,))
    return tuple(getattr(getattr(world, "task", world), "levels", beside))


def makes_examples(name: str) -> bool:
    """Whether `made_examples` has any of this world."""
    world = get_world(name)
    return able(world, Sampled) is not None or _beside(name) is not None or hasattr(world, "examples")


def _beside(name: str) -> Any:
    """`examples` of the data module beside the world, or None."""
    return getattr(beside_world(name, "data"), "examples", None)

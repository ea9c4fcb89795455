"""What a world can do besides what every world can: asked of it here, by the protocol that says so.

if (reciting := able(world, Recites)) is not None: ...      # where the thing is left out without it
tiles = need(world, DrawsTiles)                             # where nothing can be done without it
"""

from __future__ import annotations

from typing import Any, TypeVar

from pilotage.errors import PilotageError

C = TypeVar("C")


def able(world: Any, capability: type[C]) -> C | None:
    """The world as one that has the capability, or None where it has not."""
    return world if _has(world, capability) else None


def need(world: Any, capability: type[C]) -> C:
    """The world as one that has the capability. Raises PilotageError that names both, and what is missing."""
    if not _has(world, capability):
        missing = [name for name in members(capability) if not hasattr(world, name)]
        raise PilotageError(
            f"the world {world.name} has not the capability {capability.__name__} that this needs: it lacks "
            f"{', '.join(missing)} (see {capability.__module__})"
        )
    return world


def members(capability: type) -> list[str]:
    """Names of what a protocol asks for, those of the protocols that it is made of among them."""
    of = [each for each in capability.__mro__ if getattr(each, "_is_protocol", False)]
    return list(dict.fromkeys(name for each in of for name in vars(each) if not name.startswith("_")))


def _has(world: Any, capability: type) -> bool:
    key = (id(world), capability)
    known = _KNOWN.get(key)
    if known is None:
        if len(_KNOWN) >= MAX_KNOWN:
            _KNOWN.clear()
        known = _KNOWN[key] = world, isinstance(world, capability)
    return known[1]


MAX_KNOWN = 4096
_KNOWN: dict[tuple[int, type], tuple[Any, bool]] = {}
"""(id of a world, capability) -> the world itself, so that no other gets its id, and whether it has it. Views, judges
and pages ask at every turn, and to look through a protocol of twenty members takes longer than to fill a prompt."""

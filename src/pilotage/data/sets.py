"""A data set of whatever kind: what its manifest says it is decides who reads it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from pilotage.data.store import FORMAT, MANIFEST, load_examples
from pilotage.records import Example, Split
from pilotage.worlds.registry import beside_worlds

LEVELS = "levels"


@dataclass(frozen=True, kw_only=True)
class SetKind:
    """A kind of data set: what its manifest calls it, what it holds, and what reads it."""

    format: str
    holds: str
    """In one word: `levels`, `questions`."""
    world: str | None = None
    """Whose examples it holds; None where they are levels of planning worlds, each with its own."""
    load: Callable[[Path, Split], list[Example]]
    """The examples of a split. Raises PilotageError for a folder that is damaged or does not have it."""


def load_any(path: Path, split: Split) -> list[Example]:
    """The examples of a split, of levels or of what a world keeps in a format of its own."""
    return kind_of_set(path).load(path, split)


def kind_of_set(path: Path) -> SetKind:
    """What a folder holds by its manifest. Levels where that cannot be told: their reader says best what is wrong."""
    try:
        manifest = json.loads((path / MANIFEST).read_bytes())
    except (OSError, ValueError, RecursionError):
        manifest = None
    found = manifest.get("format") if isinstance(manifest, dict) else None
    levels = SetKind(format=FORMAT, holds=LEVELS, load=load_examples)
    return next((kind for kind in (levels, *_of_worlds()) if kind.format == found), levels)


def _of_worlds() -> Iterator[SetKind]:
    """What worlds bring as `SETS` of their `data`."""
    for module in beside_worlds("data"):
        yield from getattr(module, "SETS", ())

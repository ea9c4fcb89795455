"""A data set of whatever kind: what its manifest says it is decides who reads it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path

from pilotage.data.store import FORMAT, MANIFEST, load_examples
from pilotage.records import Example, Split
from pilotage.worlds.registry import beside_worlds

Reader = Callable[[Path, Split], list[Example]]
"""Reads a split; raises PilotageError for a folder that is damaged or does not have it."""


def load_any(path: Path, split: Split) -> list[Example]:
    """The examples of a split, of levels or of what a world keeps in a format of its own."""
    # Whoever reads levels says best what is wrong with a folder that is no set at all.
    return _readers().get(format_of(path) or FORMAT, load_examples)(path, split)


def format_of(path: Path) -> str | None:
    """The format that a folder's manifest names; None where it has none that can be read."""
    try:
        manifest = json.loads((path / MANIFEST).read_bytes())
    except (OSError, ValueError, RecursionError):
        return None
    found = manifest.get("format") if isinstance(manifest, dict) else None
    return found if isinstance(found, str) else None


def _readers() -> Mapping[str, Reader]:
    """Format -> reader: that of levels, and those that worlds bring as `SETS` of their `data`."""
    found: dict[str, Reader] = {FORMAT: load_examples}
    for module in beside_worlds("data"):
        found |= getattr(module, "SETS", {})
    return found

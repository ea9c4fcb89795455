"""Which split a drive belongs to: by the seed of its map alone, whatever it is driven on and by whom."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

from pilotage.records import Split
from pilotage.worlds.split import split_of

SHARES: Mapping[Split, float] = {"train": 0.7, "val": 0.1, "test": 0.2}
"""More is kept for testing than of other worlds' states: intervals resample drives, and there are few."""


def split_of_group(group: str) -> Split:
    """The split of a map's seed, or of whatever a scene names as its group."""
    return split_of(hashlib.sha256(f"driving:{group}".encode()).hexdigest(), SHARES)

"""Which split owns a start, by nothing but its hash."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from itertools import accumulate

from pilotage.errors import PilotageError
from pilotage.records import SPLITS, Split

SPLIT_SHARES: Mapping[Split, float] = {"train": 0.8, "val": 0.1, "test": 0.1}
"""Share of all states that belongs to each split. Builds never change it, so that all data sets agree."""

ID_DIGITS = 12
"""Hex digits of the state's hash in an id. The split is read off the same digits, so one id has one split."""


def split_of(state_hash: str, shares: Mapping[Split, float] = SPLIT_SHARES) -> Split:
    """The split that owns a state, by nothing but its hash (hex, see `pilotage.worlds.task.state_hash`).

    A fixed pure function: seeds, levels, counts and the order of drawing play no part.
    """
    place = key_of(state_hash) / 16**ID_DIGITS
    return next(split for split, edge in _edges(tuple(shares.items())) if place < edge)


def key_of(state_hash: str) -> int:
    """The 48 bits of a hash that make ids and splits."""
    return int(state_hash[:ID_DIGITS], 16)


@lru_cache(maxsize=8)
def _edges(shares: tuple[tuple[Split, float], ...]) -> tuple[tuple[Split, float], ...]:
    """Where each split's part of the unit interval ends, in the order of SPLITS."""
    share: dict[Split, float] = dict(shares)
    used: list[Split] = [split for split in SPLITS if share.get(split)]
    if set(share) - set(SPLITS) or min(share.values(), default=-1) < 0 or abs(sum(share.values()) - 1) > 1e-9:
        raise PilotageError(f"split shares {share} must be non-negative, sum to 1 and be named {SPLITS}")
    edges = accumulate(share[split] for split in used)
    # Shares may sum to a hair less than one; the last split takes the rest of the range.
    return (*zip(used[:-1], edges, strict=False), (used[-1], 1.0))

"""Levels that others made, read as ordinary examples: VSP, VisualPlanning, our own JSON lines, maps of text."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

from pilotage.data.options import refuse_unknown
from pilotage.data.source import Loader
from pilotage.records import Example, Split
from pilotage.worlds.grids.data.plain import Json, Text
from pilotage.worlds.grids.data.steps import excluded_maps, step_examples
from pilotage.worlds.grids.data.visualplanning import VisualPlanning
from pilotage.worlds.grids.data.vsp import Vsp
from pilotage.worlds.grids.steps import OPTIONS

KNOWN_OPTIONS = ("starts", "exclude", *OPTIONS)
"""What shapes the episodes of the worlds that are played move by move."""


def examples(
    world: str,
    levels: Sequence[int],
    count: int,
    split: Split,
    seed: int,
    *,
    cell_px: int,
    options: Mapping[str, Any],
) -> list[Example]:
    """`count` examples in all of a grid world that is played move by move, spread evenly over its levels.

    The option `exclude` is a file or folder of levels whose maps are left out; several stand apart as in PATH.
    """
    refuse_unknown(world, options, KNOWN_OPTIONS)
    options = dict(options)
    paths = str(options.pop("exclude", "")).split(os.pathsep)
    exclude = excluded_maps(filter(None, paths))
    shares = [len(range(place, count, len(levels))) for place in range(len(levels))]
    return [
        example
        for level, share in zip(levels, shares, strict=True)
        for example in step_examples(
            world, [level], share, split, seed, cell_px=cell_px, exclude=exclude, **options
        )
    ]


PUBLISHED: tuple[Loader, ...] = (Vsp(), VisualPlanning())
"""Loaders of published sets. A folder is recognised by the first that finds its files in it."""
PLAIN: tuple[Loader, ...] = (Json(),)
"""Loaders of lines from anywhere, for what no published set's loader finds."""

__all__ = ["PUBLISHED", "Json", "Loader", "Text", "VisualPlanning", "Vsp", "examples"]

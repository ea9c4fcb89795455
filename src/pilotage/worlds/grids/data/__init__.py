"""Levels that others made, read as ordinary examples: VSP, VisualPlanning, our own JSON lines, maps of text."""

from __future__ import annotations

from pilotage.data.source import Loader
from pilotage.worlds.grids.data.plain import Json, Text
from pilotage.worlds.grids.data.visualplanning import VisualPlanning
from pilotage.worlds.grids.data.vsp import Vsp

PUBLISHED: tuple[Loader, ...] = (Vsp(), VisualPlanning())
"""Loaders of published sets. A folder is recognised by the first that finds its files in it."""
PLAIN: tuple[Loader, ...] = (Json(),)
"""Loaders of lines from anywhere, for what no published set's loader finds."""

__all__ = ["PUBLISHED", "Json", "Loader", "Text", "VisualPlanning", "Vsp"]

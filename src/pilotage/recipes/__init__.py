"""Whole runs as typed configurations, and what runs them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from pilotage.recipes.mgsd import mgsd, mgsd_full
from pilotage.recipes.nano import nano_mgsd
from pilotage.recipes.recipe import BASE_STAGE, Recipe
from pilotage.recipes.runner import Watcher, run_recipe


class RecipeMaker(Protocol):
    def __call__(self, seed: int, *, backbone: str) -> Recipe: ...


RECIPES: Mapping[str, RecipeMaker] = {"nano": nano_mgsd, "mgsd": mgsd, "mgsd_full": mgsd_full}
"""Name on the command line -> the function that makes the recipe."""

__all__ = ["BASE_STAGE", "RECIPES", "Recipe", "RecipeMaker", "Watcher", "run_recipe"]

"""Runs: what one is (recipe, record, measurement), what carries it out, how it is watched.

A name here imports what it needs when it is used: torch and transformers take seconds.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pilotage.runs.recipe import BASE_STAGE, Recipe
    from pilotage.runs.runner import Watcher, run_recipe

_ELSEWHERE = {"BASE_STAGE": "recipe", "Recipe": "recipe", "Watcher": "runner", "run_recipe": "runner"}


def __getattr__(name: str) -> Any:
    if name not in _ELSEWHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_ELSEWHERE[name]}"), name)


__all__ = ["BASE_STAGE", "Recipe", "Watcher", "run_recipe"]

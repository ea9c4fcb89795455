"""Types and small helpers that the commands' options share. No torch here."""

from __future__ import annotations

from typing import Annotated, Any

import tyro

_RECIPES = tyro.conf.arg(metavar="N", help_behavior_hint="(default: the recipe's)")

RecipeInt = Annotated[int | None, _RECIPES]
"""A whole number that replaces the recipe's when it is given."""
RecipeFloat = Annotated[float | None, _RECIPES]


def given(**options: Any) -> dict[str, Any]:
    """The options that the user gave: those that are not None."""
    return {name: value for name, value in options.items() if value is not None}

"""Types and small helpers that the commands' options share. No torch here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, get_type_hints

import tyro

from pilotage.errors import PilotageError


@dataclass(frozen=True)
class AtLeast:
    """Marks an option whose values, where it is given, are at least this."""

    least: int


def takes(metavar: str, default: str) -> Any:
    """How the help shows an option that may be left out: what it takes, and what holds without it."""
    return tyro.conf.arg(metavar=metavar, help_behavior_hint=f"(default: {default})")


_RECIPES = takes("N", "the recipe's")

Count = Annotated[int, AtLeast(1)]
RecipeInt = Annotated[int | None, _RECIPES]
"""A whole number that replaces the recipe's when it is given."""
RecipeCount = Annotated[int | None, _RECIPES, AtLeast(1)]
"""The same of something counted."""
RecipeFloat = Annotated[float | None, _RECIPES]


def check_counts(command: Any) -> None:
    """Raises PilotageError for an option below what it must be at least, with the value as it was typed."""
    for name, hint in get_type_hints(type(command), include_extras=True).items():
        value = getattr(command, name, None)
        for mark in getattr(hint, "__metadata__", ()):
            if isinstance(mark, AtLeast) and value is not None and value < mark.least:
                raise PilotageError(f"--{name.replace('_', '-')} {value} must be at least {mark.least}")


def given(**options: Any) -> dict[str, Any]:
    """The options that the user gave: those that are not None."""
    return {name: value for name, value in options.items() if value is not None}

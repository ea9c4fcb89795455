"""Types and small helpers that the commands' options share. No torch here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import tyro

from pilotage.errors import PilotageError

if TYPE_CHECKING:
    from pilotage.rollouts.sessions import SessionSettings
    from pilotage.runs import Recipe


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


@dataclass(frozen=True, kw_only=True)
class SessionOptions:
    """Where episodes live."""

    worlds_apart: Annotated[
        str | None, takes("N[:SECONDS]", "as the recipe says, which is in this process")
    ] = None
    """Play episodes in N processes of their own, so that a simulator which hangs, crashes or talks nonsense costs a try
    of its episode and not the command; an answer of it may take 60 seconds, or SECONDS. Examples are made in one more.
    0: in this process."""

    def sessions_named(self) -> SessionSettings | None:
        """What the option says; None where it is not given."""
        from pilotage.rollouts.sessions import sessions_named

        return None if self.worlds_apart is None else sessions_named(self.worlds_apart)

    def sessions_of(self, recipe: Recipe | None) -> SessionSettings:
        """The recipe's, unless the option says otherwise; in this process where there is neither."""
        from pilotage.rollouts.sessions import SessionsHere

        return self.sessions_named() or (SessionsHere() if recipe is None else recipe.sessions)


def key_and_value(told: str) -> tuple[str, int | str]:
    """`fog=2` as a pair. Raises PilotageError for anything else."""
    name, is_there, value = told.partition("=")
    if not is_there or not name:
        raise PilotageError(f"--option {told}: give KEY=VALUE, e.g. fog=2")
    return name, int(value) if value.lstrip("-").isdigit() else value


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

"""The options that shape a world's examples, as `--option KEY=VALUE` gives them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from pilotage.errors import PilotageError, meant


def refuse_unknown(world: str, options: Iterable[str], known: Sequence[str]) -> None:
    """Raises PilotageError for the first option that the world's examples have not, with the one that may be meant."""
    if unknown := next((option for option in options if option not in known), None):
        raise PilotageError(
            f"{world} has no option {unknown!r}; there are {', '.join(known)}{meant(unknown, known)}"
        )

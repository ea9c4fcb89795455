"""Configurations as JSON, for the folders of runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any

from pilotage.errors import PilotageError

LATER: Mapping[str, bool] = {"left_out_at_default": True}
"""Metadata of a field that came later: at its default it is not written, so that older runs can be gone on with."""


def as_settings(value: Any) -> Any:
    """A configuration as JSON: dataclasses become objects with their class's name.

    Fields marked `LATER` are left out where they are at their default.
    """
    if is_dataclass(value) and not isinstance(value, type):
        own = {
            field.name: as_settings(getattr(value, field.name))
            for field in fields(value)
            if not (field.metadata == LATER and getattr(value, field.name) == field.default)
        }
        return {"class": type(value).__name__} | own
    if isinstance(value, list | tuple):
        return [as_settings(item) for item in value]
    if isinstance(value, dict):
        return {str(key): as_settings(item) for key, item in value.items()}
    return value if isinstance(value, str | int | float | bool | None) else str(value)


def from_settings(value: Any, classes: Mapping[str, type]) -> Any:
    """What `as_settings` wrote, as it was: lists become tuples, objects the classes of these names.

    Raises PilotageError for a class that is not among them and for fields that it does not have.
    """
    if isinstance(value, list):
        return tuple(from_settings(item, classes) for item in value)
    if not isinstance(value, dict):
        return value
    own = {name: from_settings(item, classes) for name, item in value.items() if name != "class"}
    if "class" not in value:
        return own
    if value["class"] not in classes:
        raise PilotageError(
            f"settings name the class {value['class']!r}; known are {', '.join(sorted(classes))}"
        )
    kind = classes[value["class"]]
    if unknown := set(own) - {field.name for field in fields(kind)}:
        raise PilotageError(
            f"settings give a {kind.__name__} the fields {sorted(unknown)}, which it does not have"
        )
    try:
        return kind(**own)
    except TypeError as error:
        raise PilotageError(f"settings of a {kind.__name__} are not whole: {error}") from None

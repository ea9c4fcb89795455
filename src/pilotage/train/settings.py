"""Configurations as JSON, for the folders of runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any

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

"""Configurations as JSON, for the folders of runs."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin

from pilotage.errors import PilotageError, meant
from pilotage.train.parts import GROUP, hints_of, implements, is_protocol, lacking, part_name

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
        return {"class": part_name(type(value))} | own
    if isinstance(value, list | tuple):
        return [as_settings(item) for item in value]
    if isinstance(value, dict):
        return {str(key): as_settings(item) for key, item in value.items()}
    return value if isinstance(value, str | int | float | bool | None) else str(value)


def from_settings(value: Any, classes: Mapping[str, type]) -> Any:
    """What `as_settings` wrote, as it was: lists become tuples, objects the classes of these names.

    Raises PilotageError for a class that is not among them, and for fields that it does not have or that hold what
    their types do not allow.
    """
    if isinstance(value, list):
        return tuple(from_settings(item, classes) for item in value)
    if not isinstance(value, dict):
        return value
    own = {name: from_settings(item, classes) for name, item in value.items() if name != "class"}
    if "class" not in value:
        return own
    kind = class_named(value["class"], classes)
    names = [field.name for field in fields(kind)]
    if unknown := sorted(set(own) - set(names)):
        raise PilotageError(
            f"settings give a {kind.__name__} the fields {unknown}, which it does not have{meant(unknown[0], names)}"
        )
    hints = hints_of(kind)
    for name, item in own.items():
        if name in hints and not fits(item, hints[name]):
            raise PilotageError(f"settings give the {name} of a {kind.__name__} as {_short(value[name])}")
    try:
        return kind(**own)
    except TypeError as error:
        raise PilotageError(f"settings of a {kind.__name__} are not whole: {error}") from None


def class_named(name: Any, classes: Mapping[str, type]) -> type:
    """The class that settings call so. Raises PilotageError for one that is not known, or not imported."""
    if isinstance(name, str) and name in classes:
        return classes[name]
    module = name.rpartition(".")[0] if isinstance(name, str) else ""
    own = f"; if it is your own, import {module} first, or make it an entry point of {GROUP}"
    remedy = own if module else meant(str(name), classes)
    if missing := lacking():
        remedy += f"; {missing}"
    raise PilotageError(f"settings name the class {name!r}; known are {', '.join(sorted(classes))}{remedy}")


def differences(kept: Any, now: Any, name: str = "") -> Iterator[str]:
    """`steps 7, now 9` of every setting, by its dotted name, that is not in both of two settings alike."""
    if isinstance(kept, dict) and isinstance(now, dict):
        pairs: Any = [(key, kept.get(key), now.get(key)) for key in sorted(kept.keys() | now.keys())]
    elif isinstance(kept, list) and isinstance(now, list) and len(kept) == len(now):
        pairs = [(index, *pair) for index, pair in enumerate(zip(kept, now, strict=True))]
    else:
        if kept != now:
            yield f"{name} {_short(kept)}, now {_short(now)}"
        return
    for key, before, after in pairs:
        yield from differences(before, after, f"{name}.{key}" if name else str(key))


def _short(value: Any, most: int = 80) -> str:
    text = "nothing" if value is None else json.dumps(value)
    return text if len(text) <= most else text[:most] + "…"


def fits(value: Any, hint: Any) -> bool:
    """Whether a value is of a field's type."""
    kind, parts = get_origin(hint) or hint, get_args(hint)
    if kind is Literal:
        return value in parts
    if kind in (Union, UnionType):
        return any(fits(value, part) for part in parts)
    if kind is tuple and isinstance(value, tuple):
        of_each = parts[:1] * len(value) if parts[1:] == (...,) else parts
        return len(value) == len(of_each) and all(map(fits, value, of_each))
    if kind in (int, float):
        return isinstance(value, int if kind is int else int | float) and not isinstance(value, bool)
    if is_protocol(kind):
        return implements(type(value), kind)
    return not isinstance(kind, type) or isinstance(value, kind)


MAX_LR = 10.0
"""No optimiser here learns with more."""


def check_lr(name: str, lr: float) -> None:
    """Raises PilotageError for what cannot be a learning rate."""
    if not 0 < lr <= MAX_LR:
        raise PilotageError(f"{name} {lr} is no learning rate: it lies above 0 and at most {MAX_LR:g}")


def check_not_negative(config: Any, *names: str) -> None:
    """Raises PilotageError for the first of these fields that is below 0, infinite or no number."""
    for name in names:
        value = getattr(config, name)
        if not 0 <= value < math.inf:
            raise PilotageError(f"{name} {value} must be a number from 0 on")


def check_finite(loss: float, grad_norm: float, *, step: int) -> None:
    """Raises PilotageError where a step's figures say that the weights are lost."""
    if not (math.isfinite(loss) and math.isfinite(grad_norm)):
        raise PilotageError(
            f"the loss or its gradient is not a number at step {step}; lower the learning rate (the checkpoint before "
            "is whole)"
        )

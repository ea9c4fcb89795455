"""What a configuration may be made of: found in the types of its fields, so that nobody keeps a list of it.

A field's type says what may stand there: a dataclass (or one that is derived from it), one of a union, or whatever has
the methods of a protocol. So a divergence, an estimator, a token weight or a layout of one's own can be part of a
record once its module is imported. A package of one's own names the modules that the commands are to import for it as
entry points of the group `pilotage.parts`; what a record names is never imported by itself.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import sys
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from functools import cache
from importlib.metadata import entry_points
from types import FunctionType
from typing import Any, get_args, get_origin, get_type_hints

from pilotage.errors import PilotageError, missing_message

GROUP = "pilotage.parts"
OWN = "pilotage."
"""Classes of this package go by their bare names in records; others by their modules' names as well."""


def part_name(kind: type) -> str:
    """How records call a class: `JSD`, and `my_package.coach.Coach` for one from elsewhere."""
    return kind.__qualname__ if kind.__module__.startswith(OWN) else f"{kind.__module__}.{kind.__qualname__}"


def parts_of(*roots: Any) -> Mapping[str, type]:
    """Name -> every frozen dataclass that can stand anywhere in a value of these types, of all modules imported.

    Raises PilotageError for an entry point whose module cannot be imported.
    """
    _import_points()
    loaded = list(_frozen(object))
    found: dict[str, type] = {}
    waiting = list(roots)
    while waiting:
        for kind in _standing_at(waiting.pop(), loaded):
            if part_name(kind) not in found:
                found[part_name(kind)] = kind
                waiting += hints_of(kind).values()
    return found


def hints_of(kind: type) -> dict[str, Any]:
    """Field -> its type; nothing of it where a type cannot be looked up."""
    try:
        hints = get_type_hints(kind)
    except (NameError, TypeError, AttributeError):
        return {}
    return {field.name: hints[field.name] for field in fields(kind)} if is_dataclass(kind) else {}


def implements(kind: type, protocol: type) -> bool:
    """Whether a class has a protocol's methods, with parameters of the same names, and its properties."""
    if protocol in kind.__mro__:
        return True
    return all(_has(kind, name, member) for name, member in _members(protocol))


def is_protocol(kind: Any) -> bool:
    return isinstance(kind, type) and bool(getattr(kind, "_is_protocol", False))


def standing_at(hint: Any) -> list[type]:
    """The frozen dataclasses that a field of this type may hold itself or in a tuple."""
    return list(_standing_at(hint, list(_frozen(object))))


def _standing_at(hint: Any, loaded: list[type]) -> Iterator[type]:
    kind = get_origin(hint) or hint
    for part in get_args(hint):
        yield from _standing_at(part, loaded)
    if is_protocol(kind):
        if _import_package(kind.__module__.rpartition(".")[0]):
            loaded[:] = _frozen(object)
        yield from (each for each in loaded if implements(each, kind))
    elif isinstance(kind, type) and is_dataclass(kind):
        yield from (each for each in loaded if kind in each.__mro__)


_LACKING: dict[str, str] = {}
"""Module -> the line that says which extra it needs, of modules that could not be imported for want of one."""


def lacking() -> str:
    """What to install where a part may lie in a module that needs an extra; empty where all could be imported."""
    return "; ".join(f"{module} could not be looked into: {line}" for module, line in _LACKING.items())


@cache
def _imported(package: str) -> None:
    """Imports the modules of a package of ours: what a protocol asks for stands beside it, one file each.

    A run that needs no endpoint has to open where the client for one is not installed: such a module is passed over.
    """
    paths = importlib.import_module(package).__path__
    for name in [f"{package}.{found.name}" for found in pkgutil.iter_modules(paths) if not found.ispkg]:
        try:
            importlib.import_module(name)
        except (ImportError, PilotageError) as error:
            line = missing_message(error)
            if line is None:
                raise
            _LACKING[name] = line


@cache
def _import_points() -> None:
    """Imports the modules that packages of others name."""
    for point in sorted(entry_points(group=GROUP), key=lambda point: point.name):
        try:
            point.load()
        except (ImportError, AttributeError) as error:
            raise PilotageError(
                f"the parts {point.name!r} cannot be imported from {point.value}: {error}; mend or remove their package"
            ) from error


def _import_package(package: str) -> bool:
    """Imports the modules of a package of ours; whether any of them was new."""
    before = len(sys.modules)
    if package.startswith(OWN):
        _imported(package)
    return len(sys.modules) > before


def _frozen(kind: type) -> Iterator[type]:
    """All frozen dataclasses below a class, the older ones last: of a module imported twice, the newer class counts."""
    for below in dict.fromkeys(_below(kind)):
        params = vars(below).get("__dataclass_params__")
        if params is not None and params.frozen:
            yield below


def _below(kind: type) -> Iterator[type]:
    for each in reversed(type.__subclasses__(kind)):
        yield each
        yield from _below(each)


def _members(protocol: type) -> Iterator[tuple[str, Any]]:
    for base in protocol.__mro__:
        if is_protocol(base):
            for name, member in vars(base).items():
                is_public = name == "__call__" or not name.startswith("_")
                if is_public and isinstance(member, FunctionType | property):
                    yield name, member


def _has(kind: type, name: str, member: Any) -> bool:
    own = next((vars(base)[name] for base in kind.__mro__ if name in vars(base)), None)
    if isinstance(member, property):
        return own is not None or name in getattr(kind, "__dataclass_fields__", {})
    return isinstance(own, FunctionType) and list(inspect.signature(own).parameters) == list(
        inspect.signature(member).parameters
    )

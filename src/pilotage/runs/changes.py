"""Settings replaced by hand: `stage2.lr=1e-6`, a dotted path into a recipe and a text for what stands there instead.

    stage2.lr=1e-6                                  a stage by its name, then its fields
    stage2.router.routes.perception.scale=2         in a tuple: by name where its items have one, else by number
    stage2.router.routes.plan.estimator=TopK(k=64, divergence=JSD(beta=0.1))
    stage2.router.routes.plan.weights={"class": "AdapterOff"}   as records write it
    levels=[["maze", [3, 4]]]                       fields of the recipe itself

All changes of one part are made at once, so that those that need one another can be made together.
"""

from __future__ import annotations

import ast
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass, replace
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

from pilotage.errors import PilotageError, meant
from pilotage.runs.recipe import Recipe
from pilotage.train.parts import hints_of, is_protocol, parts_of, standing_at
from pilotage.train.settings import fits, from_settings

OF_OPTIONS = {"backbone": "--backbone", "seed": "--seed"}
"""Fields of a recipe that its stages hold as well: an option changes them everywhere."""


@dataclass
class _Node:
    """What is to change at one place and below it."""

    text: str | None = None
    below: dict[str, _Node] = field(default_factory=dict)
    typed: list[str] = field(default_factory=list)
    """The changes as they were typed, here and below."""


def changed(recipe: Recipe, changes: Sequence[str]) -> Recipe:
    """The recipe with these changes. Raises PilotageError that names the change and what is legal in its place."""
    root = _Node()
    stages = [stage.stage for stage in recipe.stages]
    for change in changes:
        path, equals, text = change.partition("=")
        names = path.strip().split(".")
        if not equals or not all(names):
            raise PilotageError(f"--set {change}: give a path and a value, as in --set {stages[-1]}.seed=3")
        if names[0] in OF_OPTIONS:
            raise PilotageError(
                f"--set {change}: the stages hold it too; {OF_OPTIONS[names[0]]} changes it everywhere"
            )
        if names[0] not in hints_of(type(recipe)):
            if names[0] not in stages:
                raise PilotageError(f"--set {change}: {_no_beginning(names, recipe)}")
            names = ["stages", *names]
        _plant(root, names, text.strip(), change)
    return _grown(recipe, Recipe, root, parts_of(Recipe)) if changes else recipe


def _no_beginning(names: Sequence[str], recipe: Recipe) -> str:
    """Why a path leads nowhere from a recipe, and the stage whose field it may be."""
    stages = [stage.stage for stage in recipe.stages]
    holders = [stage.stage for stage in recipe.stages if hasattr(stage, names[0])]
    guess = f"; did you mean {' or '.join(f'{stage}.{names[0]}' for stage in holders)}?" if holders else ""
    guess = guess or meant(names[0], [*stages, *hints_of(Recipe)])
    return f"{names[0]} is neither a stage of the recipe ({', '.join(stages)}) nor a field of it{guess}"


def _plant(root: _Node, names: Sequence[str], text: str, change: str) -> None:
    node = root
    node.typed.append(change)
    for name in names:
        node = node.below.setdefault(name, _Node())
        node.typed.append(change)
    if node.text is not None:
        raise PilotageError(f"--set {change}: {change.partition('=')[0]} is given twice")
    node.text = text


def _grown(value: Any, hint: Any, node: _Node, parts: Mapping[str, type]) -> Any:
    """The value at a node with all that is to change there and below."""
    if node.text is not None:
        value = _read(node.text, hint, node.typed[0], parts)
    if not node.below:
        return value
    if isinstance(value, tuple):
        items = list(value)
        for name, child in node.below.items():
            at = _index(value, name, child)
            items[at] = _grown(items[at], _hint_of_item(hint, at), child, parts)
        return tuple(items)
    if not is_dataclass(value) or isinstance(value, type):
        raise PilotageError(
            f"--set {node.typed[-1]}: it stands in {json.dumps(value)}, which has no parts; give that whole: "
            f"{_legal(hint)}"
        )
    hints = hints_of(type(value))
    new = {}
    for name, child in node.below.items():
        if name not in hints:
            raise PilotageError(
                f"--set {child.typed[-1]}: a {type(value).__name__} has no {name}; it has {', '.join(hints)}"
                f"{meant(name, hints)}"
            )
        new[name] = _grown(getattr(value, name), hints[name], child, parts)
    try:
        return replace(value, **new)
    except PilotageError as error:
        raise PilotageError(f"{' '.join(f'--set {change}' for change in node.typed)}: {error}") from None


def _index(items: tuple[Any, ...], name: str, node: _Node) -> int:
    named = [getattr(item, "stage", None) or getattr(item, "name", None) for item in items]
    if name in named:
        return named.index(name)
    if name.isdecimal() and int(name) < len(items):
        return int(name)
    legal = [own or str(at) for at, own in enumerate(named)]
    raise PilotageError(
        f"--set {node.typed[-1]}: there is no {name}; there are {', '.join(legal) or 'none'}{meant(name, legal)}"
    )


def _hint_of_item(hint: Any, at: int) -> Any:
    """The type of one item of a tuple."""
    for kind in _alternatives(hint):
        if get_origin(kind) is tuple:
            items = get_args(kind)
            return items[0] if items[1:] == (...,) else items[at]
    return Any


# -- values -----------------------------------------------------------------------------------------------------------


def _read(text: str, hint: Any, change: str, parts: Mapping[str, type]) -> Any:
    """A text as a value of this type."""
    try:
        value = from_settings(_data(text, parts), parts)
    except PilotageError as error:
        raise PilotageError(f"--set {change}: {error}") from None
    for each in (value, text):
        if fits(each, hint):
            return _exact(each, hint)
    choices = [
        str(choice)
        for kind in _alternatives(hint)
        if get_origin(kind) is Literal
        for choice in get_args(kind)
    ]
    raise PilotageError(f"--set {change}: {text!r} must be {_legal(hint)}{meant(text, choices)}")


def _data(text: str, parts: Mapping[str, type]) -> Any:
    """A text as settings hold it: JSON, or calls and tuples as in Python; what is neither is a text."""
    try:
        return json.loads(text, parse_constant=_refuse_constant)
    except (ValueError, RecursionError):
        pass
    try:
        return _of_node(ast.parse(text, mode="eval").body, parts)
    except PilotageError:
        raise
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return text


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is no number that can be worked with")


def _of_node(node: ast.AST, parts: Mapping[str, type]) -> Any:
    """A Python expression of constants, lists and calls as settings. Raises ValueError for any other."""
    match node:
        case ast.Constant(value=str() | int() | float() | None as value):
            return value
        case ast.Name(id=name):
            return name
        case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() | float() as number)):
            return -number
        case ast.Tuple(elts=items) | ast.List(elts=items):
            return [_of_node(item, parts) for item in items]
        case ast.Call(func=ast.Name() | ast.Attribute() as function, args=[], keywords=keywords):
            own = {each.arg: _of_node(each.value, parts) for each in keywords if each.arg is not None}
            return {"class": _full_name(ast.unparse(function), parts)} | own
        case ast.Call(func=function):
            raise PilotageError(
                f"give the fields of {ast.unparse(function)} by their names, as in JSD(beta=0.5)"
            )
    raise ValueError(ast.dump(node))


def _full_name(typed: str, parts: Mapping[str, type]) -> str:
    """The name in records of a class that may be typed without its module's."""
    if typed in parts:
        return typed
    return next((name for name in parts if name.rpartition(".")[2] == typed), typed)


def _exact(value: Any, hint: Any) -> Any:
    """A value that fits, with whole numbers as floats where floats are meant: records tell them apart."""
    kind = next((each for each in _alternatives(hint) if fits(value, each)), hint)
    if kind is float:
        return float(value)
    if get_origin(kind) is tuple:
        return tuple(_exact(item, _hint_of_item(kind, at)) for at, item in enumerate(value))
    return value


def _alternatives(hint: Any) -> Iterator[Any]:
    if get_origin(hint) in (Union, UnionType):
        for part in get_args(hint):
            yield from _alternatives(part)
    else:
        yield hint


_IN_WORDS = {int: "a whole number", float: "a number", bool: "true or false", str: "a text", NoneType: "None"}


def _legal(hint: Any) -> str:
    """What a field of this type may hold, in words."""
    legal: list[str] = []
    for kind in _alternatives(hint):
        if get_origin(kind) is Literal:
            legal += map(str, get_args(kind))
        elif get_origin(kind) is tuple:
            items = [item for item in get_args(kind) if item is not ...]
            legal.append(f"a list, as in [...], of {'; '.join(map(_legal, items))}")
        elif is_protocol(kind) or is_dataclass(kind):
            legal += sorted(_call(each) for each in standing_at(kind))
        else:
            legal.append(_IN_WORDS.get(kind, getattr(kind, "__name__", str(kind))))
    legal = list(dict.fromkeys(legal))
    return legal[0] if len(legal) == 1 else f"{', '.join(legal[:-1])} or {legal[-1]}"


def _call(kind: type) -> str:
    """`JSD(beta=...)`: a class with its fields."""
    return f"{kind.__name__}({', '.join(f'{each.name}=...' for each in fields(kind) if each.init)})"

"""Views by name: who is shown what of a moment. The views of a world lie beside it, in `<its package>.views.VIEWS`."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache

from pilotage.errors import PilotageError, meant
from pilotage.records import Example, Moment, View
from pilotage.views.prompts import PromptSet
from pilotage.worlds.registry import beside_world, beside_worlds, get_world

Maker = Callable[[Moment, PromptSet], View]


@dataclass(frozen=True, kw_only=True)
class ViewSpec:
    """A view by name. Called with a moment, or with an example for its first moment, it makes the view."""

    name: str
    make: Maker
    """Given a moment without its privileged parts, past ones too, unless the view is `privileged`: the type is the
    guard against leaks."""
    privileged: bool = False
    """Whether it tells anything of the state, the plan or the answer."""
    shows_picture: bool = False
    without_plan: str | None = None
    """The same view without the plan, if this one tells of it."""
    reference: Callable[[Moment], str] | None = None
    """The text that a perfect model would write, the view's prefill included; None where nobody knows one."""

    def __call__(self, of: Example | Moment, prompts: PromptSet) -> View:
        moment = first_moment(of) if isinstance(of, Example) else of
        return self.make(moment if self.privileged else moment.public(), prompts)


def first_moment(example: Example, role: str = "") -> Moment:
    """What there is before an example's first turn."""
    return Moment(example=example, role=role, seen=example.start)


_EVERYWHERE: dict[str, ViewSpec] = {}
"""Views that were registered for every world."""


def register_view(spec: ViewSpec) -> None:
    """Makes a view known in every world, for routes and commands. Raises PilotageError for a name that is taken."""
    if spec.name in view_names() and _EVERYWHERE.get(spec.name) is not spec:
        raise PilotageError(f"there is a view {spec.name!r} already; give yours another name")
    if spec.without_plan is not None and spec.without_plan not in view_names():
        raise PilotageError(
            f"without_plan {spec.without_plan!r} is not a view; there are {', '.join(view_names())}"
        )
    _EVERYWHERE[spec.name] = spec


def forget_view(name: str) -> None:
    """Takes a registered view back."""
    _EVERYWHERE.pop(name, None)


def view_of(name: str, world: str) -> ViewSpec:
    """The view of this name in a world. Raises PilotageError for one that the world has not."""
    spec = _EVERYWHERE.get(name) or _of_world(world).get(name)
    if spec is None:
        known = (*_of_world(world), *_EVERYWHERE)
        raise PilotageError(
            f"view {name!r} is not of the world {world}; there are {', '.join(known)}{meant(name, known)}"
        )
    return spec


def make_view(name: str, of: Example | Moment, prompts: PromptSet) -> View:
    """What the named view shows. Raises PilotageError for a view that the example's world has not."""
    world = of.world if isinstance(of, Example) else of.example.world
    return view_of(name, world)(of, prompts)


def reference_of_view(of: Example | Moment, name: str) -> str:
    """The text that a perfect model would write under the named view, the view's prefill included.

    Raises PilotageError where nobody knows one, as of questions from elsewhere.
    """
    moment = first_moment(of) if isinstance(of, Example) else of
    spec = view_of(name, moment.example.world)
    if spec.reference is None:
        raise PilotageError(f"{moment.example.id}: view {name!r} has no reference answer")
    return spec.reference(moment)


def view_names() -> tuple[str, ...]:
    """All views that there are, of any world."""
    return tuple(dict.fromkeys(spec.name for spec in _specs()))


def shows_picture(name: str) -> bool:
    """Whether a view of this name shows a picture, in any world."""
    return any(spec.shows_picture for spec in _specs() if spec.name == name)


def without_plan(name: str) -> str | None:
    """The same view without the plan, if the named one tells of it."""
    return next((spec.without_plan for spec in _specs() if spec.name == name), None)


def _specs() -> Iterator[ViewSpec]:
    for of_package in _of_packages():
        yield from of_package.values()
    yield from _EVERYWHERE.values()


@cache
def _of_packages() -> tuple[Mapping[str, ViewSpec], ...]:
    acting = importlib.import_module("pilotage.views.acting")
    return (*(module.VIEWS for module in beside_worlds("views")), acting.VIEWS)


def _of_world(world: str) -> Mapping[str, ViewSpec]:
    module = beside_world(world, "views")
    if module is None and (named := getattr(get_world(world), "views_module", None)) is not None:
        module = importlib.import_module(named)
    return {} if module is None else module.VIEWS

"""An example of any registered world, made in the one way that there is, and its reference answers."""

from __future__ import annotations

from functools import cache
from importlib.util import find_spec

import pytest

from pilotage.data.made import made_examples, own_levels
from pilotage.records import Example, Moment, Observation
from pilotage.views import reference_of_view
from pilotage.worlds import get_world
from pilotage.worlds.world import condition_of

MAX_ACTS = 1_000
"""No world here goes on for longer."""


def is_installed(name: str) -> bool:
    """Whether the libraries of an extra are there, where a world names any (`needs`)."""
    return all(find_spec(library) is not None for library in getattr(get_world(name), "needs", ()))


@cache
def example_of(name: str) -> Example:
    """Some example of the world; skips a test whose world needs what is not installed.

    Raises PilotageError for a world that makes none by itself.
    """
    if not is_installed(name):
        pytest.skip(f"{name} needs {', '.join(get_world(name).needs)}")
    return made_examples(name, own_levels(name)[:1], 1, "train", 0)[0]


def reference_of(example: Example, seen: Observation | None = None) -> str:
    """What a perfect model answers where it sees `seen` (by default the start), as the world is usually measured."""
    world = get_world(example.world)
    usual = condition_of(world, world.usual[0])
    assert usual is not None
    moment = Moment(example=example, role=usual.role, seen=seen or example.start)
    return reference_of_view(moment, usual.views[usual.role])

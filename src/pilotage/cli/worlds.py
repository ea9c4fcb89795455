"""`pilotage worlds`: the simulators that there are, and what each can be asked for."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import tyro

if TYPE_CHECKING:
    from pilotage.worlds.world import World


@dataclass(frozen=True, kw_only=True)
class Worlds:
    """List the worlds, or tell what one can be asked for: levels, conditions, agents, measures.

    Measure a model in one with pilotage eval MODEL --world NAME. A package of one's own adds
    worlds by the entry point group pilotage.worlds.
    """

    name: Annotated[str | None, tyro.conf.Positional, tyro.conf.arg(metavar="[NAME]")] = None
    """One world; without it, a line for each."""

    def run(self) -> int:
        from pilotage.worlds.registry import get_world, world_names

        if self.name is None:
            width = max(map(len, world_names()))
            for name in world_names():
                print(f"{name:<{width}}  {_in_short(get_world(name))}")
            return 0
        facts = list(_facts(get_world(self.name)))
        width = max(len(what) for what, _ in facts)
        for what, text in facts:
            print(f"{what:<{width}}  {text}")
        return 0


def _in_short(world: World) -> str:
    from pilotage.worlds.world import HasExpert

    text = f"{world.title}: {_listed(condition.name for condition in world.conditions)}"
    return f"{text}, has an expert" if isinstance(world, HasExpert) else text


def _facts(world: World) -> Iterator[tuple[str, str]]:
    from pilotage.data.made import makes_examples, own_levels
    from pilotage.worlds.agents import agents_of
    from pilotage.worlds.registry import beside_world, planning_task
    from pilotage.worlds.task import Draws, DrawsTiles, Generates, HasPrior, Recites, Solves, TextMaps
    from pilotage.worlds.world import HasAgentInfo, HasExpert, HasWrongAnswers

    yield "title", world.title
    if makes_examples(world.name) or hasattr(world, "levels"):
        yield "levels", _listed(own_levels(world.name))
    options = getattr(beside_world(world.name, "data"), "KNOWN_OPTIONS", ())
    if options and planning_task(world.name) is not world:  # a task's own levels have none
        yield "options", _listed(options)
    for condition in world.conditions:
        views = ", ".join(f"{role} is shown {view}" for role, view in condition.views.items())
        usual = "; usual" if condition.name in world.usual else ""
        yield f"condition {condition.name}", f"{condition.title} ({views}{usual})"
    yield "agents", _listed(agents_of(world))
    yield "roles", _listed(world.roles)
    yield "measures", _listed(measure.name for measure in world.measures)
    yield "ends", _listed(world.reasons)
    able = {
        "an expert from any state": HasExpert,
        "wrong answers (diagnose palr)": HasWrongAnswers,
        "what agents need besides seeing": HasAgentInfo,
        "states at random": Generates,
        "best plans": Solves,
        "states in words (diagnose gap)": Recites,
        "pictures": Draws,
        "tiles of them": DrawsTiles,
        "maps of characters": TextMaps,
        "a prior (diagnose prior)": HasPrior,
    }
    has = (what for what, capability in able.items() if isinstance(world, capability))
    yield "has", _listed(has) or "none of the optional capabilities"


def _listed(parts: Iterable[object]) -> str:
    return ", ".join(map(str, parts))

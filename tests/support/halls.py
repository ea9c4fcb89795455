"""Planning worlds that can do a part of what grid worlds can: a hall of cells in a row, walked to the exit."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from pilotage.errors import BadStateError
from pilotage.records import Condition, Example, Observation, Privileged, Split
from pilotage.worlds.grid import check_level, require, shorten
from pilotage.worlds.planning import PlanningWorld
from pilotage.worlds.recital import recited_size, split_items
from pilotage.worlds.registry import forget_world, register_world
from pilotage.worlds.score import DESCRIBE, PLAN
from pilotage.worlds.task import Execution, Solution, state_hash

STEPS = {"L": -1, "R": 1}


@dataclass(frozen=True, kw_only=True)
class HallState:
    level: int
    player: int
    goal: int


@dataclass(frozen=True)
class Hall(PlanningWorld):
    """The least that a planning world is."""

    name = "hall"
    title = "Hall"
    actions = tuple(STEPS)
    rules = {"full": "A hall of cells. L goes left, R right, to the exit.", "brief": "Hall: L or R."}
    state_form = '{"level": N, "player": c, "goal": c}'
    views_module = "pilotage.views.acting"

    def parse_state(self, data: Mapping[str, Any]) -> HallState:
        level, player, goal = (require(data, field, self.name) for field in ("level", "player", "goal"))
        check_level(level, minimum=2, task=self.name)
        for field, place in (("player", player), ("goal", goal)):
            if isinstance(place, bool) or not isinstance(place, int) or not 0 <= place < level:
                raise BadStateError(f"{self.name}: {field} {shorten(place)} is no cell of {level}")
        if player == goal:
            raise BadStateError(f"{self.name}: player and goal share a cell")
        return HallState(level=level, player=player, goal=goal)

    def to_json(self, state: HallState) -> dict[str, Any]:
        return {"level": state.level, "player": state.player, "goal": state.goal}

    def level_of(self, state: HallState) -> int:
        return state.level

    def execute(self, state: HallState, plan: Sequence[str], *, strict_edges: bool = False) -> Execution:
        place = state.player
        for executed, action in enumerate(plan, start=1):
            place += STEPS[action]
            reason = "success" if place == state.goal else "" if 0 <= place < state.level else "off_board"
            if reason:
                done = reason == "success"
                return Execution(success=done, legal=done, num_executed=executed, reason=reason)
        return Execution(success=False, legal=True, num_executed=len(plan), reason="not_reached")


@dataclass(frozen=True)
class DrawnHall(Hall):
    """Generated, solved and drawn as a whole; told in no words and made of no tiles."""

    name = "drawnhall"
    title = "Drawn hall"
    levels = range(4, 8)

    def generate(self, level: int, rng: np.random.Generator) -> HallState:
        check_level(level, minimum=2, task=self.name)
        player, goal = (int(place) for place in rng.choice(level, size=2, replace=False))
        return HallState(level=level, player=player, goal=goal)

    def num_states(self, level: int) -> int | None:
        check_level(level, minimum=2, task=self.name)
        return level * (level - 1)

    def enumerate_states(self, level: int) -> Iterator[HallState]:
        check_level(level, minimum=2, task=self.name)
        for player in range(level):
            for goal in range(level):
                if player != goal:
                    yield HallState(level=level, player=player, goal=goal)

    def solve(self, state: HallState, *, rng: np.random.Generator | None = None) -> Solution | None:
        way = state.goal - state.player
        return Solution(plan=("R" if way > 0 else "L",) * abs(way), num_optimal=1)

    def difficulty(self, state: HallState, optimal_length: int) -> str:
        return "easy" if optimal_length < 3 else "medium"

    def draw(self, state: HallState, cell_px: int) -> np.ndarray:
        cells = np.full((1, state.level, 3), 240, np.uint8)
        cells[0, state.player], cells[0, state.goal] = (200, 40, 40), (40, 160, 60)
        return cells.repeat(cell_px, axis=0).repeat(cell_px, axis=1)


@dataclass(frozen=True)
class ToldHall(Hall):
    """Told in words, neither drawn nor generated nor solved; its examples are its own."""

    name = "toldhall"
    title = "Told hall"

    @property
    def conditions(self) -> tuple[Condition, ...]:
        return (
            Condition(name="text", title="from words", views={PLAN: "symbolic"}),
            Condition(name="described", title="describing", views={DESCRIBE: "symbolic"}),
        )

    def recital(self, state: HallState) -> dict[str, str]:
        return {"Size": str(state.level), "Player": str(state.player), "Goal": str(state.goal)}

    def parse_recital(self, fields: Mapping[str, str]) -> HallState:
        level = recited_size(fields, "Size", self.name)
        places = [split_items(fields.get(field, "")) for field in ("Player", "Goal")]
        said = ["".join(word for _, word in items)[:9] for items in places]
        if not all(text.isascii() and text.isdigit() for text in said):
            raise BadStateError(
                f"{self.name}: Player and Goal are recited as {str(said)[:60]}, not as numbers"
            )
        return self.parse_state({"level": level, "player": int(said[0]), "goal": int(said[1])})

    def facts(self, state: HallState) -> dict[str, str]:
        return self.recital(state)

    def route(self, state: HallState, plan: Sequence[str]) -> str:
        return f"Route: {len(plan)} steps."

    def examples(self, count: int, split: Split, seed: int = 0) -> list[Example]:
        return [self.example(HallState(level=9, player=i, goal=8), split) for i in range(count)]

    def example(self, state: HallState, split: Split = "test") -> Example:
        message = Privileged(
            state=self.to_json(state), facts=self.facts(state), plan=("R",) * (state.goal - state.player)
        )
        return Example(
            id=f"{self.name}-{state_hash(self, state)[:12]}",
            world=self.name,
            split=split,
            axes={"level": state.level},
            start=Observation(privileged=message),
        )


HALLS = (Hall(), DrawnHall(), ToldHall())


@contextmanager
def known(*worlds: Any) -> Iterator[None]:
    """The worlds are known in this process."""
    for world in worlds:
        register_world(world)
    try:
        yield
    finally:
        for world in worlds:
            forget_world(world.name)

"""FrozenLake: cross the ice to the goal, around the holes.

JSON form: `{"map": ["SFF", "FHF", "FFG"]}`, one string a row: S player, F ice, H hole, G goal.
Rules follow Gymnasium's `FrozenLake-v1` without slipping: a step off the board leaves the player in place.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import combinations
from typing import Any

import numpy as np

from pilotage.errors import BadStateError, ImpossibleRequestError, PilotageError
from pilotage.worlds import drawing
from pilotage.worlds.grid import (
    MOVES,
    UNREACHED,
    Cell,
    cell_text,
    cells_text,
    check_level,
    count_descents,
    descend,
    distances_to,
    find_letters,
    neighbours,
    only_cell,
    parse_cell,
    require,
    shorten,
    text_rows,
)
from pilotage.worlds.planning import PlanningWorld
from pilotage.worlds.recital import recited_cell, recited_cells, recited_size
from pilotage.worlds.task import Execution, Solution, Swatch, difficulty_by_length

MIN_LEVEL = 2
MAX_TRIES = 10_000


@dataclass(frozen=True, kw_only=True)
class FrozenLakeState:
    """Cells are (row, column), from 0."""

    level: int
    player: Cell
    goal: Cell
    holes: frozenset[Cell]


@dataclass(frozen=True, kw_only=True)
class FrozenLake(PlanningWorld):
    hole_share: tuple[float, float] = (0.1, 0.25)
    """Each map draws its probability of a hole uniformly from this range (published maps: 13.6-19.4 %)."""

    def __post_init__(self) -> None:
        low, high = self.hole_share
        if not 0 <= low <= high <= 1:
            raise PilotageError(f"frozenlake: hole_share {self.hole_share} is not a range within 0 and 1")

    name = "frozenlake"
    title = "FrozenLake"
    levels = range(3, 9)
    actions = ("L", "D", "R", "U")
    legend = {
        "player": Swatch(colour="red", rgb=(214, 48, 49)),
        "goal": Swatch(colour="green", rgb=(39, 174, 96)),
        "hole": Swatch(colour="navy", rgb=(23, 42, 89)),
        "ice": Swatch(colour="pale blue", rgb=(206, 233, 247)),
    }
    state_form = '{"map": ["SFF", "FHF", "FFG"]}: S player, F ice, H hole, G goal'
    text_form = "one line a row: S player, F ice, H hole, G goal"
    rules = {
        "full": (
            "FrozenLake is played on a square grid. The player is the red figure, the goal is the green "
            "flag, holes are navy discs, and everything else is pale blue ice. "
            "Move the player one cell at a time: L (left), D (down), R (right), U (up). "
            "Entering a hole fails. A move off the board leaves the player in place. "
            "Reach the goal in as few moves as possible."
        ),
        "brief": "FrozenLake: walk to the goal, avoid the holes.",
    }

    def generate(self, level: int, rng: np.random.Generator) -> FrozenLakeState:
        check_level(level, minimum=MIN_LEVEL, task=self.name)
        graph = neighbours(level)
        for _ in range(MAX_TRIES):
            player, goal = (int(x) for x in rng.choice(level * level, size=2, replace=False))
            share = rng.uniform(*self.hole_share)
            holes = set(np.flatnonzero(rng.random(level * level) < share).tolist()) - {player, goal}
            if distances_to(goal, graph, holes)[player] != UNREACHED:
                return FrozenLakeState(
                    level=level,
                    player=divmod(player, level),
                    goal=divmod(goal, level),
                    holes=frozenset(divmod(h, level) for h in holes),
                )
        raise ImpossibleRequestError(
            f"frozenlake: no solvable level-{level} map in {MAX_TRIES} tries at hole share "
            f"{self.hole_share}; lower hole_share"
        )

    def num_states(self, level: int) -> int | None:
        check_level(level, minimum=MIN_LEVEL, task=self.name)
        return _count(level) if level <= 3 else None

    def enumerate_states(self, level: int) -> Iterator[FrozenLakeState]:
        check_level(level, minimum=MIN_LEVEL, task=self.name)
        cells = [(r, c) for r in range(level) for c in range(level)]
        graph = neighbours(level)
        for player in cells:
            for goal in cells:
                free = [cell for cell in cells if cell not in (player, goal)]
                if player == goal:
                    continue
                for num_holes in range(len(free) + 1):
                    for holes in combinations(free, num_holes):
                        blocked = {r * level + c for r, c in holes}
                        distance = distances_to(goal[0] * level + goal[1], graph, blocked)
                        if distance[player[0] * level + player[1]] != UNREACHED:
                            yield FrozenLakeState(
                                level=level, player=player, goal=goal, holes=frozenset(holes)
                            )

    def parse_state(self, data: Mapping[str, Any]) -> FrozenLakeState:
        rows = require(data, "map", self.name)
        if not isinstance(rows, list) or not all(isinstance(row, str) for row in rows):
            raise BadStateError(f"frozenlake: map is {shorten(rows)}, not a list of strings such as 'SFHG'")
        level = len(rows)
        check_level(level, minimum=MIN_LEVEL, task=self.name, field="map")
        found = find_letters(rows, "SFHG", self.name)
        return FrozenLakeState(
            level=level,
            player=only_cell(found, "S", "player", self.name),
            goal=only_cell(found, "G", "goal", self.name),
            holes=frozenset(found["H"]),
        )

    def parse_text(self, text: str) -> FrozenLakeState:
        return self.parse_state({"map": text_rows(text, self.name)})

    def to_text(self, state: FrozenLakeState) -> str:
        return "\n".join(self.to_json(state)["map"])

    def to_json(self, state: FrozenLakeState) -> dict[str, Any]:
        n = state.level
        cells = ["F"] * (n * n)
        for letter, places in (("H", state.holes), ("S", (state.player,)), ("G", (state.goal,))):
            for r, c in places:
                cells[r * n + c] = letter
        text = "".join(cells)
        return {"map": [text[i : i + n] for i in range(0, n * n, n)]}

    def level_of(self, state: FrozenLakeState) -> int:
        return state.level

    def solve(self, state: FrozenLakeState, *, rng: np.random.Generator | None = None) -> Solution | None:
        n = state.level
        graph = neighbours(n)
        distance = distances_to(_index(state.goal, n), graph, {_index(h, n) for h in state.holes})
        start = _index(state.player, n)
        if distance[start] == UNREACHED:
            return None
        return Solution(
            plan=tuple(descend(start, distance, graph, rng)),
            num_optimal=count_descents(start, distance, graph),
        )

    def execute(
        self, state: FrozenLakeState, plan: Sequence[str], *, strict_edges: bool = False
    ) -> Execution:
        r, c = state.player
        n, goal, holes = state.level, state.goal, state.holes
        for executed, action in enumerate(plan, start=1):
            dr, dc = MOVES[action]
            if 0 <= r + dr < n and 0 <= c + dc < n:
                r, c = r + dr, c + dc
            elif strict_edges:
                return Execution(success=False, legal=False, num_executed=executed, reason="off_board")
            if (r, c) in holes:
                return Execution(success=False, legal=False, num_executed=executed, reason="hole")
            if (r, c) == goal:
                return Execution(success=True, legal=True, num_executed=executed, reason="success")
        return Execution(success=False, legal=True, num_executed=len(plan), reason="not_reached")

    def after(
        self, state: FrozenLakeState, action: str, *, strict_edges: bool = False
    ) -> tuple[FrozenLakeState, str]:
        done = self.execute(state, (action,), strict_edges=strict_edges)
        if done.reason != "not_reached":
            return state, done.reason
        return replace(state, player=self.trace(state, (action,))[-1]), ""

    def ended(self, state: FrozenLakeState, action: str) -> FrozenLakeState:
        return replace(state, player=self.trace(state, (action,))[-1])

    def fixed(self, state: FrozenLakeState) -> dict[str, Any]:
        return {"map": [row.replace("S", "F") for row in self.to_json(state)["map"]]}

    def placed(self, state: FrozenLakeState, cell: Cell) -> FrozenLakeState | None:
        return None if cell == state.goal or cell in state.holes else replace(state, player=cell)

    def cornered(self, state: FrozenLakeState) -> FrozenLakeState:
        """Player at the upper left, goal at the lower right; holes there are closed."""
        first, last = (0, 0), (state.level - 1, state.level - 1)
        return replace(state, player=first, goal=last, holes=state.holes - {first, last})

    def difficulty(self, state: FrozenLakeState, optimal_length: int) -> str:
        return difficulty_by_length(state.level, optimal_length)

    def recital(self, state: FrozenLakeState) -> dict[str, str]:
        return {
            "Size": str(state.level),
            "Player": cell_text(state.player),
            "Goal": cell_text(state.goal),
            "Holes": cells_text(state.holes),
        }

    facts = recital

    def parse_recital(self, fields: Mapping[str, str]) -> FrozenLakeState:
        level = recited_size(fields, "Size", self.name)
        check_level(level, minimum=MIN_LEVEL, task=self.name)
        player = parse_cell(recited_cell(fields, "Player", self.name), "Player", level, self.name)
        goal = parse_cell(recited_cell(fields, "Goal", self.name), "Goal", level, self.name)
        listed = recited_cells(fields, "Holes", self.name)
        holes = frozenset(parse_cell(cell, "Holes", level, self.name) for cell in listed)
        if player == goal or player in holes or goal in holes:
            raise BadStateError(f"frozenlake: player {player}, goal {goal} and holes must not share a cell")
        return FrozenLakeState(level=level, player=player, goal=goal, holes=holes)

    prior = "the goal lies to the lower right of the player"

    def follows_prior(self, state: FrozenLakeState) -> bool | None:
        """Lower right: neither above nor to the left; reversed: neither below nor to the right."""
        down, right = state.goal[0] - state.player[0], state.goal[1] - state.player[1]
        if down >= 0 and right >= 0:
            return True
        return False if down <= 0 and right <= 0 else None

    def route(self, state: FrozenLakeState, plan: Sequence[str]) -> str:
        return f"Route: {' '.join(map(cell_text, self.trace(state, plan)))}."

    def trace(self, state: FrozenLakeState, plan: Sequence[str]) -> list[Cell]:
        cells = [state.player]
        for action in plan:
            r, c = cells[-1][0] + MOVES[action][0], cells[-1][1] + MOVES[action][1]
            cells.append((r, c) if 0 <= r < state.level and 0 <= c < state.level else cells[-1])
            if cells[-1] in state.holes or cells[-1] == state.goal:
                break
        return cells

    def tiles(self, cell_px: int) -> drawing.TileSet:
        return _tiles(cell_px)

    def tile_kinds(self, state: FrozenLakeState) -> np.ndarray:
        kinds = np.zeros((state.level, state.level), dtype=np.intp)
        for hole in state.holes:
            kinds[hole] = 1
        kinds[state.goal] = 3
        kinds[state.player] = 2
        return kinds

    def draw(self, state: FrozenLakeState, cell_px: int) -> np.ndarray:
        return drawing.draw(self, state, cell_px)


def _index(cell: Cell, level: int) -> int:
    return cell[0] * level + cell[1]


@lru_cache(maxsize=8)
def _count(level: int) -> int:
    return sum(1 for _ in FrozenLake().enumerate_states(level))


@lru_cache(maxsize=16)
def _tiles(cell_px: int) -> drawing.TileSet:
    """Kinds 0-3: ice, hole, player, goal."""
    rgb = {name: swatch.rgb for name, swatch in FrozenLake.legend.items()}
    edge, glint, rim = (170, 208, 230), (233, 246, 252), (120, 176, 210)
    skin, pole = (248, 216, 184), (94, 68, 52)
    frosted = (
        drawing.frame(edge),
        drawing.polygon(glint, ((0.14, 0.40), (0.40, 0.14), (0.47, 0.14), (0.14, 0.47))),
        drawing.polygon(glint, ((0.14, 0.56), (0.56, 0.14), (0.59, 0.14), (0.14, 0.59))),
    )
    hole = (drawing.disc(rim, 0.42), drawing.disc(rgb["hole"], 0.36))
    figure = (
        drawing.polygon(rgb["player"], ((0.42, 0.40), (0.58, 0.40), (0.80, 0.90), (0.20, 0.90))),
        drawing.disc(skin, 0.15, y=0.30),
        drawing.polygon(rgb["player"], ((0.50, 0.06), (0.68, 0.28), (0.32, 0.28))),
    )
    flag = (
        drawing.polygon(rgb["goal"], ((0.26, 0.10), (0.88, 0.37), (0.26, 0.66))),
        drawing.polygon(pole, ((0.19, 0.07), (0.27, 0.07), (0.27, 0.92), (0.19, 0.92))),
    )
    return drawing.tile_set(
        [drawing.paint_tile(cell_px, rgb["ice"], thing) for thing in (frosted, (frosted[0], *hole))]
        + [drawing.paint_tile(cell_px, rgb["ice"], (frosted[0], *thing)) for thing in (figure, flag)]
    )

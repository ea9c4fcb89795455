"""Maze: walk the corridors of a perfect maze (a spanning tree of the grid) to the target.

JSON form: `{"start": [r, c], "target": [r, c], "walls": [[13, 5, …], …]}`, a wall mask per cell:
N 1, S 2, W 4, E 8; a set bit is a wall. Walking into a wall fails.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import combinations, pairwise
from typing import Any

import numpy as np

from pilotage.errors import BadStateError
from pilotage.worlds import drawing
from pilotage.worlds.grid import (
    MOVES,
    UNREACHED,
    Cell,
    cell_text,
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
from pilotage.worlds.recital import recited_cell, recited_sides, recited_size
from pilotage.worlds.task import Execution, Solution, Swatch, difficulty_by_length

MIN_LEVEL = 2
WALL_BIT = {"U": 1, "D": 2, "L": 4, "R": 8}
_OPPOSITE = {"U": "D", "D": "U", "L": "R", "R": "L"}


@dataclass(frozen=True, kw_only=True)
class MazeState:
    """Cells are (row, column), from 0; `walls` [level][level] has a sum of `WALL_BIT` a cell."""

    player: Cell
    goal: Cell
    walls: tuple[tuple[int, ...], ...]

    @property
    def level(self) -> int:
        return len(self.walls)

    def open_directions(self, cell: Cell) -> str:
        """The sides of `cell` without a wall, letters in action order."""
        mask = self.walls[cell[0]][cell[1]]
        return _OPEN_SIDES[mask]


_OPEN_SIDES = tuple("".join(a for a in MOVES if not mask & WALL_BIT[a]) for mask in range(16))


@dataclass(frozen=True, kw_only=True)
class Maze(PlanningWorld):
    name = "maze"
    title = "Maze"
    levels = range(3, 7)
    actions = ("L", "D", "R", "U")
    legend = {
        "player": Swatch(colour="yellow", rgb=(246, 200, 32)),
        "goal": Swatch(colour="blue", rgb=(41, 98, 220)),
        "wall": Swatch(colour="black", rgb=(0, 0, 0)),
        "corridor": Swatch(colour="white", rgb=(255, 255, 255)),
    }
    state_form = (
        '{"start": [r, c], "target": [r, c], "walls": [[13, 5, ...], ...]}: '
        "a wall mask per cell, N 1, S 2, W 4, E 8"
    )
    text_form = "2N+1 lines of 2N+1 characters: # walls and posts, spaces between them, S start, G target"
    rules = {
        "full": (
            "The maze is a square grid of white corridors between black walls. The player is the yellow dot, "
            "the goal is the blue dot. "
            "Move the player one cell at a time: L (left), D (down), R (right), U (up). "
            "A move into a wall fails. Reach the goal in as few moves as possible. "
            "'Open' lists, for every cell in row-major order, the directions without a wall."
        ),
        "brief": "Maze: walk to the goal through open sides.",
    }

    def generate(self, level: int, rng: np.random.Generator) -> MazeState:
        """Randomised depth-first search from a random cell; start and target anywhere, but apart."""
        check_level(level, minimum=MIN_LEVEL, task=self.name)
        graph = neighbours(level)
        num_cells = level * level
        masks = [15] * num_cells
        draws = iter(rng.random(4 * num_cells).tolist())
        stack = [int(rng.integers(num_cells))]
        seen = set(stack)
        while stack:
            cell = stack[-1]
            ways = [(action, other) for action, other in graph[cell] if other not in seen]
            if not ways:
                stack.pop()
                continue
            action, other = ways[int(next(draws) * len(ways))]
            masks[cell] &= ~WALL_BIT[action]
            masks[other] &= ~WALL_BIT[_OPPOSITE[action]]
            seen.add(other)
            stack.append(other)
        player, goal = (int(x) for x in rng.choice(num_cells, size=2, replace=False))
        return _state(level, masks, player, goal)

    def num_states(self, level: int) -> int | None:
        """Spanning trees of the grid times ordered pairs of cells: 192 x 72 at level 3."""
        check_level(level, minimum=MIN_LEVEL, task=self.name)
        return len(_spanning_trees(level)) * level**2 * (level**2 - 1) if level <= 3 else None

    def enumerate_states(self, level: int) -> Iterator[MazeState]:
        check_level(level, minimum=MIN_LEVEL, task=self.name)
        for masks in _spanning_trees(level):
            for player in range(level * level):
                for goal in range(level * level):
                    if player != goal:
                        yield _state(level, masks, player, goal)

    def parse_state(self, data: Mapping[str, Any]) -> MazeState:
        walls = require(data, "walls", self.name)
        if not isinstance(walls, list) or not all(isinstance(row, list) for row in walls):
            raise BadStateError(f"maze: walls is {shorten(walls)}, not a list of rows of masks")
        level = len(walls)
        check_level(level, minimum=MIN_LEVEL, task=self.name, field="walls")
        for r, row in enumerate(walls):
            if len(row) != level:
                raise BadStateError(f"maze: walls row {r} has {len(row)} masks in a maze of {level} rows")
            for c, mask in enumerate(row):
                if isinstance(mask, bool) or not isinstance(mask, int) or not 0 <= mask <= 15:
                    raise BadStateError(f"maze: walls[{r}][{c}] is {shorten(mask)}, not a mask from 0 to 15")
        _check_walls_agree(walls)
        player = parse_cell(require(data, "start", self.name), "start", level, self.name)
        goal = parse_cell(require(data, "target", self.name), "target", level, self.name)
        if player == goal:
            raise BadStateError(f"maze: start and target are both {list(player)}: nothing to plan")
        return MazeState(player=player, goal=goal, walls=tuple(tuple(row) for row in walls))

    def parse_text(self, text: str) -> MazeState:
        """Cells are the characters at odd rows and columns; a side between two cells is open where it is a space."""
        rows = text_rows(text, self.name)
        found = find_letters(rows, "# SG", self.name)
        level, odd = divmod(len(rows), 2)
        if not odd:
            raise BadStateError(f"maze: map has {len(rows)} rows; a maze of N cells a side has 2N+1")
        check_level(level, minimum=MIN_LEVEL, task=self.name)
        for letter, cells in found.items():
            for r, c in cells:
                is_cell, is_post = r % 2 and c % 2, not (r % 2 or c % 2)
                if (
                    (is_cell and letter == "#")
                    or (is_post and letter != "#")
                    or (letter in "SG" and not is_cell)
                ):
                    where = "a cell" if is_cell else "a post" if is_post else "a side between cells"
                    raise BadStateError(
                        f"maze: map row {r} column {c} is {letter!r}, but {where} stands there"
                    )
        masks = [
            [
                sum(
                    bit
                    for action, bit in WALL_BIT.items()
                    if rows[r + MOVES[action][0]][c + MOVES[action][1]] == "#"
                )
                for c in range(1, len(rows), 2)
            ]
            for r in range(1, len(rows), 2)
        ]
        (start, target) = (
            only_cell(found, x, what, self.name) for x, what in (("S", "start"), ("G", "target"))
        )
        return self.parse_state(
            {
                "start": [start[0] // 2, start[1] // 2],
                "target": [target[0] // 2, target[1] // 2],
                "walls": masks,
            }
        )

    def to_text(self, state: MazeState) -> str:
        side = 2 * state.level + 1
        rows = [["#"] * side for _ in range(side)]
        for r, masks in enumerate(state.walls):
            for c, mask in enumerate(masks):
                here = "S" if (r, c) == state.player else "G" if (r, c) == state.goal else " "
                rows[2 * r + 1][2 * c + 1] = here
                for action, bit in WALL_BIT.items():
                    if not mask & bit:
                        rows[2 * r + 1 + MOVES[action][0]][2 * c + 1 + MOVES[action][1]] = " "
        return "\n".join(map("".join, rows))

    def to_json(self, state: MazeState) -> dict[str, Any]:
        return {
            "start": list(state.player),
            "target": list(state.goal),
            "walls": [list(row) for row in state.walls],
        }

    def level_of(self, state: MazeState) -> int:
        return state.level

    def solve(self, state: MazeState, *, rng: np.random.Generator | None = None) -> Solution | None:
        graph = _corridors(state)
        n = state.level
        distance = distances_to(state.goal[0] * n + state.goal[1], graph)
        start = state.player[0] * n + state.player[1]
        if distance[start] == UNREACHED:
            return None
        return Solution(
            plan=tuple(descend(start, distance, graph, rng)),
            num_optimal=count_descents(start, distance, graph),
        )

    def execute(self, state: MazeState, plan: Sequence[str], *, strict_edges: bool = False) -> Execution:
        r, c = state.player
        for executed, action in enumerate(plan, start=1):
            if state.walls[r][c] & WALL_BIT[action]:
                return Execution(success=False, legal=False, num_executed=executed, reason="wall")
            dr, dc = MOVES[action]
            r, c = r + dr, c + dc
            if (r, c) == state.goal:
                return Execution(success=True, legal=True, num_executed=executed, reason="success")
        return Execution(success=False, legal=True, num_executed=len(plan), reason="not_reached")

    def after(self, state: MazeState, action: str, *, strict_edges: bool = False) -> tuple[MazeState, str]:
        done = self.execute(state, (action,), strict_edges=strict_edges)
        if done.reason != "not_reached":
            return state, done.reason
        return replace(state, player=self.trace(state, (action,))[-1]), ""

    def ended(self, state: MazeState, action: str) -> MazeState:
        return replace(state, player=self.trace(state, (action,))[-1])

    def fixed(self, state: MazeState) -> dict[str, Any]:
        data = self.to_json(state)
        return {field: data[field] for field in ("target", "walls")}

    def placed(self, state: MazeState, cell: Cell) -> MazeState | None:
        return None if cell == state.goal else replace(state, player=cell)

    def cornered(self, state: MazeState) -> MazeState:
        """Player at the upper left, goal at the lower right."""
        return replace(state, player=(0, 0), goal=(state.level - 1, state.level - 1))

    def difficulty(self, state: MazeState, optimal_length: int) -> str:
        return difficulty_by_length(state.level, optimal_length)

    def recital(self, state: MazeState) -> dict[str, str]:
        side = range(state.level)
        return {
            "Size": str(state.level),
            "Player": cell_text(state.player),
            "Goal": cell_text(state.goal),
            "Open": " ".join(
                f"{cell_text((r, c))} {state.open_directions((r, c))}" for r in side for c in side
            ),
        }

    def parse_recital(self, fields: Mapping[str, str]) -> MazeState:
        level = recited_size(fields, "Size", self.name)
        check_level(level, minimum=MIN_LEVEL, task=self.name)
        sides = recited_sides(fields, "Open", self.name)
        cells = [(r, c) for r in range(level) for c in range(level)]
        if set(sides) != set(cells):
            raise BadStateError(
                f"maze: Open tells of {len(sides)} cells, not of each of the {level}x{level} ones"
            )
        for cell, letters in sides.items():
            if len(set(letters)) < len(letters) or not set(letters) <= set(self.actions):
                raise BadStateError(
                    f"maze: Open says {shorten(letters)} of {cell}, not some of L D R U, each once"
                )
        masks = [sum(bit for side, bit in WALL_BIT.items() if side not in sides[cell]) for cell in cells]
        return self.parse_state(
            {
                "start": recited_cell(fields, "Player", self.name),
                "target": recited_cell(fields, "Goal", self.name),
                "walls": [masks[i : i + level] for i in range(0, level * level, level)],
            }
        )

    def facts(self, state: MazeState) -> dict[str, str]:
        return self.recital(state) | {"Legal": " ".join(state.open_directions(state.player))}

    def route(self, state: MazeState, plan: Sequence[str]) -> str:
        """A walk back from the goal, dead ends and all, until it meets the player; then the way forth.

        Every word of the search follows from its neighbours, so that it can be learnt and checked.
        """
        back = " ".join(map(cell_text, search_back(state)))
        forth = " ".join(map(cell_text, self.trace(state, plan)))
        return f"Route: back {back}, so {forth}."

    def trace(self, state: MazeState, plan: Sequence[str]) -> list[Cell]:
        cells = [state.player]
        for action in plan:
            r, c = cells[-1]
            if state.walls[r][c] & WALL_BIT[action] or cells[-1] == state.goal:
                break
            cells.append((r + MOVES[action][0], c + MOVES[action][1]))
        return cells

    def tiles(self, cell_px: int) -> drawing.TileSet:
        return _tiles(cell_px)

    def tile_kinds(self, state: MazeState) -> np.ndarray:
        kinds = np.array(state.walls, dtype=np.intp)
        kinds[state.player] += 16
        if state.goal != state.player:
            kinds[state.goal] += 32
        return kinds

    def draw(self, state: MazeState, cell_px: int) -> np.ndarray:
        return drawing.draw(self, state, cell_px)


def search_back(state: MazeState) -> list[Cell]:
    """Depth-first walk from the goal until the player is met, steps back out of dead ends included."""
    walk = [state.goal]
    stack = [state.goal]
    seen = {state.goal}
    while stack and stack[-1] != state.player:
        r, c = stack[-1]
        ways = ((r + MOVES[a][0], c + MOVES[a][1]) for a in state.open_directions((r, c)))
        onward = next((cell for cell in ways if cell not in seen), None)
        if onward is None:
            stack.pop()
            if stack:
                walk.append(stack[-1])
            continue
        seen.add(onward)
        stack.append(onward)
        walk.append(onward)
    return walk


def _state(level: int, masks: Sequence[int], player: int, goal: int) -> MazeState:
    rows = tuple(tuple(masks[r * level : (r + 1) * level]) for r in range(level))
    return MazeState(player=divmod(player, level), goal=divmod(goal, level), walls=rows)


def _corridors(state: MazeState) -> list[list[tuple[str, int]]]:
    masks = [mask for row in state.walls for mask in row]
    return [
        [(action, other) for action, other in ways if not mask & WALL_BIT[action]]
        for mask, ways in zip(masks, neighbours(state.level), strict=True)
    ]


def _walls_agree(walls: list[list[int]]) -> bool:
    """Every wall is told alike from both of its sides, and the border is closed."""
    north, south, west, east = (WALL_BIT[side] for side in "UDLR")
    for row in walls:
        if not (row[0] & west and row[-1] & east):
            return False
        for here, there in pairwise(row):
            if bool(here & east) != bool(there & west):
                return False
    for above, below in pairwise(walls):
        for here, there in zip(above, below, strict=True):
            if bool(here & south) != bool(there & north):
                return False
    return all(mask & north for mask in walls[0]) and all(mask & south for mask in walls[-1])


def _check_walls_agree(walls: list[list[int]]) -> None:
    """Raises BadStateError that names the first two cells that disagree, or the cell with an open border."""
    if _walls_agree(walls):
        return
    level = len(walls)
    for r in range(level):
        for c in range(level):
            for action, (dr, dc) in MOVES.items():
                here = bool(walls[r][c] & WALL_BIT[action])
                if not (0 <= r + dr < level and 0 <= c + dc < level):
                    if not here:
                        raise BadStateError(f"maze: walls[{r}][{c}] leaves the border open towards {action}")
                elif here != bool(walls[r + dr][c + dc] & WALL_BIT[_OPPOSITE[action]]):
                    raise BadStateError(
                        f"maze: walls[{r}][{c}] and walls[{r + dr}][{c + dc}] disagree about the wall between"
                    )


@lru_cache(maxsize=4)
def _spanning_trees(level: int) -> tuple[tuple[int, ...], ...]:
    """Wall masks of every spanning tree of the grid, by trying every set of N*N-1 edges."""
    edges = [
        (cell, action, other)
        for cell, ways in enumerate(neighbours(level))
        for action, other in ways
        if cell < other
    ]
    num_cells = level * level
    trees = []
    for chosen in combinations(edges, num_cells - 1):
        root = list(range(num_cells))
        masks = [15] * num_cells
        for cell, action, other in chosen:
            a, b = _find(root, cell), _find(root, other)
            if a == b:
                break
            root[a] = b
            masks[cell] &= ~WALL_BIT[action]
            masks[other] &= ~WALL_BIT[_OPPOSITE[action]]
        else:
            trees.append(tuple(masks))
    return tuple(trees)


def _find(root: list[int], cell: int) -> int:
    while root[cell] != cell:
        cell = root[cell]
    return cell


@lru_cache(maxsize=16)
def _tiles(cell_px: int) -> drawing.TileSet:
    """Kinds 0-15: the wall mask, plus 16 with the player, plus 32 with the goal."""
    rgb = {name: swatch.rgb for name, swatch in Maze.legend.items()}
    tiles = []
    player = (drawing.disc((186, 140, 0), 0.30), drawing.disc(rgb["player"], 0.26))
    goal = (drawing.disc((22, 56, 140), 0.30), drawing.disc(rgb["goal"], 0.26))
    for thing in ((), player, goal):
        for mask in range(16):
            sides = "".join(action for action, bit in WALL_BIT.items() if mask & bit)
            walls = drawing.bars(rgb["wall"], sides, posts=True)
            tiles.append(drawing.paint_tile(cell_px, rgb["corridor"], (walls, *thing)))
    return drawing.tile_set(tiles)

"""MiniBehaviour: fetch the printer and put it on the table.

JSON form: `{"level": N, "agent": [r, c], "printer": [r, c], "table": [[r, c], …]}`; the table is a block of
2 rows x 3 columns. The agent walks free cells, PICKs the printer from a 4-neighbour cell (its cell is free
from then on) and DROPs it from a 4-neighbour cell of the table. A step off the grid, into the table or into
the printer's cell before PICK fails, and so does PICK or DROP out of place.

Between PICK and DROP the form has `"carrying": true` besides, and the printer's cell is the agent's: where the printer
once stood, nobody can see any more.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import permutations
from typing import Any

import numpy as np

from pilotage.errors import BadStateError, ImpossibleRequestError
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
from pilotage.worlds.recital import recited_cell, recited_cells, recited_size, split_items
from pilotage.worlds.task import COUNTING_LIMIT, Execution, Solution, Swatch

MIN_LEVEL = 3
TABLE_ROWS, TABLE_COLS = 2, 3
MAX_TRIES = 10_000
CARRIED = "carried"
"""What a recital says of a printer that the agent carries."""


@dataclass(frozen=True, kw_only=True)
class MiniBehaviourState:
    """Cells are (row, column), from 0; `table` are all the cells that it covers."""

    level: int
    agent: Cell
    printer: Cell
    """While it is carried, the agent's own cell."""
    table: frozenset[Cell]
    carrying: bool = False


@dataclass(frozen=True, kw_only=True)
class MiniBehaviour(PlanningWorld):
    name = "minibehaviour"
    title = "MiniBehaviour"
    levels = range(5, 9)
    actions = ("L", "D", "R", "U", "PICK", "DROP")
    legend = {
        "agent": Swatch(colour="red", rgb=(226, 40, 40)),
        "printer": Swatch(colour="white", rgb=(250, 250, 250)),
        "table": Swatch(colour="tan", rgb=(210, 170, 110)),
        "floor": Swatch(colour="black", rgb=(0, 0, 0)),
    }
    state_form = (
        '{"level": N, "agent": [r, c], "printer": [r, c], "table": [[r, c], ...]}: a table of 2 x 3 cells'
    )
    text_form = (
        "one line a row: A agent, P printer, T table (2 rows x 3 columns), . floor; C agent with the printer"
    )
    rules = {
        "full": (
            "A room is a square grid with a black floor. The agent is the red triangle, the printer is the "
            "white box, the table is the tan block of 2 rows and 3 columns. "
            "Move the agent one cell at a time: L (left), D (down), R (right), U (up). "
            "The edge of the grid, the table and the printer's cell cannot be entered. "
            "PICK takes the printer from a neighbouring cell, and its cell is then free; "
            "DROP puts it on the table from a cell beside the table. Any other move fails. "
            "Pick the printer and drop it on the table in as few actions as possible."
        ),
        "brief": "MiniBehaviour: pick the printer, drop it on the table.",
    }

    def generate(self, level: int, rng: np.random.Generator) -> MiniBehaviourState:
        check_level(level, minimum=MIN_LEVEL, task=self.name)
        for _ in range(MAX_TRIES):
            row, col = int(rng.integers(level - TABLE_ROWS + 1)), int(rng.integers(level - TABLE_COLS + 1))
            table = _table(row, col)
            printer, agent = (divmod(int(x), level) for x in rng.choice(level * level, 2, replace=False))
            if printer not in table and agent not in table:
                return MiniBehaviourState(level=level, agent=agent, printer=printer, table=table)
        raise ImpossibleRequestError(f"minibehaviour: no level-{level} layout in {MAX_TRIES} tries")

    def num_states(self, level: int) -> int | None:
        """Tables times printers times agents, 4,104 at level 5: each can be solved.

        A block of 2 x 3 cells leaves the rest of the grid in one piece, so the agent comes beside the printer,
        and with the printer's cell free beside the table.
        """
        check_level(level, minimum=MIN_LEVEL, task=self.name)
        num_tables = (level - TABLE_ROWS + 1) * (level - TABLE_COLS + 1)
        num_free = level**2 - TABLE_ROWS * TABLE_COLS
        num_states = num_tables * num_free * (num_free - 1)
        return num_states if num_states <= COUNTING_LIMIT else None

    def enumerate_states(self, level: int) -> Iterator[MiniBehaviourState]:
        check_level(level, minimum=MIN_LEVEL, task=self.name)
        cells = [(r, c) for r in range(level) for c in range(level)]
        for row in range(level - TABLE_ROWS + 1):
            for col in range(level - TABLE_COLS + 1):
                table = _table(row, col)
                free = [cell for cell in cells if cell not in table]
                for printer, agent in permutations(free, 2):
                    yield MiniBehaviourState(level=level, agent=agent, printer=printer, table=table)

    def parse_state(self, data: Mapping[str, Any]) -> MiniBehaviourState:
        level = require(data, "level", self.name)
        check_level(level, minimum=MIN_LEVEL, task=self.name)
        agent = parse_cell(require(data, "agent", self.name), "agent", level, self.name)
        printer = parse_cell(require(data, "printer", self.name), "printer", level, self.name)
        cells = require(data, "table", self.name)
        if not isinstance(cells, list):
            raise BadStateError(f"minibehaviour: table is {shorten(cells)}, not a list of [row, col] cells")
        table = [parse_cell(cell, f"table[{i}]", level, self.name) for i, cell in enumerate(cells)]
        if set(table) != _table(*min(table, default=(0, 0))) or len(table) != TABLE_ROWS * TABLE_COLS:
            raise BadStateError(
                f"minibehaviour: table {shorten(cells)} is not a block of {TABLE_ROWS} rows x "
                f"{TABLE_COLS} columns"
            )
        carrying = data.get("carrying", False)
        if not isinstance(carrying, bool):
            raise BadStateError(f"minibehaviour: carrying is {shorten(carrying)}, not true or false")
        if carrying and agent != printer:
            raise BadStateError(
                f"minibehaviour: agent {list(agent)} cannot be carrying the printer in {list(printer)}: a carried "
                "printer is in the agent's cell"
            )
        if (agent == printer and not carrying) or agent in table or printer in table:
            raise BadStateError(
                f"minibehaviour: agent {list(agent)}, printer {list(printer)} and table must not share a cell"
            )
        return MiniBehaviourState(
            level=level, agent=agent, printer=printer, table=frozenset(table), carrying=carrying
        )

    def parse_text(self, text: str) -> MiniBehaviourState:
        rows = text_rows(text, self.name)
        found = find_letters(rows, "APT.C", self.name)
        carrying = bool(found["C"])
        if carrying and (found["A"] or found["P"]):
            raise BadStateError("minibehaviour: map has an agent with the printer (C), and A or P besides")
        agent, printer = ("C", "C") if carrying else ("A", "P")
        return self.parse_state(
            {
                "level": len(rows),
                "agent": only_cell(found, agent, "agent", self.name),
                "printer": only_cell(found, printer, "printer", self.name),
                "table": found["T"],
                "carrying": carrying,
            }
        )

    def to_text(self, state: MiniBehaviourState) -> str:
        things = dict.fromkeys(state.table, "T") | {state.agent: "A", state.printer: "P"}
        if state.carrying:
            things[state.agent] = "C"
        side = range(state.level)
        return "\n".join("".join(things.get((r, c), ".") for c in side) for r in side)

    def to_json(self, state: MiniBehaviourState) -> dict[str, Any]:
        data = {
            "level": state.level,
            "agent": list(state.agent),
            "printer": list(state.printer),
            "table": [list(cell) for cell in sorted(state.table)],
        }
        # Only where it is so: hashes, ids and splits of all other states are made of the form without the field.
        return data | {"carrying": True} if state.carrying else data

    def level_of(self, state: MiniBehaviourState) -> int:
        return state.level

    def solve(self, state: MiniBehaviourState, *, rng: np.random.Generator | None = None) -> Solution | None:
        """Walk, PICK, walk, DROP, minimised jointly over where to pick and where to drop."""
        n = state.level
        graph = neighbours(n)
        to_table = _steps_to_drop(n, state.table)
        if state.carrying:
            return _solve_carrying(state, to_table, rng)
        closed = {_index(cell, n) for cell in state.table} | {_index(state.printer, n)}
        from_agent = distances_to(_index(state.agent, n), graph, closed)
        lengths = {
            i: from_agent[i] + to_table[i]
            for i in _beside(state.printer, n)
            if from_agent[i] != UNREACHED and to_table[i] != UNREACHED
        }
        if not lengths:
            return None
        spots = [i for i, length in lengths.items() if length == min(lengths.values())]
        num_optimal, plans = 0, []
        for spot in spots:
            towards = distances_to(spot, graph, closed)
            start = _index(state.agent, n)
            first = descend(start, towards, graph, rng)
            plans.append([*first, "PICK", *descend(spot, to_table, graph, rng), "DROP"])
            num_optimal += count_descents(start, towards, graph) * count_descents(spot, to_table, graph)
        order = {action: i for i, action in enumerate(self.actions)}
        plan = (
            min(plans, key=lambda p: [order[a] for a in p])
            if rng is None
            else plans[int(rng.integers(len(plans)))]
        )
        return Solution(plan=tuple(plan), num_optimal=num_optimal)

    def execute(
        self, state: MiniBehaviourState, plan: Sequence[str], *, strict_edges: bool = False
    ) -> Execution:
        cell, carrying = state.agent, state.carrying
        for executed, action in enumerate(plan, start=1):
            cell, carrying, reason = _step(state, cell, carrying, action)
            if reason:
                done = reason == "success"
                return Execution(success=done, legal=done, num_executed=executed, reason=reason)
        return Execution(success=False, legal=True, num_executed=len(plan), reason="not_reached")

    def after(
        self, state: MiniBehaviourState, action: str, *, strict_edges: bool = False
    ) -> tuple[MiniBehaviourState, str]:
        cell, carrying, reason = _step(state, state.agent, state.carrying, action)
        if reason:
            return state, reason
        printer = cell if carrying else state.printer
        return replace(state, agent=cell, printer=printer, carrying=carrying), ""

    def ended(self, state: MiniBehaviourState, action: str) -> MiniBehaviourState:
        """Behind the DROP that succeeds, the printer on the first cell of the table beside the agent."""
        _, _, reason = _step(state, state.agent, state.carrying, action)
        if reason != "success":
            return state
        beside = (cell for cell in sorted(state.table) if _are_neighbours(state.agent, cell))
        return replace(state, printer=next(beside), carrying=False)

    def fixed(self, state: MiniBehaviourState) -> dict[str, Any]:
        """The table, and the printer's cell until it is picked up: of a carrying state, only the episode knows it."""
        data = self.to_json(state)
        return {field: data[field] for field in ("level", "printer", "table")}

    def placed(self, state: MiniBehaviourState, cell: Cell) -> MiniBehaviourState | None:
        if cell in state.table or (cell == state.printer and not state.carrying):
            return None
        return replace(state, agent=cell, printer=cell if state.carrying else state.printer)

    def cornered(self, state: MiniBehaviourState) -> MiniBehaviourState | None:
        """The agent at the upper left; table and printer stay where they are, or few rooms would be left."""
        return self.placed(state, (0, 0))

    def difficulty(self, state: MiniBehaviourState, optimal_length: int) -> str:
        """By the length of the plan, PICK and DROP included: easy up to N-1, medium up to N+1, else hard."""
        if optimal_length <= state.level - 1:
            return "easy"
        return "medium" if optimal_length <= state.level + 1 else "hard"

    def recital(self, state: MiniBehaviourState) -> dict[str, str]:
        return {
            "Size": str(state.level),
            "Agent": cell_text(state.agent),
            "Printer": CARRIED if state.carrying else cell_text(state.printer),
            "Table": cells_text(state.table),
        }

    def parse_recital(self, fields: Mapping[str, str]) -> MiniBehaviourState:
        agent = recited_cell(fields, "Agent", self.name)
        carrying = split_items(fields.get("Printer", "")) == [("", CARRIED.upper())]
        return self.parse_state(
            {
                "level": recited_size(fields, "Size", self.name),
                "agent": agent,
                "printer": agent if carrying else recited_cell(fields, "Printer", self.name),
                "table": recited_cells(fields, "Table", self.name),
                "carrying": carrying,
            }
        )

    def facts(self, state: MiniBehaviourState) -> dict[str, str]:
        """The cells beside a thing are its in-grid 4-neighbours that are neither table nor printer.

        Nothing is beside a printer that is carried, and it takes no cell.
        """
        n = state.level
        taken = state.table if state.carrying else state.table | {state.printer}
        beside = () if state.carrying else _beside(state.printer, n)
        beside_printer = {divmod(i, n) for i in beside} - taken
        beside_table = {divmod(i, n) for cell in state.table for i in _beside(cell, n)} - taken
        legal = [
            a for a in self.actions if _step(state, state.agent, state.carrying, a)[2] in ("", "success")
        ]
        return self.recital(state) | {
            "Beside printer": cells_text(beside_printer),
            "Beside table": cells_text(beside_table),
            "Legal": " ".join(legal) or "none",
        }

    prior = "the table stands in the lower half of the room"

    def follows_prior(self, state: MiniBehaviourState) -> bool | None:
        """By the middle of the table's rows against the middle of the room; None where they meet."""
        rows = [r for r, _ in state.table]
        below_middle = min(rows) + max(rows) - (state.level - 1)
        return None if below_middle == 0 else below_middle > 0

    def route(self, state: MiniBehaviourState, plan: Sequence[str]) -> str:
        words, cell, carrying = [cell_text(state.agent)], state.agent, state.carrying
        for action in plan:
            cell, carrying, reason = _step(state, cell, carrying, action)
            words.append(cell_text(cell) if action in MOVES else action)
            if reason:
                break
        return f"Route: {' '.join(words)}."

    def trace(self, state: MiniBehaviourState, plan: Sequence[str]) -> list[Cell]:
        cells, cell, carrying = [state.agent], state.agent, state.carrying
        for action in plan:
            cell, carrying, reason = _step(state, cell, carrying, action)
            if reason not in ("", "success"):
                break
            cells.append(cell)
        return cells

    def tiles(self, cell_px: int) -> drawing.TileSet:
        return _tiles(cell_px)

    def tile_kinds(self, state: MiniBehaviourState) -> np.ndarray:
        kinds = np.zeros((state.level, state.level), dtype=np.intp)
        for cell in state.table:
            kinds[cell] = 1
        kinds[state.printer] = 2
        kinds[state.agent] = 4 if state.carrying else 3
        return kinds

    def draw(self, state: MiniBehaviourState, cell_px: int) -> np.ndarray:
        return drawing.draw(self, state, cell_px)


def _step(state: MiniBehaviourState, cell: Cell, carrying: bool, action: str) -> tuple[Cell, bool, str]:
    """Where the agent stands, whether it carries, and why the episode ends (`""` when it goes on)."""
    n = state.level
    if action == "PICK":
        if not carrying and _are_neighbours(cell, state.printer):
            return cell, True, ""
        return cell, carrying, "bad_pick"
    if action == "DROP":
        if carrying and any(_are_neighbours(cell, other) for other in state.table):
            return cell, False, "success"
        return cell, carrying, "bad_drop"
    r, c = cell[0] + MOVES[action][0], cell[1] + MOVES[action][1]
    if not (0 <= r < n and 0 <= c < n):
        return cell, carrying, "off_board"
    if (r, c) in state.table or (not carrying and (r, c) == state.printer):
        return cell, carrying, "object"
    return (r, c), carrying, ""


def _solve_carrying(
    state: MiniBehaviourState, to_table: Sequence[int], rng: np.random.Generator | None
) -> Solution | None:
    """The rest of a plan behind PICK."""
    n = state.level
    here = _index(state.agent, n)
    if to_table[here] == UNREACHED:
        return None
    graph = neighbours(n)
    return Solution(
        plan=(*descend(here, to_table, graph, rng), "DROP"),
        num_optimal=count_descents(here, to_table, graph),
    )


@lru_cache(maxsize=1024)
def _steps_to_drop(n: int, table: frozenset[Cell]) -> tuple[int, ...]:
    """Steps from every cell to the nearest cell beside the table, the printer's cell being free."""
    blocked = {_index(cell, n) for cell in table}
    graph = neighbours(n)
    distance = [UNREACHED] * (n * n)
    frontier = [i for cell in table for i in _beside(cell, n) if i not in blocked]
    steps = 0
    while frontier:
        following = []
        for i in frontier:
            if distance[i] == UNREACHED:
                distance[i] = steps
                following.extend(o for _, o in graph[i] if o not in blocked)
        frontier, steps = following, steps + 1
    return tuple(distance)


def _beside(cell: Cell, level: int) -> list[int]:
    return [other for _, other in neighbours(level)[_index(cell, level)]]


def _index(cell: Cell, level: int) -> int:
    return cell[0] * level + cell[1]


def _are_neighbours(a: Cell, b: Cell) -> bool:
    return abs(a[0] - b[0]) + abs(a[1] - b[1]) == 1


@lru_cache(maxsize=1024)
def _table(row: int, col: int) -> frozenset[Cell]:
    return frozenset((row + i, col + j) for i in range(TABLE_ROWS) for j in range(TABLE_COLS))


@lru_cache(maxsize=16)
def _tiles(cell_px: int) -> drawing.TileSet:
    """Kinds 0-4: floor, table, printer, agent, agent with the printer."""
    rgb = {name: swatch.rgb for name, swatch in MiniBehaviour.legend.items()}
    edge, grain, ink, paper = (72, 72, 72), (184, 143, 86), (90, 96, 104), (200, 206, 212)
    table = (
        drawing.square(rgb["table"], 0.5),
        drawing.polygon(grain, ((0.16, 0.28), (0.62, 0.28), (0.62, 0.32), (0.16, 0.32))),
        drawing.polygon(grain, ((0.40, 0.70), (0.84, 0.70), (0.84, 0.74), (0.40, 0.74))),
        drawing.frame(grain),
    )
    printer = (
        drawing.polygon(paper, ((0.32, 0.12), (0.68, 0.12), (0.68, 0.40), (0.32, 0.40))),
        drawing.polygon(rgb["printer"], ((0.16, 0.30), (0.84, 0.30), (0.84, 0.80), (0.16, 0.80))),
        drawing.polygon(ink, ((0.28, 0.64), (0.72, 0.64), (0.72, 0.70), (0.28, 0.70))),
    )
    agent = drawing.polygon(rgb["agent"], ((0.5, 0.12), (0.86, 0.84), (0.14, 0.84)))
    things = ((drawing.frame(edge),), table, (drawing.frame(edge), *printer), (drawing.frame(edge), agent))
    carried = (
        drawing.polygon(rgb["printer"], ((0.30, 0.52), (0.70, 0.52), (0.70, 0.80), (0.30, 0.80))),
        drawing.polygon(ink, ((0.36, 0.70), (0.64, 0.70), (0.64, 0.74), (0.36, 0.74))),
    )
    tiles = drawing.tile_set([drawing.paint_tile(cell_px, rgb["floor"], painters) for painters in things])
    # In the colours of the others: a palette of its own would change every picture's file, if not its pixels.
    return drawing.with_tile(
        tiles, drawing.paint_tile(cell_px, rgb["floor"], (drawing.frame(edge), agent, *carried))
    )

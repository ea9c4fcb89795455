"""VisualPlanning's levels (yix8/VisualPlanning): FrozenLake, Maze and MiniBehaviour as JSON lines, without pictures.

    dataset/{frozenlake,maze,minibehaviour}/tokenized_dataset/SFT/test_dataset.jsonl

A line has `input_state`, the states along the reference path, and `meta`; picture tokens are ignored. A cell is its
index, row * N + column, and a state of FrozenLake or Maze is the player's cell. `meta` holds

* FrozenLake: `level`, `start_pos`, `target_pos`, `layout` (rows of the letters S F H G), `distance_map` (cell ->
  steps to the target);
* Maze: the same with a `layout` of wall masks, N 1, S 2, W 4, E 8; the form that the set's scorer reads, an object
  of `north`, `south`, `west`, `east` that are true for walls, is read as well, and a flat list of N*N cells;
* MiniBehaviour: `level`, `start_pos`, `printer_pos`, `table_pos` as [row, column] pairs; a state is
  `[[row, column], carrying]`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pilotage.data.source import (
    BadLevelError,
    Level,
    Malformed,
    Place,
    Scorer,
    Source,
    find_files,
    read_lines,
)
from pilotage.errors import PilotageError
from pilotage.worlds import get_task
from pilotage.worlds.grid import MAX_LEVEL, MOVES, Cell, shorten
from pilotage.worlds.task import Task

WALLS = {"north": 1, "south": 2, "west": 4, "east": 8}
_ACTION_OF = {step: action for action, step in MOVES.items()}


@dataclass(frozen=True)
class VisualPlanning:
    """The loader of VisualPlanning's levels."""

    name = "visualplanning"
    source = Source(
        name="visualplanning",
        title="Visual Planning, test levels",
        url="https://github.com/yix8/VisualPlanning",
        license="MIT",
        citation=(
            "Yi Xu, Chengzu Li, Han Zhou, Xingchen Wan, Caiqi Zhang, Anna Korhonen, Ivan Vulić: Visual Planning: "
            "Let's Think Only with Images, arXiv 2505.11409, 2025"
        ),
        scorer=Scorer(
            strict_edges=False,
            accuracy="optimal",
            note=(
                "Moves are read off generated pictures, as many as a shortest plan has: reaching the goal in exactly "
                "so many valid moves counts. A picture in which nothing moves is no valid move, so that an answer "
                "with a step off the board, wasted or failed, is never counted."
            ),
        ),
        num_levels={"frozenlake": 1000, "maze": 1000, "minibehaviour": 403},
    )

    def finds(self, root: Path) -> bool:
        return any(self._holds_meta(path, root) for path in self._files(root))

    def read(self, root: Path) -> Iterator[Level | Malformed]:
        files = self._files(root)
        if not files:
            raise PilotageError(
                f"{root} holds no VisualPlanning levels: in it and below it is no .jsonl file but training ones; "
                "give the folder of a clone, or one file"
            )
        for path in files:
            for place, row in read_lines(path, root):
                yield row if isinstance(row, Malformed) else _read_row(place, row)

    def _files(self, root: Path) -> list[Path]:
        """The training levels of a clone are left alone; named as the root, a file is read whatever its name."""
        return [
            path for path in find_files(root, ".jsonl") if path == root or not path.name.startswith("train")
        ]

    def _holds_meta(self, path: Path, root: Path) -> bool:
        first = next((row for _, row in read_lines(path, root) if not isinstance(row, Malformed)), {})
        return "meta" in first


def _read_row(place: Place, row: dict[str, Any]) -> Level | Malformed:
    try:
        meta, states = _field(row, "meta"), _field(row, "input_state")
        if not isinstance(meta, dict):
            raise BadLevelError(f"meta is {shorten(meta)}, not an object")
        if not isinstance(states, list):
            raise BadLevelError(f"input_state is {shorten(states)}, not a list of states")
        level = _field(meta, "level", "meta")
        if isinstance(level, bool) or not isinstance(level, int) or not 2 <= level <= MAX_LEVEL:
            raise BadLevelError(f"meta.level is {shorten(level)}, not a whole number from 2 to {MAX_LEVEL}")
        if "printer_pos" in meta:
            return _read_room(place, meta, states, level)
        return _read_board(place, meta, states, level)
    except PilotageError as error:
        return Malformed(place=place, problem=str(error))


def _read_board(place: Place, meta: dict[str, Any], states: list[Any], level: int) -> Level:
    """FrozenLake or Maze."""
    layout = _field(meta, "layout", "meta")
    start, target = (_cell(_field(meta, name, "meta"), name, level) for name in ("start_pos", "target_pos"))
    rows = _rows(layout, level)
    if isinstance(rows[0][0], str):
        task = get_task("frozenlake")
        if not all(isinstance(letter, str) and len(letter) == 1 for row in rows for letter in row):
            raise BadLevelError("meta.layout has cells that are not one letter each")
        state = task.parse_state({"map": ["".join(row) for row in rows]})
        for name, given, drawn in (("start_pos", start, state.player), ("target_pos", target, state.goal)):
            if given != drawn:
                raise BadLevelError(
                    f"meta.{name} is row {given[0]}, column {given[1]}, but meta.layout has it at {drawn}"
                )
    else:
        task = get_task("maze")
        masks = [[_mask(cell) for cell in row] for row in rows]
        state = task.parse_state({"start": list(start), "target": list(target), "walls": masks})
    problem, plan = "", ()
    try:
        cells = [_cell(index, f"input_state[{i}]", level) for i, index in enumerate(states)]
        plan = _moves([(cell, False) for cell in cells], (start, False))
    except BadLevelError as error:
        problem = str(error)
    distances = meta.get("distance_map")
    claimed = distances.get(str(meta["start_pos"])) if isinstance(distances, dict) else None
    return _level(place, task, state, plan, problem, claimed)


def _read_room(place: Place, meta: dict[str, Any], states: list[Any], level: int) -> Level:
    """MiniBehaviour."""
    task = get_task("minibehaviour")
    start = _field(meta, "start_pos", "meta")
    state = task.parse_state(
        {
            "level": level,
            "agent": start,
            "printer": _field(meta, "printer_pos", "meta"),
            "table": _field(meta, "table_pos", "meta"),
        }
    )
    problem, plan = "", ()
    try:
        steps = []
        for i, step in enumerate(states):
            if (
                not isinstance(step, list)
                or len(step) != 2
                or not isinstance(step[1], bool)
                or not isinstance(step[0], list)
                or len(step[0]) != 2
                or any(isinstance(x, bool) or not isinstance(x, int) for x in step[0])
            ):
                raise BadLevelError(f"input_state[{i}] is {shorten(step)}, not [[row, column], carrying]")
            steps.append(((step[0][0], step[0][1]), step[1]))
        plan = _moves(steps, (state.agent, False))
    except BadLevelError as error:
        problem = str(error)
    return _level(place, task, state, plan, problem, None)


def _level(
    place: Place, task: Task[Any], state: Any, plan: Sequence[str], problem: str, claimed: Any
) -> Level:
    is_length = isinstance(claimed, int) and not isinstance(claimed, bool)
    return Level(
        place=place,
        task=task,
        state=state,
        plan=None if problem else tuple(plan),
        plan_problem=problem,
        claimed_length=claimed if is_length else None,
    )


def _moves(steps: Sequence[tuple[Cell, bool]], start: tuple[Cell, bool]) -> tuple[str, ...]:
    """The actions between (cell, carrying) states. Raises BadLevelError where no action leads on."""
    if not steps or steps[0] != start:
        raise BadLevelError(
            f"input_state begins with {shorten(steps[0] if steps else None)}, not with the start"
        )
    plan = []
    for i, ((cell, carried), (following, carries)) in enumerate(zip(steps, steps[1:], strict=False)):
        delta = (following[0] - cell[0], following[1] - cell[1])
        if carried == carries and delta in _ACTION_OF:
            plan.append(_ACTION_OF[delta])
        elif carried != carries and delta == (0, 0):
            plan.append("DROP" if carried else "PICK")
        else:
            raise BadLevelError(
                f"no action leads from input_state[{i}] {cell} to input_state[{i + 1}] {following}"
            )
    return tuple(plan)


def _rows(layout: Any, level: int) -> list[list[Any]]:
    if isinstance(layout, list) and len(layout) == level**2 and not any(isinstance(x, list) for x in layout):
        layout = [layout[i : i + level] for i in range(0, level**2, level)]
    if not isinstance(layout, list) or len(layout) != level:
        size = f"{len(layout)} rows" if isinstance(layout, list) else shorten(layout)
        raise BadLevelError(f"meta.layout is {size}, not {level} rows")
    for r, row in enumerate(layout):
        if not isinstance(row, list) or len(row) != level:
            raise BadLevelError(f"meta.layout row {r} is {shorten(row)}, not {level} cells")
    return layout


def _mask(cell: Any) -> Any:
    """The wall mask of a cell; what is neither a mask nor its spelt form is for `parse_state` to refuse."""
    if isinstance(cell, dict) and set(cell) == set(WALLS) and all(isinstance(x, bool) for x in cell.values()):
        return sum(bit for side, bit in WALLS.items() if cell[side])
    return cell


def _cell(index: Any, field: str, level: int) -> Cell:
    if isinstance(index, bool) or not isinstance(index, int) or not 0 <= index < level**2:
        raise BadLevelError(f"{field} is {shorten(index)}, not a cell index from 0 to {level**2 - 1}")
    return divmod(index, level)


def _field(data: dict[str, Any], name: str, of: str = "the row") -> Any:
    if name not in data:
        raise BadLevelError(f"{of} has no {name}; it has {shorten(sorted(data), 120)}")
    return data[name]

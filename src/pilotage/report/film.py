"""An episode of several turns as a film strip: a picture a turn, the move that was made, and where it went wrong."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pilotage.errors import PilotageError
from pilotage.report.conditions import known_world, world_name
from pilotage.report.folder import Row
from pilotage.report.text import visible
from pilotage.report.tiles import tile_kinds_text
from pilotage.worlds.answers import last_answer_block, parse_answer
from pilotage.worlds.capabilities import able
from pilotage.worlds.registry import planning_task
from pilotage.worlds.task import DrawsTiles, Plans, Solves, Stepwise

MAX_FRAMES = 30
MAX_SAID = 24
MAX_READ = 200_000
"""Characters of an answer; no move is looked for in a longer one."""
MAX_MOVES = 40
"""Moves of one turn that are drawn."""
DETOUR, AGAIN, UNREAD, LOST = "detour", "again", "unread", "no way on"
"""Marks of a frame: moves after which the expert's way is longer than it might be, a state seen before, words without
an action, a state from which the expert knows no way on. All but `again` are mistakes; a failing move's mark is its
reason."""


@dataclass(frozen=True, kw_only=True)
class _Shot:
    """One turn, as far as it can be made out."""

    state: Any
    length: int | None
    """Actions of the expert's way from the state."""
    said: str
    moves: tuple[str, ...]
    """The actions that were made."""


def has_film(row: Row) -> bool:
    """Whether the row is of an episode that may have several turns: it has them, or its world counts them."""
    if row.get("turns"):
        return True
    world = known_world(world_name(row))
    return world is not None and any(measure.name == "num_turns" for measure in world.measures)


def pack_film(row: Row) -> dict[str, Any] | None:
    """`frames`: [the cells' kinds or None, what was said, marks, moves made, cells that they visit] for each turn;
    `left` the turns that are not shown, `first` the frame of the first mistake (-1: none was found), `failed` whether
    the last move of the episode could not be made, `fog` how many cells the model saw around the first cell that a
    frame visits (0: all of them).

    None for a row of a world that is answered once.
    """
    if not has_film(row):
        return None
    turns = row.get("turns")
    turns = [turn for turn in turns if isinstance(turn, dict)] if isinstance(turns, list) else []
    turns = turns or [row]
    task = planning_task(world_name(row))
    shots = [_shot(task, turn, row) for turn in turns]
    last = shots[-1]
    ends = [(shot.state, shot.length) for shot in shots[1:]]
    ends.append(_end(task, last, row))
    outcome = row.get("outcome") or {}
    failed = bool(outcome.get("illegal"))
    marks = [_marks(shot, *end) for shot, end in zip(shots, ends, strict=True)]
    if failed:
        marks[-1].append(visible(outcome.get("reason", ""), 20).replace("_", " "))
    first = next((number for number, of_turn in enumerate(marks) if of_turn), -1)
    _mark_seen(turns, marks)
    frames = [_frame(task, shot, of_turn) for shot, of_turn in zip(shots, marks, strict=True)]
    left = max(0, len(frames) - MAX_FRAMES)
    return {
        "frames": frames[:MAX_FRAMES],
        "left": left,
        "first": first,
        "failed": int(failed and not left),
        "fog": _asked(row, "fog", 0),
    }


def _shot(task: Plans[Any] | None, turn: dict[str, Any], row: Row) -> _Shot:
    text = str(turn.get("response", ""))
    state = _state(task, turn)
    plan = None if task is None or len(text) > MAX_READ else parse_answer(text, task.actions).plan
    return _Shot(
        state=state,
        length=_length(task, state),
        said=(last_answer_block(text) or "").strip(),
        moves=tuple(plan or ())[: _burst(row)],
    )


def _burst(row: Row) -> int:
    """How many moves of an answer are made."""
    return min(_asked(row, "burst", 1) or 1, MAX_MOVES)


def _asked(row: Row, name: str, default: int) -> int:
    """What the episode was begun with, as far as it is a whole number from 0 on."""
    asked = row.get("asked")
    value = asked.get(name, default) if isinstance(asked, dict) else default
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else default


def _end(task: Plans[Any] | None, last: _Shot, row: Row) -> tuple[Any, int | None]:
    """The state behind the last turn and the way on from it; none where the episode ended there."""
    stepwise = able(task, Stepwise)
    state = last.state
    if stepwise is None or state is None:
        return None, None
    strict = bool((row.get("settings") or {}).get("strict_edges", False))
    for move in last.moves:
        state, reason = stepwise.after(state, move, strict_edges=strict)
        if reason:
            return None, None
    return state, _length(task, state)


def _marks(shot: _Shot, end: Any, length: int | None) -> list[str]:
    """What was a mistake in a turn, by the state that it led to."""
    if not shot.said:
        return [UNREAD]
    if shot.length is None or end is None or not shot.moves:
        return []
    if length is None:
        return [LOST]
    return [DETOUR] if length > shot.length - len(shot.moves) else []


def _mark_seen(turns: Sequence[dict[str, Any]], marks: Sequence[list[str]]) -> None:
    seen: set[str] = set()
    for turn, of_turn in zip(turns, marks, strict=True):
        key = json.dumps(turn.get("state"), sort_keys=True)
        if key in seen and turn.get("state") is not None:
            of_turn.append(AGAIN)
        seen.add(key)


def _frame(task: Plans[Any] | None, shot: _Shot, marks: list[str]) -> list[Any]:
    said = visible(shot.said[:MAX_SAID], MAX_SAID)
    tiles = able(task, DrawsTiles)
    if tiles is None or shot.state is None:
        return [None, said, marks, list(shot.moves), []]
    level = tiles.level_of(shot.state)
    cells = [r * level + c for r, c in tiles.trace(shot.state, shot.moves)]
    return [tile_kinds_text(tiles, shot.state), said, marks, list(shot.moves), cells]


def _state(task: Plans[Any] | None, turn: dict[str, Any]) -> Any:
    state = turn.get("state")
    if task is None or not isinstance(state, dict):
        return None
    try:
        return task.parse_state(state)
    except PilotageError:
        return None


def _length(task: Plans[Any] | None, state: Any) -> int | None:
    """Actions of the expert's way from a state; None without one."""
    solving = able(task, Solves)
    solution = None if solving is None or state is None else solving.solve(state)
    return None if solution is None else len(solution.plan)

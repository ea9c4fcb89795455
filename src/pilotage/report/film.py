"""An episode of several turns as a film strip: a picture a turn, what was said, and where it went wrong."""

from __future__ import annotations

import json
from typing import Any

from pilotage.errors import PilotageError
from pilotage.evaluate.roles import is_planning
from pilotage.report.folder import Row
from pilotage.report.text import visible
from pilotage.report.tiles import kinds_text
from pilotage.worlds.answers import last_answer_block
from pilotage.worlds.registry import planning_task
from pilotage.worlds.task import Task

MAX_FRAMES = 30
MAX_SAID = 24
DETOUR, AGAIN, UNREAD = "detour", "again", "unread"
"""Marks of a frame: a move after which the expert's way is no shorter, a state seen before, words without an action."""


def pack_film(row: Row) -> dict[str, Any] | None:
    """`frames`: [the cells' kinds or None, what was said, marks] for each turn; `left` the turns that are not shown.

    None for a row of a planning task. States that are none are shown without a picture.
    """
    turns = row.get("turns")
    if not isinstance(turns, list) or len(turns) < 2:
        if is_planning(row):
            return None
        turns = [row]
    task = planning_task(str(row.get("world", row["task"])))
    turns = [turn for turn in turns if isinstance(turn, dict)]
    states = [_state(task, turn) for turn in turns]
    lengths = [_length(task, state) for state in states]
    seen: set[str] = set()
    frames = []
    for number, turn in enumerate(turns):
        block = last_answer_block(str(turn.get("response", "")))
        marks = [] if block and block.strip() else [UNREAD]
        key = json.dumps(turn.get("state"), sort_keys=True)
        if key in seen and turn.get("state") is not None:
            marks.append(AGAIN)
        seen.add(key)
        here, after = lengths[number], lengths[number + 1] if number + 1 < len(lengths) else None
        if not marks and here is not None and after is not None and after >= here:
            marks.append(DETOUR)
        if number == len(turns) - 1 and (row.get("outcome") or {}).get("illegal"):
            marks.append(visible((row.get("outcome") or {}).get("reason", ""), 20).replace("_", " "))
        state = states[number]
        kinds = None if task is None or state is None else kinds_text(task, state)
        frames.append([kinds, visible((block or "").strip()[:MAX_SAID], MAX_SAID), marks])
    return {"frames": frames[:MAX_FRAMES], "left": max(0, len(frames) - MAX_FRAMES)}


def _state(task: Task[Any] | None, turn: dict[str, Any]) -> Any:
    state = turn.get("state")
    if task is None or not isinstance(state, dict):
        return None
    try:
        return task.parse_state(state)
    except PilotageError:
        return None


def _length(task: Task[Any] | None, state: Any) -> int | None:
    """Actions of the expert's way from a state; None without one."""
    solution = None if task is None or state is None else task.solve(state)
    return None if solution is None else len(solution.plan)

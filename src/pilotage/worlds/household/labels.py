"""What each role should have answered, from the privileged state of the very moment alone, and whether it did.

The state (see `state_of`) holds the grid, the view and what the expert does next:

    grid       rows of the whole grid, as in `sight`        query      what the scheduler should ask for
    agent      [x, y, facing]: 0 is right, 1 down           direction  where to explore, where that is what is asked
    view       rows of what the agent sees                  actions    until that sub-goal is over
    held       name of what is carried                      goals      the expert's sub-goals, the present one first

A capability is asked for what the scheduler said, right or not. Where that is what the expert would have, `explore` and
`decode` are the expert's own; else a shortest way of doing what was asked, as far as there is one.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Literal

from pilotage.errors import PilotageError
from pilotage.worlds.household import sight
from pilotage.worlds.household.expert import FREE_CELL, Step
from pilotage.worlds.household.grammar import actions_text, box_text, read_answer, thing_named
from pilotage.worlds.household.missions import ACTIONS

State = Mapping[str, Any]
LONGEST = 16
"""Actions of one answer of `decode` at most; the scheduler then asks again for the same."""
SAME_BOX = 0.5
"""Intersection over union from which on a box is that of the thing."""
_STEPS = ((1, 0), (0, 1), (-1, 0), (0, -1))
"""Facing -> (x, y) of one step."""

Verdict = Literal["right", "wrong", "malformed"]


def state_of(
    *,
    grid: Sequence[str],
    agent: Sequence[int],
    view: Sequence[str],
    coming: Sequence[Step],
    longest: int = LONGEST,
) -> dict[str, Any]:
    """The state as JSON. `coming` is the expert's continuation; empty where it knows none."""
    segment = []
    for step in coming[:longest]:
        if step.key != coming[0].key:
            break
        segment.append(step.action)
    return {
        "grid": list(grid),
        "agent": list(agent),
        "view": list(view),
        "held": sight.held(view),
        "query": coming[0].query if coming else "",
        "direction": coming[0].direction if coming else "",
        "actions": segment,
        "goals": list(coming[0].goals) if coming else [],
    }


def label_of(role: str, state: State, query: str, *, tile_px: int) -> str:
    """The right answer of a role that is asked for `query`: a thing, a command, a direction; `""` for the scheduler.

    Raises PilotageError where no expert knows what to ask for, which only the scheduler needs.
    """
    if role == "locate":
        return _locate(state, query, tile_px)
    return _LABELS[role](state, query)


def verdict_on(role: str, text: str, state: State, query: str, *, tile_px: int) -> Verdict:
    """Whether an answer is the right one. Any of several things of the name that was asked for is."""
    read = read_answer(role, text)
    if read.problem:
        return "malformed"
    if role == "locate":
        found = sight.boxes(state["view"], query, tile_px)
        right = any(overlap(read.value, box) >= SAME_BOX for box in found) if read.value else not found
        return "right" if right else "wrong"
    if role == "schedule" and not state["query"]:
        return "wrong"
    return (
        "right"
        if read.value == read_answer(role, label_of(role, state, query, tile_px=tile_px)).value
        else "wrong"
    )


def usual_query(role: str, state: State) -> str:
    """What a role would be asked for here, were the scheduler right."""
    asked = state["query"].partition("(")[2].rstrip(")")
    explores = state["query"].startswith("explore")
    if role == "decode" and explores:
        return f"explore {state['direction']}"
    if role in ("explore", "locate") and not explores:
        return thing_of(asked)
    return "" if role in ("schedule", "describe") else asked


def thing_of(command: str) -> str:
    """What a command is about: `red ball` of `go next to red ball`."""
    for verb in ("go next to ", "go to ", "pick up ", "put down ", "open ", "close "):
        if command.startswith(verb):
            return command.removeprefix(verb)
    return command


def overlap(one: Sequence[int], other: Sequence[int]) -> float:
    """Intersection over union of two boxes."""
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    inside = max(width, 0) * max(height, 0)
    area = (one[2] - one[0]) * (one[3] - one[1]) + (other[2] - other[0]) * (other[3] - other[1])
    return inside / (area - inside) if area > inside else 0.0


def is_done(state: State, command: str) -> bool:
    """Whether a command has been carried out, by what is seen and held now."""
    view, thing = state["view"], thing_of(command)
    before = sight.ahead(view)
    if command.startswith("go next to "):
        return before == sight.EMPTY and any(
            sight.matches(sight.name_of(code), thing) for code in _beside(view)
        )
    if command.startswith("pick up"):
        return bool(state["held"]) and sight.matches(state["held"], thing)
    if command.startswith("put down"):
        return not state["held"]
    if command.startswith("go to ") and thing == FREE_CELL:
        return sight.can_be_entered(before)
    is_it = sight.matches(sight.name_of(before), thing)
    if command.startswith("open "):
        return is_it and sight.state_of(before) == "open"
    if command.startswith("close "):
        return is_it and sight.state_of(before) != "open"
    return is_it


def _schedule(state: State, query: str) -> str:
    if not state["query"]:
        raise PilotageError("no expert knows what to ask for here")
    return f"Query: {state['query']}"


def _explore(state: State, query: str) -> str:
    if state["query"] == f"explore({query})":
        return state["direction"]
    x, y, facing = state["agent"]
    places = [
        _seen_from((across - x, down - y), facing)
        for down, row in enumerate(state["grid"])
        for across, code in enumerate(sight.codes_of(row))
        if sight.matches(sight.name_of(code), query)
    ]
    if not places:
        return "ahead"
    forward, right = min(places, key=lambda place: (abs(place[0]) + abs(place[1]), place))
    if abs(right) > abs(forward):
        return "right" if right > 0 else "left"
    return "ahead" if forward >= 0 else "behind"


def _locate(state: State, query: str, tile_px: int) -> str:
    found = sight.boxes(state["view"], query, tile_px)
    return box_text(query, found[0]) if found else "no"


def _describe(state: State, query: str) -> str:
    found = [
        thing.words()
        for thing in sight.things(state["view"])
        if not query or sight.matches(thing.name, query)
    ]
    return ", ".join(found) or "none"


def _decode(state: State, query: str) -> str:
    if query == usual_query("decode", state) and state["actions"]:
        return actions_text(state["actions"])
    return actions_text(_own_way(state, query)[:LONGEST])


def _summarise(state: State, query: str) -> str:
    view = state["view"]
    facts = sight.facts_of(view)
    verdict = "Done" if is_done(state, query) else "Not done"
    return f"{verdict}: {query or 'nothing'}. Held: {facts['Held']}. Ahead: {facts['Ahead']}."


_LABELS: Mapping[str, Callable[[State, str], str]] = MappingProxyType(
    {
        "schedule": _schedule,
        "explore": _explore,
        "describe": _describe,
        "decode": _decode,
        "summarise": _summarise,
    }
)


def _own_way(state: State, command: str) -> Sequence[str]:
    """Actions that carry out what the expert would not have asked for; empty where that cannot be done from here."""
    before = sight.ahead(state["view"])
    free, thing = before == sight.EMPTY, thing_of(command)
    is_it = sight.matches(sight.name_of(before), thing)
    if command.startswith("explore "):
        return _walk_off(state, command.removeprefix("explore "))
    if command.startswith("pick up"):
        return ("PICKUP",) if is_it and not state["held"] else ()
    if command.startswith("put down"):
        return ("DROP",) if free and state["held"] else ()
    if command.startswith(("open ", "close ")):
        return ("TOGGLE",) if is_it and sight.state_of(before) and not is_done(state, command) else ()
    if command.startswith("go next to "):
        return _way(state, lambda x, y, code: code == sight.EMPTY and _touches(state, x, y, thing))
    if thing == FREE_CELL:
        return _way(state, lambda x, y, code: sight.can_be_entered(code))
    return _way(state, lambda x, y, code: sight.matches(sight.name_of(code), thing))


def _walk_off(state: State, direction: str) -> tuple[str, ...]:
    """Turned towards a direction, and on as far as the view's own width."""
    turns = {"ahead": (), "left": ("LEFT",), "right": ("RIGHT",), "behind": ("RIGHT", "RIGHT")}.get(
        thing_named(direction), ()
    )
    x, y, facing = state["agent"]
    facing = (facing + sum(1 if turn == "RIGHT" else -1 for turn in turns)) % 4
    steps: list[str] = []
    while len(steps) < sight.SIDE // 2:
        x, y = x + _STEPS[facing][0], y + _STEPS[facing][1]
        if not sight.can_be_entered(_code_at(state, x, y)):
            break
        steps.append("FORWARD")
    return (*turns, *steps)


def _way(state: State, faces: Callable[[int, int, str], bool]) -> tuple[str, ...]:
    """Fewest turns and steps until the cell ahead is one of those that are wanted; empty where there is no way."""
    start = tuple(state["agent"])
    came: dict[tuple[int, ...], tuple[tuple[int, ...], str] | None] = {start: None}
    queue = deque([start])
    while queue:
        here = x, y, facing = queue.popleft()
        across, down = x + _STEPS[facing][0], y + _STEPS[facing][1]
        code = _code_at(state, across, down)
        if faces(across, down, code):
            return tuple(reversed(list(_back(came, here))))
        moves = {"LEFT": (x, y, (facing - 1) % 4), "RIGHT": (x, y, (facing + 1) % 4)}
        if sight.can_be_entered(code):
            moves["FORWARD"] = (across, down, facing)
        for action, there in moves.items():
            if there not in came:
                came[there] = here, action
                queue.append(there)
    return ()


def _back(came: Mapping[Any, Any], here: Any) -> Iterator[str]:
    while (step := came[here]) is not None:
        here, action = step
        assert action in ACTIONS
        yield action


def _code_at(state: State, x: int, y: int) -> str:
    grid = state["grid"]
    inside = 0 <= y < len(grid) and 0 <= x < len(grid[0]) // 2
    return grid[y][2 * x : 2 * x + 2] if inside else sight.UNSEEN


def _touches(state: State, x: int, y: int, thing: str) -> bool:
    return any(sight.matches(sight.name_of(_code_at(state, x + dx, y + dy)), thing) for dx, dy in _STEPS)


def _beside(view: Sequence[str]) -> list[str]:
    """The codes left, right and behind the cell ahead, seen from the agent."""
    row, column = sight.AGENT[0] - 1, sight.AGENT[1]
    return [sight.codes_of(view[r])[c] for r, c in ((row - 1, column), (row, column - 1), (row, column + 1))]


def _seen_from(away: tuple[int, int], facing: int) -> tuple[int, int]:
    """(steps ahead, steps to the right) of an (x, y) offset."""
    (ax, ay), (rx, ry) = _STEPS[facing], _STEPS[(facing + 1) % 4]
    return away[0] * ax + away[1] * ay, away[0] * rx + away[1] * ry

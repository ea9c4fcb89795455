"""What the page asks for, as functions from JSON to JSON: a level, a verdict, a model's answer. No torch here.

Everything that comes in is foreign: states go through the task's own parser, plans through the one answer
grammar, and what is wrong with them is a PilotageError that the page shows.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np

from pilotage.data.examples import make_example
from pilotage.errors import PilotageError
from pilotage.records import Example
from pilotage.report.faults import attribution_of
from pilotage.report.gallery import pack_answer, walk
from pilotage.report.text import visible
from pilotage.report.tiles import tile_kinds_text
from pilotage.report.verdicts import verdict_class
from pilotage.worlds.answers import last_answer_block
from pilotage.worlds.capabilities import able
from pilotage.worlds.registry import planning_world
from pilotage.worlds.score import PLAN, score
from pilotage.worlds.task import DrawsTiles, Recites, Sampled, TextMaps, state_hash

MAX_LEVEL = 24
"""Larger grids have cells too small to play on. Pasted ones may have any level that the task accepts."""
MAX_SEED = 2**31 - 1
MAX_PLAN_CHARACTERS = 50_000

View = Literal["image", "text"]


@runtime_checkable
class Playable(Sampled[Any], DrawsTiles[Any], Protocol):
    """What is played here: levels that are drawn at random, solved, and shown cell by cell."""


@dataclass(frozen=True, kw_only=True)
class Reply:
    """What a model said."""

    text: str
    finished: bool
    """It ended its turn itself, before the token limit."""
    seconds: float


class Answerer(Protocol):
    """A model at the table. Asked by one thread at a time."""

    @property
    def name(self) -> str: ...

    def answer(self, example: Example, view: View) -> Reply: ...


def new_level(request: Mapping[str, Any]) -> dict[str, Any]:
    """A random level of `task` and `level`, the same for the same `seed`."""
    task = _task(request)
    level = _whole(request, "level", 2, MAX_LEVEL)
    seed = _whole(request, "seed", 0, MAX_SEED)
    return describe(task, task.generate(level, np.random.default_rng(seed)))


def own_level(request: Mapping[str, Any]) -> dict[str, Any]:
    """The level that the person drew as `text`, in the task's form for maps of characters."""
    task = _task(request)
    text = request.get("text")
    if not isinstance(text, str) or not text.strip():
        raise PilotageError("the map is empty")
    maps = able(task, TextMaps)
    if maps is None:
        raise PilotageError(f"{task.title} has no form for maps of characters")
    return describe(task, maps.parse_text(text))


def describe(task: Playable, state: Any) -> dict[str, Any]:
    """Everything that the page shows of a level; not how to solve it, only whether it can be done."""
    solution = task.solve(state)
    level = task.level_of(state)
    maps, reciting = able(task, TextMaps), able(task, Recites)
    return {
        "task": task.name,
        "title": task.title,
        "id": f"{task.name}-{level}-{state_hash(task, state)[:12]}",
        "state": task.to_json(state),
        "n": level,
        "k": tile_kinds_text(task, state),
        "difficulty": task.difficulty(state, len(solution.plan)) if solution else "",
        "solvable": solution is not None,
        "text": maps.to_text(state) if maps else "",
        "words": [[name, content] for name, content in reciting.recital(state).items()] if reciting else [],
    }


def judge_plan_text(request: Mapping[str, Any]) -> dict[str, Any]:
    """The verdict on `plan`, in the grammar of every answer, with the best plan beside it."""
    task, state = _state(request)
    text = request.get("plan")
    if not isinstance(text, str) or len(text) > MAX_PLAN_CHARACTERS:
        raise PilotageError(f"the plan is no text of at most {MAX_PLAN_CHARACTERS:,} characters")
    response = text if last_answer_block(text) is not None else f"<answer>{text}</answer>"
    return _judged(task, state, response, condition="image", finished=True) | {"best": _best(task, state)}


def ask_model(request: Mapping[str, Any], answerer: Answerer) -> dict[str, Any]:
    """The model's answer to the level, judged; `view` is what it is shown."""
    task, state = _state(request)
    view: Any = request.get("view")
    if view not in ("image", "text"):
        raise PilotageError(f"the view is {visible(view, 40)!r}, not image or text")
    # Without a way to the goal there is no reference plan, and so no example that could be shown.
    example = make_example(task, state)
    reply = answerer.answer(example, view)
    judged = _judged(task, state, reply.text, condition=view, finished=reply.finished)
    return judged | {"seconds": round(reply.seconds, 2), "best": _best(task, state)}


def _judged(task: Playable, state: Any, response: str, *, condition: str, finished: bool) -> dict[str, Any]:
    scored = score(task, state, response)
    row = {
        "id": "",
        "condition": condition,
        "role": PLAN,
        "task": task.name,
        "level": task.level_of(state),
        "state": task.to_json(state),
        "response": response,
        "finished": finished,
        "outcome": scored.as_dict(),
        "fields": dict(scored.fields),
        "right": dict(scored.right),
        "error": None,
    }
    numbers: dict[str, int] = {}
    packed = pack_answer(task, state, row, numbers, attribution_of(row))
    return {
        "outcome": row["outcome"],
        "class": verdict_class(row),
        "answer": packed,
        "fields": [visible(name, 40) for name in numbers],
    }


def _best(task: Playable, state: Any) -> dict[str, Any] | None:
    solution = task.solve(state)
    return None if solution is None else walk(task, state, solution.plan, len(solution.plan))


def _task(request: Mapping[str, Any]) -> Playable:
    return planning_world(visible(request.get("task", ""), 40), Playable)


def _state(request: Mapping[str, Any]) -> tuple[Playable, Any]:
    task = _task(request)
    state = request.get("state")
    if not isinstance(state, dict):
        raise PilotageError("the state is no JSON object")
    return task, task.parse_state(state)


def _whole(request: Mapping[str, Any], name: str, low: int, high: int) -> int:
    value = request.get(name)
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise PilotageError(f"{name} is {visible(value, 40)}: a whole number from {low} to {high}")
    return value

"""Every level with every answer, packed so that ten thousand rows open at once.

The page holds a small index (one number a column and answer: what the filters ask for) and chunks of levels,
each deflated and in base64, that the browser inflates when it shows one of their levels. Pictures are not
there at all: the browser draws them from the conditions of a level's cells with one strip of tiles a task.
"""

from __future__ import annotations

import base64
import hashlib
import json
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pilotage.data.store import in_turn
from pilotage.errors import PilotageError
from pilotage.evaluate.attribution import Attribution, recited_state
from pilotage.evaluate.roles import is_description, is_planning
from pilotage.report.conditions import (
    condition_titles,
    ordered_conditions,
    ordered_tasks,
    task_title,
    worlds_of,
)
from pilotage.report.faults import FAULTS, attribution_of, fault_text
from pilotage.report.fields import MAX_FIELD_CHARACTERS, Field, read_fields_of, recited_fields
from pilotage.report.film import has_film, pack_film
from pilotage.report.folder import Row
from pilotage.report.sources import Source, all_rows
from pilotage.report.text import MAX_CHARACTERS, visible, visible_ends
from pilotage.report.tiles import ALPHABET, picture_uri, task_strip, tile_kinds_text
from pilotage.report.verdicts import GOOD, VERDICTS, reason_text, verdict_class, verdict_text
from pilotage.worlds.answers import parse_answer
from pilotage.worlds.capabilities import able
from pilotage.worlds.registry import planning_task
from pilotage.worlds.task import Draws, DrawsTiles, Plans, Recites

LEVELS_A_CHUNK = 48
MAX_STEPS = 400
"""Actions of a plan that are drawn."""
MAX_PROMPT_CHARACTERS = 6_000
TEXT_BUDGET = 60_000_000
"""Characters of answers on one page, before packing: with more answers each is cut shorter."""
MIN_CHARACTERS = 400
MAX_ASKED, MAX_OPTIONS, MAX_FIELDS = 1_200, 26, 20
_MAX_PLAN_CHARACTERS = 200_000
"""Longer answers are judged like all others, but no plan is drawn for them."""


@dataclass(frozen=True, kw_only=True)
class Gallery:
    """Rows that can be filtered and looked at on the page."""

    index: Mapping[str, Any]
    """What the filters need; see `make_gallery`."""
    chunks: tuple[str, ...]
    """Base64 of deflated JSON, `LEVELS_A_CHUNK` levels each, in the index's order."""
    num_levels: int
    num_answers: int
    caption: str
    """What there is to see in the pictures of its answers."""


def make_gallery(sources: Sequence[Source], *, max_levels: int | None = None) -> Gallery:
    """Packs the rows of `sources`; `max_levels` of each task, or all.

    The index holds lists that run over the levels (`ids`, `task`, `level`, `difficulty`, `length`, `start`) and
    lists that run over the answers (`source`, `condition`, `verdict`, `reason`, `fault`, `wrong`); the answers of level
    `i` are those from `start[i]` to `start[i + 1]`. All but the ids are numbers that point into the lists of
    names. `wrong` has a bit for every field of the task that was told wrongly.
    """
    conditions = ordered_conditions({condition for source in sources for condition in source.rows})
    by_level = _by_level(sources)
    first = {key: answers[0][1] for key, answers in by_level.items()}
    order = _in_order(first, max_levels)
    num_answers = sum(len(by_level[key]) for key in order)
    packer = _Packer(
        conditions=conditions,
        tasks=ordered_tasks({row["task"] for row in first.values()}),
        limit=max(MIN_CHARACTERS, min(MAX_CHARACTERS, TEXT_BUDGET // max(1, num_answers))),
    )
    chunks = []
    for begin in range(0, len(order), LEVELS_A_CHUNK):
        prompts: dict[str, int] = {}
        levels = [packer.level(by_level[key], prompts) for key in order[begin : begin + LEVELS_A_CHUNK]]
        chunks.append(_deflate({"levels": levels, "prompts": list(prompts)}))
    return Gallery(
        index=packer.index(
            [source.title for source in sources],
            list(condition_titles(conditions, worlds_of(all_rows(sources))).values()),
        ),
        chunks=tuple(chunks),
        num_levels=len(order),
        num_answers=num_answers,
        caption=" ".join(dict.fromkeys(_READ_SO[_form(row)] for row in all_rows(sources))),
    )


def _form(row: Row) -> str:
    """`episode`, `plan` or `fields`: how an answer is shown."""
    return "episode" if has_film(row) else "plan" if is_planning(row) else "fields"


_READ_SO = {
    "plan": "The line is the plan as it was executed; step through it. Dashed frames are cells that the answer takes "
    "for what they are not.",
    "episode": "A strip is an episode, a picture a turn, with the move that was made; the thick frame is the first "
    "mistake, dashed ones are later mistakes and states seen before.",
    "fields": "Below a question stands what was answered, and the truth where that is wrong.",
}


LevelKey = tuple[str, str, int]
"""Task, id, and the number of the state: an id may stand for another state in the rows of another source."""


def _by_level(sources: Sequence[Source]) -> dict[LevelKey, list[tuple[int, Row]]]:
    """Level -> (source, row) of its answers. A state that is none is taken for the first one with its id."""
    by_id: dict[tuple[str, str], list[tuple[int, Row]]] = {}
    for number, source in enumerate(sources):
        for rows in source.rows.values():
            for row in rows:
                by_id.setdefault((row["task"], row["id"]), []).append((number, row))
    by_level: dict[LevelKey, list[tuple[int, Row]]] = {}
    for (task, id_), answers in by_id.items():
        of_state: dict[str, list[tuple[int, Row]]] = {}
        for answer in answers:
            of_state.setdefault(json.dumps(answer[1]["state"], sort_keys=True), []).append(answer)
        # Sound states first; with a single one there is nothing to be told apart.
        groups = sorted(
            of_state.values(), key=lambda group: len(of_state) > 1 and parse_row(group[0][1])[0] is None
        )
        for place, group in enumerate(groups):
            is_sound = place == 0 or parse_row(group[0][1])[0] is not None
            by_level.setdefault((task, id_, place if is_sound else 0), []).extend(group)
    return by_level


class _Packer:
    """Fills the index's columns while it packs level after level."""

    def __init__(self, *, conditions: Sequence[str], tasks: Sequence[str], limit: int) -> None:
        self.conditions, self.tasks, self.limit = list(conditions), list(tasks), limit
        self.reasons: dict[str, int] = {"": 0}
        self.difficulties: dict[str, int] = {"": 0}
        self.fields: dict[str, dict[str, int]] = {task: {} for task in tasks}
        self.levels: dict[str, list[Any]] = {
            name: [] for name in ("ids", "task", "level", "difficulty", "length")
        }
        self.answers: dict[str, list[int]] = {
            name: [] for name in ("source", "condition", "verdict", "reason", "fault", "wrong")
        }
        self.start = [0]

    def index(self, sources: Sequence[str], conditions: Sequence[str]) -> dict[str, Any]:
        tasks = []
        for name in self.tasks:
            tiles = able(planning_task(name), DrawsTiles)
            tasks.append(
                {
                    "title": task_title(name),
                    "fields": [visible(field, 40) for field in self.fields[name]],
                    "strip": task_strip(tiles) if tiles else None,
                }
            )
        return {
            "tasks": tasks,
            "sources": list(sources),
            "conditions": list(conditions),
            "describing": [int(is_description(condition)) for condition in self.conditions],
            "verdicts": [[key, sign, title, int(key in GOOD)] for key, (sign, title) in VERDICTS.items()],
            "faults": [[key, title] for key, title in FAULTS.items()],
            "reasons": list(self.reasons),
            "difficulties": list(self.difficulties),
            "alphabet": ALPHABET,
            "chunk": LEVELS_A_CHUNK,
            "start": self.start,
            **self.levels,
            **self.answers,
        }

    def level(self, answers: Sequence[tuple[int, Row]], prompts: dict[str, int]) -> dict[str, Any]:
        row = answers[0][1]
        task, state = parse_row(row)
        length = row.get("optimal_length")
        difficulty = visible(row.get("difficulty", ""), 20)
        values = {
            "ids": visible(row["id"], 80),
            "task": self.tasks.index(row["task"]),
            "level": row["level"],
            "difficulty": self.difficulties.setdefault(difficulty, len(self.difficulties)),
            "length": length if isinstance(length, int) and abs(length) < 10**6 else -1,
        }
        for name, value in values.items():
            self.levels[name].append(value)
        ordered = sorted(answers, key=self._place)
        packed = [self.answer(number, other, prompts) for number, other in ordered]
        self.start.append(self.start[-1] + len(packed))
        return {
            **_drawn(task, state),
            **_asked(row),
            "a": packed,
        }

    def _place(self, answer: tuple[int, Row]) -> tuple[int, int, int]:
        number, row = answer
        return number, self.conditions.index(row["condition"]), row.get("sample", 0)

    def answer(self, source: int, row: Row, prompts: dict[str, int]) -> dict[str, Any]:
        task, state = parse_row(row)
        attribution = attribution_of(row)
        numbers = self.fields[row["task"]]
        form = _form(row)
        if form == "episode":
            packed = _pack_episode(row, self.limit)
        elif form == "plan":
            packed = pack_answer(task, state, row, numbers, attribution, limit=self.limit)
        else:
            packed = _pack_fields(row, numbers, self.limit)
        verdict = verdict_class(row)
        reason = "" if verdict == "optimal" else reason_text(row)
        values = {
            "source": source,
            "condition": self.conditions.index(row["condition"]),
            "verdict": list(VERDICTS).index(verdict),
            "reason": self.reasons.setdefault(reason, len(self.reasons)),
            "fault": list(FAULTS).index(attribution.fault if attribution else ""),
            "wrong": sum(1 << number for number, is_right, *_ in packed["f"] if not is_right),
        }
        for name, value in values.items():
            self.answers[name].append(value)
        prompt = visible_ends(prompt_text(row.get("messages")), MAX_PROMPT_CHARACTERS)
        packed["m"] = prompts.setdefault(prompt, len(prompts)) if prompt else -1
        if row.get("sample", 0):
            packed["s"] = row["sample"]
        return packed


def _drawn(task: Plans[Any] | None, state: Any) -> dict[str, Any]:
    """`n` cells a side and `k`, which tile stands in each, where the world has tiles; else `i`, its picture, if any."""
    if (tiles := able(task, DrawsTiles)) is not None:
        return {"n": tiles.level_of(state), "k": tile_kinds_text(tiles, state)}
    draws = able(task, Draws)
    return {"n": 0, "k": None} | ({} if draws is None else {"i": picture_uri(draws, state)})


def _asked(row: Row) -> dict[str, Any]:
    """`t` what the world asked in words, `o` what there was to choose from, where there was."""
    asked = row.get("asked")
    if not isinstance(asked, dict):
        return {}
    text, options = asked.get("text"), asked.get("options")
    packed: dict[str, Any] = {}
    if isinstance(text, str) and text:
        packed["t"] = visible(text, MAX_ASKED)
    if isinstance(options, list) and options:
        packed["o"] = [visible(option, 200) for option in options[:MAX_OPTIONS]]
    return packed


def _pack_episode(row: Row, limit: int) -> dict[str, Any]:
    """An episode as a film, with how it ended where its world did not end it."""
    film = pack_film(row)
    assert film is not None
    num_turns = len(film["frames"]) + film["left"]
    end = row.get("end")
    ending = f", ended by {visible(end, 20).replace('_', ' ')}" if end not in (None, "done") else ""
    return {
        "b": f"{verdict_text(row)}, {num_turns} turn{'' if num_turns == 1 else 's'}{ending}",
        "w": "",
        "f": [],
        "film": film,
        "r": visible_ends(_all_turns(row), limit),
    }


def _pack_fields(row: Row, numbers: dict[str, int], limit: int) -> dict[str, Any]:
    """An answer of a world that is no planning task: its fields as the row has them, with the truth where it was told
    by the name of the field."""
    fields, right = row.get("fields") or {}, row.get("right") or {}
    asked = row.get("asked")
    packed = []
    for name, is_right in list(right.items())[:MAX_FIELDS]:
        said = [[visible(fields[name], MAX_FIELD_CHARACTERS), int(bool(is_right))]] if name in fields else []
        truth = asked.get(name, "") if isinstance(asked, dict) and not is_right else ""
        number = numbers.setdefault(name, len(numbers))
        packed.append(
            [number, int(bool(is_right)), said, visible(truth, MAX_FIELD_CHARACTERS), int(bool(is_right)), 1]
        )
    return {"b": verdict_text(row), "w": "", "r": visible_ends(row["response"], limit), "f": packed}


def _all_turns(row: Row) -> str:
    """What was said, turn by turn."""
    return "\n\n".join(
        f"turn {i}: {turn.get('response', '')}" for i, turn in enumerate(row.get("turns") or [row], start=1)
    )


def pack_answer(
    task: Plans[Any] | None,
    state: Any,
    row: Row,
    numbers: dict[str, int],
    attribution: Attribution | None,
    *,
    limit: int = MAX_CHARACTERS,
) -> dict[str, Any]:
    """What a page shows of one answer: badge `b`, fault `w`, response `r`, fields `f`, the plan, the state as read.

    `numbers` are the task's fields and grow by those that are new.
    """
    reciting, tiles = able(task, Recites), able(task, DrawsTiles)
    fields = recited_fields(reciting, state, row) if reciting and row["response"] else ()
    packed: dict[str, Any] = {
        "b": verdict_text(row),
        "w": fault_text(attribution) if attribution else "",
        "r": visible_ends(row["response"], limit),
        "f": [_pack_field(field, numbers.setdefault(field.name, len(numbers))) for field in fields],
    }
    if tiles is None or not row["response"]:
        return packed
    plan = _plan(tiles, row)
    if plan:
        packed |= walk(tiles, state, plan, row["outcome"]["num_executed"])
    seen = recited_state(reciting, read_fields_of(reciting, state, row)) if reciting else None
    if seen is not None and seen != state:
        packed["q"] = _as_read(tiles, seen, plan)
    return packed


def _as_read(task: DrawsTiles[Any], seen: Any, plan: Sequence[str] | None) -> dict[str, Any]:
    """The state that the answer recites, and its plan in it; `ok` and `bad` tell how it ends there."""
    packed: dict[str, Any] = {"n": task.level_of(seen), "k": tile_kinds_text(task, seen)}
    if plan:
        outcome = task.execute(seen, plan)
        packed |= walk(task, seen, plan, outcome.num_executed)
        packed |= {"ok": int(outcome.success), "bad": int(not outcome.legal)}
    return packed


def _plan(task: Plans[Any], row: Row) -> tuple[str, ...] | None:
    if row.get("outcome") is None or is_description(row["condition"]):
        return None
    text = row["response"]
    return None if len(text) > _MAX_PLAN_CHARACTERS else parse_answer(text, task.actions).plan


def _pack_field(field: Field, number: int) -> list[Any]:
    items = [[item.text, int(item.is_right)] for item in field.recited]
    return [number, int(field.is_right), items, field.truth, field.num_right, field.num_items]


def walk(task: DrawsTiles[Any], state: Any, plan: Sequence[str], num_executed: int) -> dict[str, Any]:
    """`p` the actions as executed, `c` the cells that they visit, `t` how many actions the plan has.

    Cells are `row * N + column`. There is one cell fewer where the last action could not be taken; `all` tells
    whether every executed action is there.
    """
    executed = list(plan[: min(num_executed, MAX_STEPS)])
    level = task.level_of(state)
    cells = [r * level + c for r, c in task.trace(state, executed)]
    return {"p": executed, "c": cells, "t": len(plan), "all": int(num_executed <= MAX_STEPS)}


def prompt_text(messages: Any) -> str:
    """Chat messages as they are read: role by role, with a mark where the picture stands."""
    parts = []
    for message in messages if isinstance(messages, list) else ():
        if not isinstance(message, dict):
            continue
        content = message.get("content")
        if isinstance(content, list):
            pieces = [_piece(piece) for piece in content]
            content = "\n".join(piece for piece in pieces if piece)
        parts.append(f"{message.get('role', '')}: {content if isinstance(content, str) else ''}")
    return "\n\n".join(parts)


def _piece(piece: Any) -> str:
    if not isinstance(piece, dict):
        return ""
    text = piece.get("text")
    if isinstance(text, str):
        return text
    return "[picture]" if "image" in str(piece.get("type", "")) else ""


def parse_row(row: Row) -> tuple[Plans[Any] | None, Any]:
    """The row's task and state, or (None, None) where they are none that we know."""
    try:
        task = planning_task(str(row["task"]))
        return (None, None) if task is None else (task, task.parse_state(row["state"]))
    except PilotageError:
        return None, None


def _in_order(rows: Mapping[LevelKey, Row], max_levels: int | None) -> list[LevelKey]:
    """Levels, the tasks in turn and in each the grid sizes in turn; among equals a hash of the id decides.

    The order never depends on the answers, so that its beginning is a fair sample.
    """
    by_task: dict[str, dict[int, list[LevelKey]]] = {}
    for key in sorted(
        rows, key=lambda key: (hashlib.sha256(key[1].encode("utf-8", "replace")).digest(), key)
    ):
        row = rows[key]
        by_task.setdefault(row["task"], {}).setdefault(row["level"], []).append(key)
    in_task = [
        list(in_turn(levels[level] for level in sorted(levels)))[:max_levels]
        for levels in (by_task[task] for task in ordered_tasks({row["task"] for row in rows.values()}))
    ]
    return list(in_turn(in_task))


def _deflate(data: Any) -> str:
    text = json.dumps(data, separators=(",", ":"), ensure_ascii=False)
    return base64.b64encode(zlib.compress(text.encode("utf-8", "replace"), 6)).decode("ascii")

"""Levels to look at: the picture, the state that was recited, the plan as it ran, the verdict."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from pilotage.errors import PilotageError
from pilotage.evaluate.score import read_recital, same_text, split_items
from pilotage.report.folder import Row
from pilotage.report.svg import group, tag, title
from pilotage.report.text import visible
from pilotage.tasks import TASKS, get_task
from pilotage.tasks.answers import parse_answer
from pilotage.tasks.drawing import encode_png
from pilotage.tasks.grid import MOVES
from pilotage.tasks.task import Task

CELL_PX = 40
MAX_SIDE_PX = 1024
MAX_ITEMS = 8
"""More cells than this in one field are summed up, with the wrong ones named."""
MAX_FIELD_CHARACTERS = 160
MAX_STEPS = 400
"""Actions of a plan that are drawn."""

_CELL = re.compile(r"\(([0-9]{1,4}),([0-9]{1,4})\)")

VERDICTS = {
    "optimal": ("✓", "optimal"),
    "success": ("✓", "arrives, not optimal"),
    "not_reached": ("○", "does not arrive"),
    "illegal": ("✗", "illegal move"),
    "unparsed": ("?", "no readable answer"),
    "error": ("!", "engine failed"),
}
"""Class of an answer -> its sign and its name. The order is the filter's."""


@dataclass(frozen=True, kw_only=True)
class Item:
    text: str
    is_right: bool


@dataclass(frozen=True, kw_only=True)
class Field:
    name: str
    is_right: bool
    recited: tuple[Item, ...]
    """What was read, item by item; empty when the field was not there."""
    num_right: int
    num_items: int
    """Items of the truth."""
    truth: str
    """What should have been there, as far as it was not."""


@dataclass(frozen=True, kw_only=True)
class Answer:
    """One stage's answer to one level."""

    stage: str
    verdict: str
    """A key of `VERDICTS`."""
    badge: str
    picture: Markup | None
    fields: tuple[Field, ...]
    response: str
    others: tuple[tuple[str, str, str], ...]
    """(kind, verdict or score in words, response) of the other kinds, for reading."""


@dataclass(frozen=True, kw_only=True)
class Level:
    id: str
    task: str
    title: str
    level: int
    difficulty: str
    optimal_length: int | None
    change: str
    """`learnt`, `lost` or `same`: success of the last stage against the first."""
    answers: tuple[Answer, ...]


@dataclass(frozen=True, kw_only=True)
class Gallery:
    levels: tuple[Level, ...]
    pictures: Markup
    """Hidden definitions of every picture, drawn once and used by every stage."""
    num_rows: int
    """Levels that the run evaluated; the gallery shows some of them."""


def make_gallery(
    stages: Mapping[str, Mapping[str, Sequence[Row]]], *, per_task: int = 12, failures_per_task: int = 4
) -> Gallery:
    """A fair sample of levels, and beside it some that the last stage still fails on."""
    by_kind = {
        stage: {kind: {row["id"]: row for row in rows} for kind, rows in kinds.items()}
        for stage, kinds in stages.items()
    }
    shown_kind = {stage: _shown_kind(kinds) for stage, kinds in by_kind.items()}
    first_rows: dict[str, Row] = {}
    for stage, kinds in by_kind.items():
        for id_, row in kinds[shown_kind[stage]].items():
            first_rows.setdefault(id_, row)
    last = by_kind[list(by_kind)[-1]].get("image", {}) if by_kind else {}
    chosen = _choose(first_rows, last, per_task, failures_per_task)
    levels, definitions = [], []
    for number, id_ in enumerate(chosen):
        row = first_rows[id_]
        task, state = _parse(row)
        definition = _definition(f"pic-{number}", task, state)
        if definition is not None:
            definitions.append(definition)
        answers = [
            _answer(
                stage, shown_kind[stage], kinds, id_, task, state, f"pic-{number}" if definition else None
            )
            for stage, kinds in by_kind.items()
            if id_ in kinds[shown_kind[stage]]
        ]
        levels.append(_level(row, task, answers))
    return Gallery(
        levels=tuple(levels),
        pictures=tag("svg", tag("defs", *definitions), width=0, height=0, aria_hidden="true", class_="defs"),
        num_rows=len(first_rows),
    )


def _shown_kind(kinds: Mapping[str, Any]) -> str:
    """The kind that a stage's cards show: plans from the image, or what there is."""
    return next((kind for kind in ("image", "text", "perception") if kind in kinds), next(iter(kinds)))


def _choose(
    rows: Mapping[str, Row], last: Mapping[str, Row], per_task: int, failures_per_task: int
) -> list[str]:
    """Ids, the tasks in turn. The sample is decided by a hash of the id, never by the answers, except for the
    extra failures, which come at the end."""
    by_task: dict[str, list[str]] = {}
    for id_ in sorted(rows, key=lambda id_: hashlib.sha256(id_.encode("utf-8", "replace")).digest()):
        by_task.setdefault(rows[id_]["task"], []).append(id_)
    sample = {task: _over_levels(ids, rows)[:per_task] for task, ids in by_task.items()}
    failed = {
        task: [id_ for id_ in ids if id_ not in sample[task] and id_ in last and not succeeded(last[id_])]
        for task, ids in by_task.items()
    }
    order = [task.name for task in TASKS if task.name in sample]
    order += sorted(set(sample) - set(order))
    return _in_turn([sample[task] for task in order]) + _in_turn(
        [failed[task][:failures_per_task] for task in order]
    )


def _over_levels(ids: Sequence[str], rows: Mapping[str, Row]) -> list[str]:
    by_level: dict[int, list[str]] = {}
    for id_ in ids:
        by_level.setdefault(rows[id_]["level"], []).append(id_)
    return _in_turn([by_level[level] for level in sorted(by_level)])


def _in_turn(lists: Sequence[Sequence[str]]) -> list[str]:
    longest = max(map(len, lists), default=0)
    return [ids[i] for i in range(longest) for ids in lists if i < len(ids)]


def succeeded(row: Row) -> bool:
    verdict = row.get("verdict")
    return not row.get("error") and bool(verdict and verdict["success"])


def verdict_class(row: Row) -> str:
    """A key of `VERDICTS`."""
    verdict = row.get("verdict")
    if row.get("error"):
        return "error"
    if verdict is None:
        right = row.get("right") or {}
        return "optimal" if right and all(right.values()) else "not_reached"
    if not verdict["parsed"]:
        return "unparsed"
    if verdict["success"]:
        return "optimal" if verdict["optimal"] else "success"
    return "not_reached" if verdict["legal"] else "illegal"


def verdict_text(row: Row) -> str:
    """The verdict in a few words: `optimal`, `illegal: wall`, `no readable answer: empty answer`."""
    name = VERDICTS[verdict_class(row)][1]
    if row.get("error"):
        return f"{name}: {visible(row['error'], 120)}"
    verdict = row.get("verdict")
    if verdict is None:
        right = row.get("right") or {}
        return f"{sum(map(bool, right.values()))} of {len(right)} fields right"
    reason = visible(verdict["reason"], 40).replace("_", " ")
    return name if verdict["success"] or reason == "not reached" else f"{name}: {reason}"


def _parse(row: Row) -> tuple[Task[Any] | None, Any]:
    try:
        task = get_task(row["task"])
        return task, task.parse_state(row["state"])
    except PilotageError:
        return None, None


def _level(row: Row, task: Task[Any] | None, answers: Sequence[Answer]) -> Level:
    won = [answer.verdict in ("optimal", "success") for answer in answers]
    change = "same" if won[0] == won[-1] else "learnt" if won[-1] else "lost"
    length = row.get("optimal_length")
    return Level(
        id=visible(row["id"], 80),
        task=visible(row["task"], 40),
        title=task.title if task else visible(row["task"], 40),
        level=row["level"],
        difficulty=visible(row.get("difficulty", ""), 20),
        optimal_length=length if isinstance(length, int) else None,
        change=change,
        answers=tuple(answers),
    )


def _answer(
    stage: str,
    kind: str,
    kinds: Mapping[str, Mapping[str, Row]],
    id_: str,
    task: Task[Any] | None,
    state: Any,
    picture: str | None,
) -> Answer:
    row = kinds[kind][id_]
    others = tuple(
        (other, verdict_text(rows[id_]), visible(rows[id_]["response"]))
        for other, rows in kinds.items()
        if other != kind and id_ in rows
    )
    fields = recited_fields(task, state, row) if task else ()
    return Answer(
        stage=stage,
        verdict=verdict_class(row),
        badge=verdict_text(row),
        picture=_picture(picture, task, state, row, fields) if task and picture else None,
        fields=fields,
        response=visible(row["response"]) if row["response"] else "(empty)",
        others=others,
    )


def recited_fields(task: Task[Any], state: Any, row: Row) -> tuple[Field, ...]:
    """The state as the answer recites it, field by field against the truth."""
    truth = task.facts(state) if row["kind"] == "perception" else task.recital(state)
    read = row.get("fields") or read_recital(row["response"], tuple(task.facts(state)))
    return tuple(_field(name, str(read.get(name, "")), text) for name, text in truth.items())


def _field(name: str, read: str, truth: str) -> Field:
    recited, wanted = split_items(read), split_items(truth)
    left = [_sorted(item) for item in wanted]
    items, wrong = [], []
    for cell, said in recited:
        is_right = _sorted((cell, said)) in left
        if is_right:
            left.remove(_sorted((cell, said)))
        item = Item(text=visible(f"{cell} {said if cell else said.lower()}".strip(), 40), is_right=is_right)
        items.append(item)
        if not is_right:
            wrong.append(item)
        if len(items) > 40 * MAX_ITEMS:
            break
    missing = [f"{c} {s if c else s.lower()}".strip() for c, s in wanted if _sorted((c, s)) in left]
    return Field(
        name=name,
        is_right=same_text(read, truth),
        recited=tuple(items if len(items) <= MAX_ITEMS else wrong[:MAX_ITEMS]),
        num_right=len(wanted) - len(left),
        num_items=len(wanted),
        truth=visible(" ".join(missing), MAX_FIELD_CHARACTERS),
    )


def _sorted(item: tuple[str, str]) -> tuple[str, str]:
    return (item[0], "".join(sorted(item[1])) if item[0] else item[1])


def _definition(id_: str, task: Task[Any] | None, state: Any) -> Markup | None:
    """The level's picture, one unit of the drawing a cell, for `<use>`."""
    if task is None:
        return None
    level = task.level_of(state)
    png = encode_png(task.draw(state, max(8, min(CELL_PX, MAX_SIDE_PX // level))))
    uri = f"data:image/png;base64,{base64.b64encode(png).decode('ascii')}"
    return tag("image", id=id_, width=level, height=level, href=uri)


def _picture(id_: str, task: Task[Any], state: Any, row: Row, fields: Iterable[Field]) -> Markup:
    level = task.level_of(state)
    verdict = verdict_class(row)
    parts = [tag("use", href=f"#{id_}"), *_misread(fields, level)]
    plan = parse_answer(row["response"], task.actions).plan
    if row["kind"] != "perception" and plan:
        parts.append(_route(task, state, plan, row, verdict))
    alt = f"{task.title} of {level} by {level} cells, {verdict_text(row)}" + (
        f", plan {' '.join(plan[:60])}" if plan else ""
    )
    return tag(
        "svg", *parts, viewBox=f"0 0 {level} {level}", class_=f"level v-{verdict}", role="img", aria_label=alt
    )


def _misread(fields: Iterable[Field], level: int) -> list[Markup]:
    """A dashed frame, with the field's initial, around every cell that the answer takes for what it is not."""
    marks = []
    for field in fields:
        for item in field.recited:
            cell = _cell(item.text)
            if item.is_right or cell is None or max(cell) >= level:
                continue
            r, c = cell
            frame = tag("rect", x=c + 0.06, y=r + 0.06, width=0.88, height=0.88, rx=0.08)
            initial = tag("text", field.name[:1], x=c + 0.12, y=r + 0.32)
            marks.append(
                group([title(f"recited as {field.name}: {item.text}"), frame, initial], class_="misread")
            )
    return marks


def _cell(text: str) -> tuple[int, int] | None:
    match = _CELL.match(text)
    return None if match is None else (int(match[1]), int(match[2]))


def _route(task: Task[Any], state: Any, plan: Sequence[str], row: Row, verdict: str) -> Markup:
    """The way as it was walked, the place and direction of a forbidden move, and what was done on the way."""
    plan = plan[: row["verdict"]["num_executed"]] if row.get("verdict") else plan
    is_whole = len(plan) <= MAX_STEPS
    plan = plan[:MAX_STEPS]
    cells = task.trace(state, plan)
    centres = [(c + 0.5, r + 0.5) for r, c in cells]
    d = "M" + "L".join(f"{x:g} {y:g}" for x, y in centres)
    x, y = centres[-1]
    parts = [
        tag("path", d=d, class_="casing"),
        tag("path", d=d, class_="route"),
        tag("circle", cx=centres[0][0], cy=centres[0][1], r=0.11, class_="start"),
    ]
    for action, cell in zip(plan, cells[1:], strict=False):
        if action not in MOVES:
            parts.append(tag("circle", cx=cell[1] + 0.5, cy=cell[0] + 0.5, r=0.19, class_="deed"))
            parts.append(
                tag(
                    "text", action[:1], x=cell[1] + 0.5, y=cell[0] + 0.61, class_="deed", text_anchor="middle"
                )
            )
    if verdict == "illegal" and is_whole:
        if len(cells) <= len(plan) and plan[-1] in MOVES:
            dr, dc = MOVES[plan[-1]]
            parts.append(
                tag("path", d=f"M{x:g} {y:g}L{x + 0.42 * dc:g} {y + 0.42 * dr:g}", class_="route failed")
            )
            x, y = x + 0.42 * dc, y + 0.42 * dr
        s = 0.15
        cross = f"M{x - s:g} {y - s:g}L{x + s:g} {y + s:g}M{x - s:g} {y + s:g}L{x + s:g} {y - s:g}"
        parts += [tag("path", d=cross, class_="cross casing"), tag("path", d=cross, class_="cross")]
    elif len(centres) > 1 and plan[-1] in MOVES:
        parts.append(tag("circle", cx=x, cy=y, r=0.14, class_="end"))
    return group([title(f"plan as executed: {' '.join(plan[:80])}"), *parts], class_="plan")

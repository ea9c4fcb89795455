"""Scores one response: the judge's outcome for a plan, exact match per field for a description.

The state is read out of a response field by field: `Name: text`, up to the next full stop, line end or
field. Names are those of the task's facts, in any case; of a repeated field the last one counts, as of
answer blocks. A numbered line without a name (`2. (1,0)`) is the field of that number. A text is right when
it holds the same items as the truth: the order of cells, spaces, commas and case do not matter, anything
else does.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any

from pilotage.records import Outcome
from pilotage.worlds.capabilities import able, need
from pilotage.worlds.judge import judge
from pilotage.worlds.recital import split_items
from pilotage.worlds.task import Plans, Recites

PLAN, DESCRIBE = "plan", "describe"
"""The roles of a planning world: who plans is judged by the plan, who describes by the fields alone."""
READING_REASONS = ("success", "misread")
"""Of a description: every field is right, or one is not."""

_DECORATION = str.maketrans("", "", "*_`")
_NUMBERED = re.compile(r"[ \t]*([0-9]{1,3})[.)](.*)")


def score(
    task: Plans[Any], state: Any, text: str, *, role: str = PLAN, strict_edges: bool = False
) -> Outcome:
    """The outcome of one response, with what was read of the state. Never raises on any `text`.

    Of a description: success is that every fact is right. Of a plan: the judge's outcome; `fields` and `right` are of
    the state that was recited before it; there are none in a world that recites nothing. Raises PilotageError where a
    description is asked for in such a world.
    """
    if role == DESCRIBE:
        facts = need(task, Recites).facts(state)
        fields, right = _compared(read_fields(text, tuple(facts)), facts)
        success = bool(right) and all(right.values())
        reason = READING_REASONS[0] if success else READING_REASONS[1]
        return Outcome(success=success, reason=reason, fields=fields, right=right)
    fields, right = compared_recital(task, state, text)
    outcome = judge(task, state, text, strict_edges=strict_edges)
    return replace(outcome, fields=fields, right=right)


def compared_recital(task: Plans[Any], state: Any, text: str) -> tuple[dict[str, str], dict[str, bool]]:
    """What a plan's answer recites of the state, by field, and whether it is right; a field not found is wrong.

    Both are empty where the world recites nothing.
    """
    reciting = able(task, Recites)
    if reciting is None:
        return {}, {}
    return _compared(read_recital(text, tuple(reciting.facts(state))), reciting.recital(state))


def _compared(read: Mapping[str, str], truth: Mapping[str, str]) -> tuple[dict[str, str], dict[str, bool]]:
    fields = {name: read[name] for name in truth if name in read}
    return fields, {name: name in fields and same_text(fields[name], truth[name]) for name in truth}


def read_recital(text: str, names: Sequence[str]) -> dict[str, str]:
    """The state recited before the answer block of a planning response, as field -> text."""
    answer = re.search(r"<answer>", text, re.IGNORECASE | re.ASCII)
    return _named_fields(text if answer is None else text[: answer.start()], tuple(names))


def read_fields(text: str, names: Sequence[str]) -> dict[str, str]:
    """The parts of a perception answer, as field -> text. `names` are all of the task's fields, in order."""
    fields = _named_fields(text, tuple(names))
    if len(fields) == len(names):
        return fields
    pattern = _name_pattern(tuple(names))
    for line in text.translate(_DECORATION).splitlines():
        part = _NUMBERED.match(line)
        if part is None or pattern.search(line):
            continue
        number = int(part[1])
        if 1 <= number <= len(names) and names[number - 1] not in fields:
            fields[names[number - 1]] = _clean(part[2])
    return fields


def same_text(read: str, truth: str) -> bool:
    """Both texts hold the same items."""
    return read == truth or _items(read) == _items(truth)


def _items(text: str) -> list[tuple[str, str]]:
    """Items in an order that does not depend on how they were listed: `RD` beside a cell equals `DR`."""
    return sorted((cell, "".join(sorted(said)) if cell else said) for cell, said in split_items(text))


@lru_cache(maxsize=64)
def _name_pattern(names: tuple[str, ...]) -> re.Pattern[str]:
    # Longest first: "Beside printer" must not be read as "Printer".
    ordered = sorted(names, key=len, reverse=True)
    return re.compile(rf"(?<!\w)({'|'.join(map(re.escape, ordered))}) ?:", re.IGNORECASE | re.ASCII)


def _named_fields(text: str, names: tuple[str, ...]) -> dict[str, str]:
    text = text.translate(_DECORATION)
    spelling = {name.lower(): name for name in names}
    fields = {}
    end = len(text)
    for match in reversed(list(_name_pattern(names).finditer(text))):
        # From the end, so that the last mention is the one that stays.
        fields.setdefault(spelling[match[1].lower()], _clean(text[match.end() : end]))
        end = match.start()
    return fields


def _clean(value: str) -> str:
    """The value up to the first full stop or line end."""
    value = re.split(r"[.\n\r]", value.lstrip(" \t"), maxsplit=1)[0]
    return value.strip(" \t,;")

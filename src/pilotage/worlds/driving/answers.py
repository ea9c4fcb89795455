"""What a planner wrote, read: six places in an answer block, and the meta action before it.

The last complete `<answer>…</answer>` block behind the last thought counts, as in every world. In it stand six pairs of
plain numbers in round brackets; commas, semicolons, square brackets and white space between them do not matter. Any
other content makes the whole answer unread: a plan is never guessed.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal, get_args

from pilotage.worlds.answers import last_answer_block
from pilotage.worlds.driving.scene import NUM_FUTURE, Point
from pilotage.worlds.driving.words import PACES, WAYS

Problem = Literal["no_answer_block", "no_points", "not_six_points", "not_in_reach"]
PROBLEMS: tuple[Problem, ...] = get_args(Problem)
"""No block; something in it that is no point; not six of them; one farther than `REACH_M`."""
REACH_M = 500.0
MAX_BLOCK = 2_000
"""Characters of a block that are looked at; six points need a tenth."""

_NUMBER = r"[+-]?[0-9]{1,4}(?:\.[0-9]{0,6})?"
_PAIR = re.compile(rf"\(\s{{0,4}}({_NUMBER})\s{{0,4}},\s{{0,4}}({_NUMBER})\s{{0,4}}\)", re.ASCII)
_BETWEEN = re.compile(r"[\s,;\[\]]*", re.ASCII)
_META = re.compile(r"^\s{0,8}meta action:([^\n.<]{1,60})", re.IGNORECASE | re.MULTILINE | re.ASCII)


@dataclass(frozen=True, kw_only=True)
class ParsedPlan:
    """What was read out of a text: six places, or why there are none."""

    points: tuple[Point, ...] | None
    problem: Problem | None = None


def parse_plan(text: str) -> ParsedPlan:
    """The plan in `text`. Never raises on any text."""
    block = last_answer_block(text)
    if block is None:
        return ParsedPlan(points=None, problem="no_answer_block")
    if len(block) > MAX_BLOCK:
        return ParsedPlan(points=None, problem="no_points")
    found = tuple((float(x), float(y)) for x, y in _PAIR.findall(block))
    if not found or not _BETWEEN.fullmatch(_PAIR.sub(" ", block)):
        return ParsedPlan(points=None, problem="no_points")
    if len(found) != NUM_FUTURE:
        return ParsedPlan(points=None, problem="not_six_points")
    if any(abs(part) > REACH_M for point in found for part in point):
        return ParsedPlan(points=None, problem="not_in_reach")
    return ParsedPlan(points=found)


def parse_meta_action(text: str) -> str | None:
    """The last meta action that is told, in the words of `meta_action`; None where none of them is."""
    for said in reversed(_META.findall(text)):
        told = " ".join(said.upper().split())
        way, _, pace = told.rpartition(", ")
        if told == "STOP" or (way in WAYS and pace in PACES):
            return told
    return None

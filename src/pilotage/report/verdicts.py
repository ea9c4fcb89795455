"""What one answer came to, in one word, and how that word is shown."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pilotage.evaluate.roles import is_planning, role_of
from pilotage.records import WORLD_ENDS
from pilotage.report.folder import Row
from pilotage.report.text import visible
from pilotage.worlds.answers import last_answer_block
from pilotage.worlds.score import DESCRIBE

VERDICTS = {
    "optimal": ("✓", "optimal"),
    "success": ("✓", "arrives, not optimal"),
    "solved": ("✓", "success"),
    "not_reached": ("○", "does not arrive"),
    "illegal": ("✗", "illegal move"),
    "failed": ("✗", "failure"),
    "unparsed": ("?", "no readable answer"),
    "error": ("!", "engine failed"),
    "read": ("✓", "all fields right"),
    "misread": ("✗", "a field is wrong"),
}
"""Class of an answer -> its sign and its name. The order is the filter's. `solved` and `failed` are of worlds that
measure no optimal or no illegal ways; the last two are descriptions."""
GOOD = ("optimal", "success", "solved", "read")


def verdict_class(row: Row) -> str:
    """A key of `VERDICTS`."""
    outcome = row.get("outcome")
    if row.get("error"):
        return "error"
    if outcome is None or not {"optimal", "illegal"} & outcome.keys():
        if role_of(row) not in (DESCRIBE, ""):
            return _class_without_way(row, outcome or {})
        right = row.get("right") or {}
        return "read" if right and all(right.values()) else "misread"
    if not is_planning(row):
        # Of an episode `parsed` is that every turn could be read: one wasted turn makes no failure of a success.
        return _class_of_episode(row, outcome)
    if not outcome["parsed"]:
        return "unparsed"
    if outcome["success"]:
        return _class_of_success(outcome)
    return "illegal" if outcome["illegal"] else "not_reached"


def _class_of_success(outcome: Mapping[str, Any]) -> str:
    """`solved` where nobody knows the best way."""
    return "solved" if "optimal" not in outcome else "optimal" if outcome["optimal"] else "success"


def _class_of_episode(row: Row, outcome: dict[str, Any]) -> str:
    if outcome["success"]:
        return _class_of_success(outcome)
    if outcome.get("illegal"):
        return "illegal"
    return "unparsed" if _unread(row, outcome) else "not_reached"


def _class_without_way(row: Row, outcome: Mapping[str, Any]) -> str:
    if outcome.get("success"):
        return "solved"
    return "unparsed" if _unread(row, outcome) else "failed"


def _unread(row: Row, outcome: Mapping[str, Any]) -> bool:
    """Whether nothing could be read: of an episode, in no turn."""
    turns = row.get("turns") or ()
    return not outcome.get("parsed", True) and not any(
        (last_answer_block(str(turn.get("response", ""))) or "").strip() for turn in turns
    )


def verdict_text(row: Row) -> str:
    """The verdict in a few words: `optimal`, `illegal move: wall`, `no readable answer: empty answer`."""
    name = VERDICTS[verdict_class(row)][1]
    if row.get("error"):
        whose = "world failed" if row.get("end") in WORLD_ENDS else name
        return f"{whose}: {visible(row['error'], 120)}"
    outcome = row.get("outcome")
    if outcome is None or role_of(row) == DESCRIBE:
        right = row.get("right") or {}
        return f"{sum(map(bool, right.values()))} of {len(right)} fields right"
    reason = reason_text(row)
    return name if outcome["success"] or reason == "not reached" else f"{name}: {reason}"


def reason_text(row: Row) -> str:
    """The judge's reason in words, or ""."""
    outcome = row.get("outcome")
    if outcome is None or row.get("error") or role_of(row) == DESCRIBE:
        return ""
    return visible(outcome["reason"], 40).replace("_", " ")

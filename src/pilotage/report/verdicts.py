"""What one answer came to, in one word, and how that word is shown."""

from __future__ import annotations

from pilotage.report.folder import Row
from pilotage.report.text import visible

VERDICTS = {
    "optimal": ("✓", "optimal"),
    "success": ("✓", "arrives, not optimal"),
    "not_reached": ("○", "does not arrive"),
    "illegal": ("✗", "illegal move"),
    "unparsed": ("?", "no readable answer"),
    "error": ("!", "engine failed"),
    "read": ("✓", "all fields right"),
    "misread": ("✗", "a field is wrong"),
}
"""Class of an answer -> its sign and its name. The order is the filter's; the last two are descriptions."""
GOOD = ("optimal", "success", "read")


def verdict_class(row: Row) -> str:
    """A key of `VERDICTS`."""
    verdict = row.get("verdict")
    if row.get("error"):
        return "error"
    if verdict is None:
        right = row.get("right") or {}
        return "read" if right and all(right.values()) else "misread"
    if not verdict["parsed"]:
        return "unparsed"
    if verdict["success"]:
        return "optimal" if verdict["optimal"] else "success"
    return "not_reached" if verdict["legal"] else "illegal"


def verdict_text(row: Row) -> str:
    """The verdict in a few words: `optimal`, `illegal move: wall`, `no readable answer: empty answer`."""
    name = VERDICTS[verdict_class(row)][1]
    if row.get("error"):
        return f"{name}: {visible(row['error'], 120)}"
    verdict = row.get("verdict")
    if verdict is None:
        right = row.get("right") or {}
        return f"{sum(map(bool, right.values()))} of {len(right)} fields right"
    reason = reason_text(row)
    return name if verdict["success"] or reason == "not reached" else f"{name}: {reason}"


def reason_text(row: Row) -> str:
    """The judge's reason in words, or ""."""
    verdict = row.get("verdict")
    return "" if verdict is None or row.get("error") else visible(verdict["reason"], 40).replace("_", " ")


def succeeded(row: Row) -> bool:
    return verdict_class(row) in GOOD

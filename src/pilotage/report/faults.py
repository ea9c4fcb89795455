"""Where an answer went wrong, in seeing or in planning, as a page tells it."""

from __future__ import annotations

from pilotage.errors import PilotageError
from pilotage.evaluate.attribution import Attribution, attribute
from pilotage.evaluate.roles import is_description, is_planning
from pilotage.report.folder import Row

FAULTS = {
    "": "",
    "none": "no failure",
    "misread": "misread",
    "misplanned": "misplanned",
    "both": "misread and misplanned",
    "format": "no readable answer",
    "error": "engine failed",
}
"""Fault of an answer that has a plan -> its name; "" for descriptions and states that are none."""
_DETAILS = {
    "lucky": "lucky: the state was misread",
    "unread": "without reciting the state",
    "no_state": "what was read is no state",
    "no_way": "what was read has no way to the goal",
    "nothing_recited": "nothing was recited",
    "cut_short": "cut at the token limit",
}


def attribution_of(row: Row) -> Attribution | None:
    """Whose fault the answer is; None for a description and for a row whose task or state is none."""
    if (
        not is_planning(row)
        or is_description(row["condition"])
        or (row.get("outcome") is None and not row.get("error"))
    ):
        return None
    try:
        return attribute(row)
    except PilotageError:
        return None


def fault_text(attribution: Attribution) -> str:
    """What to say beside the verdict: only what the verdict does not say already."""
    text = _DETAILS.get(attribution.detail, "")
    if attribution.fault in ("misread", "misplanned", "both"):
        name = FAULTS[attribution.fault]
        return f"{name}: {text}" if text else name
    return text

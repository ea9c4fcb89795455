"""How an agent tells a session what a role answered: the session judges, the agent knows no truth."""

from __future__ import annotations

import json
from dataclasses import dataclass

from pilotage.worlds.household.grammar import ROLES

_KEYS = {"role", "query", "answer"}


@dataclass(frozen=True, kw_only=True)
class Report:
    role: str
    query: str
    """What the role was asked for; `""` for the scheduler."""
    answer: str


def report(role: str, query: str, answer: str) -> str:
    """The text that a session is told."""
    return json.dumps({"role": role, "query": query, "answer": answer})


def read_report(text: str) -> Report | None:
    """The report in a text, or None for a text that is none."""
    if not text.startswith('{"role"'):
        return None
    try:
        content = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(content, dict) or set(content) != _KEYS:
        return None
    if not all(isinstance(value, str) for value in content.values()) or content["role"] not in ROLES:
        return None
    return Report(**content)

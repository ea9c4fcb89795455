"""The rows of an evaluation: what one holds, what it was made with, which need not be asked again."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pilotage.errors import PilotageError
from pilotage.evaluate.jsonl import read_jsonl, write_jsonl
from pilotage.records import Episode, Turn
from pilotage.rollouts.stream import ASKED_AGAIN
from pilotage.views.prompts import PromptSet

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What a row was made with. Rows of one file share it: an interval over a mixture would mean nothing."""

    model: str
    prompts: PromptSet
    max_new_tokens: int
    temperature: float
    top_p: float
    seed: int
    strict_edges: bool
    endpoint: Mapping[str, Any] | None = None
    """Where the model was asked and with which additions to the request, for a model behind an endpoint."""
    agent: str | None = None
    """Name of the agent that played; None is the world's own."""

    def as_dict(self) -> dict[str, Any]:
        """What rows hold. Without an endpoint or agent there is no such key: files from before there were any go on."""
        later = ("endpoint", "agent")
        return {name: value for name, value in asdict(self).items() if name not in later or value is not None}


def row_key(row: Mapping[str, Any]) -> tuple[str, int]:
    """What a row is found by within its file: example and sample. Rows without `sample` are the first."""
    return row["id"], row.get("sample", 0)


def kept_rows(path: Path, settings: Settings) -> tuple[dict[tuple[str, int], dict[str, Any]], int]:
    """Rows of the file that need not be asked again, by key, and the number of lines that are left out."""
    if not path.exists():
        return {}, 0
    file = read_jsonl(path)
    kept: dict[tuple[str, int], dict[str, Any]] = {}
    for row in file.rows:
        if row.get("settings") != settings.as_dict():
            raise PilotageError(
                f"{path} holds rows made with {row.get('settings')}, not with {settings.as_dict()}; "
                "evaluate into another folder or stage, or remove the file"
            )
        if not (row.get("error") and row.get("error_kind") in ASKED_AGAIN):
            kept.setdefault(row_key(row), row)
    return kept, len(file.rows) - len(kept) + len(file.problems)


def resume(path: Path, settings: Settings) -> dict[tuple[str, int], dict[str, Any]]:
    """Rows that need not be asked again. Leaves `path` holding exactly these."""
    kept, num_again = kept_rows(path, settings)
    write_jsonl(path, kept.values())
    if num_again:
        logger.info("%s: %d rows kept, %d failed or cut short and asked again", path, len(kept), num_again)
    return kept


def make_row(episode: Episode, condition: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """The row of an episode, made with `settings` (`Settings.as_dict`).

    One of several turns has them all in `turns`; what stands beside is its last turn's.
    """
    example, outcome = episode.example, episode.outcome
    turns = [_turn(turn) for turn in episode.turns]
    last = turns[-1] if turns else _NO_TURN
    asked = {"text": example.start.text, **example.data, **example.hidden}
    return {
        "id": example.id,
        "sample": episode.sample,
        "condition": condition,
        "world": example.world,
        "task": example.task,
        "level": example.level,
        "split": example.split,
        "axes": dict(example.axes),
        "difficulty": example.difficulty,
        "state": dict(example.state),
        "optimal_length": example.optimal_length,
        **({"asked": asked} if any(asked.values()) else {}),
        **{name: last[name] for name in ("role", "view", "messages", "response")},
        "num_tokens": sum(turn["num_tokens"] for turn in turns),
        "finished": bool(turns) and all(turn["finished"] for turn in turns),
        "outcome": None if outcome is None else outcome.as_dict(),
        "fields": {} if outcome is None else dict(outcome.fields),
        "right": {} if outcome is None else dict(outcome.right),
        "end": episode.end,
        "num_turns": len(turns),
        **({"turns": turns} if len(turns) > 1 else {}),
        "error": episode.error,
        "error_kind": episode.error_kind,
        **({"num_tries": episode.num_tries} if episode.num_tries > 1 else {}),
        **(_notes(episode.turns) if turns else {}),
        "seconds": round(sum(turn.notes.get("seconds", 0.0) for turn in episode.turns), 4),
        "settings": settings,
    }


_NO_TURN: Mapping[str, Any] = {"role": "", "view": "", "messages": [], "response": ""}
"""Of an episode that its world broke off before anything was asked."""


def _turn(turn: Turn) -> dict[str, Any]:
    """What a row holds of a turn: what was seen, shown and said."""
    rollout = turn.rollout
    state = None if turn.seen.privileged is None else turn.seen.privileged.state
    return {
        "role": turn.role,
        "view": turn.view.name,
        "messages": [dict(message) for message in turn.view.messages],
        "num_images": len(turn.view.images),
        "state": None if state is None else dict(state),
        "response": "" if rollout is None else turn.text,
        "num_tokens": turn.notes.get("num_tokens", 0 if rollout is None else len(rollout.token_ids)),
        "finished": rollout is not None and rollout.finished,
        "reward": turn.reward,
    }


def _notes(turns: Sequence[Turn]) -> dict[str, Any]:
    """What the engine noted: of one turn as it is, of several the sums of what can be summed."""
    notes: dict[str, Any] = {}
    for turn in turns:
        for name, value in turn.notes.items():
            is_count = isinstance(value, int | float) and not isinstance(value, bool)
            notes[name] = value + notes[name] if is_count and name in notes else value
    return {name: value for name, value in notes.items() if name != "seconds"}

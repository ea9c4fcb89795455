"""The rows of an evaluation: what one holds, what it was made with, which need not be asked again."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pilotage.errors import PilotageError
from pilotage.evaluate.jsonl import read_jsonl, write_jsonl
from pilotage.evaluate.score import score
from pilotage.records import Example, Prompted, Question, View
from pilotage.rollouts.stream import ASKED_AGAIN, Answer
from pilotage.views.prompts import PromptSet
from pilotage.worlds import get_task
from pilotage.worlds.questions.grading import grade

QUESTION_KIND = "question"

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

    def as_dict(self) -> dict[str, Any]:
        """What rows hold. Without an endpoint there is no such key: files from before there were any go on."""
        settings = asdict(self)
        return (
            settings if self.endpoint is not None else {k: v for k, v in settings.items() if k != "endpoint"}
        )


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


def make_row(
    example: Prompted, sample: int, kind: str, view: View, answer: Answer, settings: Settings
) -> dict[str, Any]:
    rollout = answer.rollout
    response = "" if rollout is None else view.prefill + rollout.text
    # What there is of a failed answer is kept to be looked at, and not scored.
    judged = "" if answer.error else response
    return {
        "id": example.id,
        "sample": sample,
        "kind": kind,
        "task": example.task,
        "level": example.level,
        "split": example.split,
        "view": view.name,
        "messages": [dict(message) for message in view.messages],
        "response": response,
        "num_tokens": 0 if rollout is None else len(rollout.token_ids),
        "finished": rollout is not None and rollout.finished,
        **(
            _graded(example, judged)
            if isinstance(example, Question)
            else _scored(example, view, judged, settings, failed=bool(answer.error))
        ),
        "error": answer.error,
        "error_kind": answer.error_kind,
        "seconds": round(answer.seconds, 4),
        **answer.notes,
        "settings": settings.as_dict(),
    }


def _scored(example: Example, view: View, judged: str, settings: Settings, *, failed: bool) -> dict[str, Any]:
    """What a row holds of a level and of the judge's verdict."""
    task = get_task(example.task)
    scored = score(
        task, task.parse_state(example.state), view.name, judged, strict_edges=settings.strict_edges
    )
    return {
        "difficulty": example.difficulty,
        "state": dict(example.state),
        "optimal_length": example.optimal_length,
        "verdict": None if failed or scored.verdict is None else scored.verdict.as_dict(),
        "fields": dict(scored.fields),
        "right": dict(scored.right),
    }


def _graded(question: Question, judged: str) -> dict[str, Any]:
    """What a row holds of a question and of its grade; `right` says whether the answer is, as for perception."""
    graded = grade(question, judged)
    return {
        "state": {} if question.state is None else dict(question.state),
        "asked": question.kind,
        "question": question.question,
        "options": list(question.options),
        "answer": question.answer,
        "grade": asdict(graded),
        "verdict": None,
        "fields": {"answer": graded.read} if graded.parsed else {},
        "right": {"answer": graded.success},
    }

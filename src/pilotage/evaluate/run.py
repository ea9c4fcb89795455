"""Asks a model for an answer to every example and kind, and keeps every prompt, answer and verdict.

Killed at any moment and run again, it goes on: rows that are there are kept, a half-written one is cut off,
rows that the engine failed on are asked again, and no row is ever there twice.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pilotage.errors import PilotageError
from pilotage.evaluate.jsonl import append_jsonl, read_jsonl, write_jsonl
from pilotage.evaluate.score import score
from pilotage.evaluate.summary import Summary, summarise
from pilotage.records import Example, Rollout, View
from pilotage.tasks import get_task
from pilotage.views import VIEWS
from pilotage.views.prompts import PromptSet

if TYPE_CHECKING:
    from pilotage.rollouts import RolloutEngine

logger = logging.getLogger(__name__)

KIND_VIEWS = {
    "image": "student",
    "text": "symbolic",
    "corrected": "student_with_state",
    "perception": "perception",
    "description": "description",
    "teacher": "teacher",
    "teacher_no_plan": "teacher_no_plan",
}
"""What is measured -> the view that the model is shown for it. `image` and `text` make the modality gap;
`corrected` is the image with its state told: what planning alone would reach."""
KINDS = ("image", "text", "perception")
EVAL_FOLDER = "eval"


@dataclass(frozen=True, kw_only=True)
class Progress:
    """What a progress callback is told after each batch."""

    kind: str
    num_done: int
    """Rows of this kind that are there, kept ones included."""
    num_total: int
    rows: Sequence[dict[str, Any]]
    """The rows just written; before the first batch of a kind: those kept from an earlier run."""


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


def rows_path(run_dir: Path, stage: str, kind: str) -> Path:
    """`eval/<stage>.<kind>.jsonl` of a run folder."""
    if not stage or "." in stage or "/" in stage:
        raise PilotageError(f"stage {stage!r} cannot name a file: use letters and digits, as in stage1")
    return run_dir / EVAL_FOLDER / f"{stage}.{kind}.jsonl"


def evaluate(
    engine: RolloutEngine,
    examples: Sequence[Example],
    *,
    stage: str,
    prompts: PromptSet,
    max_new_tokens: int,
    out: Path,
    model: str = "",
    kinds: Sequence[str] = KINDS,
    temperature: float = 0.0,
    top_p: float = 1.0,
    seed: int = 0,
    batch_size: int = 64,
    strict_edges: bool = False,
    progress: Callable[[Progress], None] | None = None,
) -> Summary:
    """Writes `eval/<stage>.<kind>.jsonl` in the run folder `out` and returns the rates over `examples`.

    Greedy unless `temperature` (> 0) says otherwise. `model` names the weights, so that a resumed file is
    never continued by another model. An engine's failure on a row becomes a row with `error`, which counts
    as a failure and is asked again next time.
    """
    _check(examples, kinds)
    if max_new_tokens < 1 or batch_size < 1 or temperature < 0 or not 0 < top_p <= 1:
        raise PilotageError(
            f"cannot decode with max_new_tokens {max_new_tokens}, batch_size {batch_size}, temperature "
            f"{temperature}, top_p {top_p}: the first two are at least 1, temperature at least 0, top_p in (0, 1]"
        )
    settings = Settings(
        model=model,
        prompts=prompts,
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        top_p=top_p,
        seed=seed,
        strict_edges=strict_edges,
    )
    # Pictures of one size and plans of one length batch best; the order of rows in the file means nothing.
    ordered = sorted(examples, key=lambda example: (example.task, example.level))
    wanted = {example.id for example in ordered}
    measured: list[dict[str, Any]] = []
    for kind in kinds:
        path = rows_path(out, stage, kind)
        kept = [row for row in _resume(path, settings) if row["id"] in wanted]
        done = {row["id"] for row in kept}
        measured.extend(kept)
        if progress is not None:
            progress(Progress(kind=kind, num_done=len(done), num_total=len(ordered), rows=kept))
        missing = [example for example in ordered if example.id not in done]
        num_done = len(done)
        for start in range(0, len(missing), batch_size):
            rows = _answer(engine, missing[start : start + batch_size], kind, settings)
            append_jsonl(path, rows)
            measured.extend(rows)
            num_done += len(rows)
            if progress is not None:
                progress(Progress(kind=kind, num_done=num_done, num_total=len(ordered), rows=rows))
    return summarise(measured)


def _check(examples: Sequence[Example], kinds: Sequence[str]) -> None:
    if not examples:
        raise PilotageError("no examples to evaluate on")
    unknown = [kind for kind in kinds if kind not in KIND_VIEWS]
    if unknown:
        raise PilotageError(f"unknown kinds {unknown}; there are {', '.join(KIND_VIEWS)}")
    ids = [example.id for example in examples]
    if len(set(ids)) < len(ids):
        twice = next(id_ for id_ in ids if ids.count(id_) > 1)
        raise PilotageError(f"example {twice} is there more than once; evaluate each state once")


def _resume(path: Path, settings: Settings) -> list[dict[str, Any]]:
    """Rows that need not be asked again. Leaves `path` holding exactly these."""
    if not path.exists():
        write_jsonl(path, [])
        return []
    file = read_jsonl(path)
    kept: dict[str, dict[str, Any]] = {}
    for row in file.rows:
        if row.get("settings") != asdict(settings):
            raise PilotageError(
                f"{path} holds rows made with {row.get('settings')}, not with {asdict(settings)}; "
                "evaluate into another folder or stage, or remove the file"
            )
        if not row.get("error"):
            kept.setdefault(row["id"], row)
    write_jsonl(path, kept.values())
    num_again = len(file.rows) - len(kept) + len(file.problems)
    if num_again:
        logger.info("%s: %d rows kept, %d failed or cut short and asked again", path, len(kept), num_again)
    return list(kept.values())


def _answer(
    engine: RolloutEngine, batch: Sequence[Example], kind: str, settings: Settings
) -> list[dict[str, Any]]:
    """One row for every example of the batch, in order."""
    views = [VIEWS[KIND_VIEWS[kind]](example, settings.prompts) for example in batch]
    rows = []
    for example, view, rollout, error, seconds in _generate(engine, batch, views, settings):
        rows.append(_row(example, view, kind, rollout, error, seconds, settings))
    return rows


Answered = tuple[Example, View, Rollout | None, str | None, float]


def _generate(
    engine: RolloutEngine, batch: Sequence[Example], views: Sequence[View], settings: Settings
) -> Iterator[Answered]:
    """Answers of a batch; where the batch fails, row by row, so that one bad row costs only itself."""
    began_s = time.monotonic()
    try:
        rollouts = engine.generate(
            views,
            example_ids=[example.id for example in batch],
            max_new_tokens=settings.max_new_tokens,
            temperature=settings.temperature,
            top_p=settings.top_p,
            seed=settings.seed,
        )
    except Exception as failure:  # noqa: BLE001 - a server or a device at the other side: record and go on
        if len(batch) > 1:
            logger.warning("a batch of %d rows failed (%s); asking row by row", len(batch), failure)
            for example, view in zip(batch, views, strict=True):
                yield from _generate(engine, [example], [view], settings)
            return
        error = f"{type(failure).__name__}: {failure}"
        logger.error("example %s got no answer: %s", batch[0].id, error)
        yield batch[0], views[0], None, error, time.monotonic() - began_s
        return
    assert len(rollouts) == len(batch), "an engine answers every view once, in order"
    seconds = (time.monotonic() - began_s) / len(batch)
    for example, view, rollout in zip(batch, views, rollouts, strict=True):
        assert rollout.example_id == example.id, "an engine answers in order"
        yield example, view, rollout, None, seconds


def _row(
    example: Example,
    view: View,
    kind: str,
    rollout: Rollout | None,
    error: str | None,
    seconds: float,
    settings: Settings,
) -> dict[str, Any]:
    task = get_task(example.task)
    response = "" if rollout is None else view.prefill + rollout.text
    state = task.parse_state(example.state)
    scored = score(task, state, view.name, response, strict_edges=settings.strict_edges)
    return {
        "id": example.id,
        "kind": kind,
        "task": example.task,
        "level": example.level,
        "difficulty": example.difficulty,
        "split": example.split,
        "state": dict(example.state),
        "optimal_length": example.optimal_length,
        "view": view.name,
        "messages": [dict(message) for message in view.messages],
        "response": response,
        "num_tokens": 0 if rollout is None else len(rollout.token_ids),
        "finished": rollout is not None and rollout.finished,
        "verdict": None if error or scored.verdict is None else scored.verdict.as_dict(),
        "fields": dict(scored.fields),
        "right": dict(scored.right),
        "error": error,
        "seconds": round(seconds, 4),
        "settings": asdict(settings),
    }

"""Asks a model for an answer to every example and kind, and keeps every prompt, answer and verdict.

Every row is written when its answer is there. Killed at any moment and run again, it goes on: rows that are
there are kept, a half-written one is cut off, and no row is ever there twice. A row whose failure says nothing
about the model (the connection broke, the engine raised) is asked again; one that the server refused, or
answered with nothing, is an answer and stays the failure that it is.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pilotage.errors import PilotageError, meant
from pilotage.evaluate.jsonl import append_jsonl
from pilotage.evaluate.rows import QUESTION_KIND, Settings, kept_rows, make_row, resume
from pilotage.evaluate.summary import Summary, summarise
from pilotage.files import locked
from pilotage.records import Prompted, Question, View
from pilotage.rollouts import Answer, Decoding, Engine, Request, StreamingEngine, answers
from pilotage.views import make_view
from pilotage.views.prompts import PromptSet
from pilotage.worlds.questions.math_compare import require_math

KIND_VIEWS = {
    "image": "student",
    "text": "symbolic",
    "corrected": "student_with_state",
    "perception": "perception",
    "description": "description",
    "teacher": "teacher",
    "teacher_no_plan": "teacher_no_plan",
    "teacher_with_picture": "student_with_plan",
    QUESTION_KIND: "vqa_student",
}
"""What is measured -> the view that the model is shown for it. `image` and `text` make the modality gap;
`corrected` is the image with its state told: what planning alone would reach; `question` is for questions alone."""
KINDS = ("image", "text", "perception")
EVAL_FOLDER = "eval"


@dataclass(frozen=True, kw_only=True)
class Progress:
    """What a progress callback is told when a kind begins and after each row."""

    kind: str
    num_done: int
    """Rows of this kind that are there, kept ones included."""
    num_total: int
    rows: Sequence[dict[str, Any]]
    """The row just written; when a kind begins: those kept from an earlier run."""
    num_failed: int = 0
    """Rows of this kind with an error, among those that are there."""


@dataclass(frozen=True, kw_only=True)
class _Question:
    """An example's `sample`-th answer is to be asked for."""

    example: Prompted
    sample: int

    @property
    def key(self) -> tuple[str, int]:
        return self.example.id, self.sample


def rows_path(run_dir: Path, stage: str, kind: str) -> Path:
    """`eval/<stage>.<kind>.jsonl` of a run folder."""
    if not stage or "." in stage or "/" in stage:
        raise PilotageError(f"stage {stage!r} cannot name a file: use letters and digits, as in stage1")
    return run_dir / EVAL_FOLDER / f"{stage}.{kind}.jsonl"


def evaluate(
    engine: Engine | StreamingEngine,
    examples: Sequence[Prompted],
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
    samples: int = 1,
    batch_size: int = 64,
    strict_edges: bool = False,
    endpoint: Mapping[str, Any] | None = None,
    before_work: Callable[[View], None] | None = None,
    progress: Callable[[Progress], None] | None = None,
) -> Summary:
    """Writes `eval/<stage>.<kind>.jsonl` in the run folder `out` and returns the rates over `examples`.

    Examples are levels, or questions about pictures, whose one kind is `question`.

    Greedy unless `temperature` (> 0) says otherwise; with one, `samples` answers are taken to each example, and
    a later call with more of them adds the rest. `model` names the weights, so that a resumed file is never
    continued by another model. A failure on a row becomes a row with `error` and `error_kind`, which counts as
    a failure everywhere. `before_work` is called with the first view of those to be asked before a file is
    touched; when nothing is to be asked, it is not called, and nothing is written.
    """
    _check(examples, kinds)
    if batch_size < 1 or samples < 1:
        raise PilotageError(f"batch_size {batch_size} and samples {samples} must be at least 1")
    Decoding(
        max_new_tokens=max_new_tokens, temperature=temperature, top_p=top_p
    )  # says what is wrong with them
    if samples > 1 and temperature == 0:
        raise PilotageError(
            f"{samples} samples at temperature 0 would be the same answer {samples} times: give a temperature"
        )
    settings = Settings(
        model=model,
        prompts=prompts,
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        top_p=top_p,
        seed=seed,
        strict_edges=strict_edges,
        endpoint=endpoint,
    )
    # Pictures of one size and plans of one length batch best, and a batch has one seed; the order of rows in
    # the file means nothing.
    ordered = sorted(examples, key=lambda example: (example.task, example.level))
    questions = [
        _Question(example=example, sample=sample) for sample in range(samples) for example in ordered
    ]
    paths = {kind: rows_path(out, stage, kind) for kind in kinds}
    known = {kind: kept_rows(path, settings) for kind, path in paths.items()}
    missing = {kind: _missing(questions, kept) for kind, (kept, _) in known.items()}
    if before_work is not None and (first := _first_view(missing, settings)) is not None:
        before_work(first)
    measured: list[dict[str, Any]] = []
    folder = out / EVAL_FOLDER
    busy = f"another evaluation is writing to {folder}: wait for it or give another folder (--out)"
    # What is complete and clean is only read: it may lie where nothing can be written.
    is_complete = not any(missing.values()) and not any(num_again for _, num_again in known.values())
    with nullcontext() if is_complete else locked(folder / ".lock", busy=busy):
        for kind, path in paths.items():
            kept = known[kind][0] if is_complete else resume(path, settings)
            for row in _measure(engine, questions, kind, path, kept, settings, batch_size, progress):
                measured.append(row)
    return summarise(measured)


def _check(examples: Sequence[Prompted], kinds: Sequence[str]) -> None:
    if not examples:
        raise PilotageError("no examples to evaluate on")
    unknown = [kind for kind in kinds if kind not in KIND_VIEWS]
    if unknown:
        raise PilotageError(
            f"unknown kinds {unknown}; there are {', '.join(KIND_VIEWS)}{meant(unknown[0], KIND_VIEWS)}"
        )
    for example in examples:
        is_question = isinstance(example, Question)
        if is_question != (set(kinds) == {QUESTION_KIND}):
            raise PilotageError(
                f"{example.id} is a {'question' if is_question else 'level'}, and what is measured is "
                f"{', '.join(kinds)}: questions are measured by {QUESTION_KIND!r} alone, and levels by the others"
            )
        if is_question and example.state is None and not example.options:
            require_math()
    ids = [example.id for example in examples]
    if len(set(ids)) < len(ids):
        twice = next(id_ for id_ in ids if ids.count(id_) > 1)
        raise PilotageError(f"example {twice} is there more than once; evaluate each state once")


def _view(question: _Question, kind: str, settings: Settings) -> View:
    return make_view(KIND_VIEWS[kind], question.example, settings.prompts)


def _missing(questions: Sequence[_Question], kept: Container[tuple[str, int]]) -> list[_Question]:
    return [question for question in questions if question.key not in kept]


def _first_view(missing: Mapping[str, Sequence[_Question]], settings: Settings) -> View | None:
    """One of the views that are to be asked, one with a picture if there is any."""
    views = [_view(questions[0], kind, settings) for kind, questions in missing.items() if questions]
    return next((view for view in views if view.images), views[0] if views else None)


def _measure(
    engine: Engine | StreamingEngine,
    questions: Sequence[_Question],
    kind: str,
    path: Path,
    known: Mapping[tuple[str, int], dict[str, Any]],
    settings: Settings,
    batch_size: int,
    progress: Callable[[Progress], None] | None,
) -> Iterator[dict[str, Any]]:
    """The rows of one kind, known ones first, each of the others once it is written."""
    wanted = {question.key for question in questions}
    kept = [row for key, row in known.items() if key in wanted]
    num_done, num_failed = 0, 0

    def count(rows: Sequence[dict[str, Any]]) -> None:
        nonlocal num_done, num_failed
        num_done += len(rows)
        num_failed += sum(bool(row.get("error")) for row in rows)
        if progress is not None:
            progress(
                Progress(
                    kind=kind, num_done=num_done, num_total=len(questions), num_failed=num_failed, rows=rows
                )
            )

    count(kept)
    yield from kept
    for question, view, answer in _ask(engine, _missing(questions, known), kind, settings, batch_size):
        row = make_row(question.example, question.sample, kind, view, answer, settings)
        append_jsonl(path, [row])
        count([row])
        yield row


def _ask(
    engine: Engine | StreamingEngine,
    questions: Sequence[_Question],
    kind: str,
    settings: Settings,
    batch_size: int,
) -> Iterator[tuple[_Question, View, Answer]]:
    views: dict[str, View] = {}
    for question in questions:
        if question.example.id not in views:
            views[question.example.id] = _view(question, kind, settings)
    requests = [
        Request(
            view=views[question.example.id],
            example_id=question.example.id,
            seed=sample_seed(settings.seed, question.sample),
        )
        for question in questions
    ]
    decoding = Decoding(
        max_new_tokens=settings.max_new_tokens, temperature=settings.temperature, top_p=settings.top_p
    )
    for answer in answers(engine, requests, decoding, batch_size=batch_size):
        yield questions[answer.index], requests[answer.index].view, answer


def sample_seed(seed: int, sample: int) -> int:
    """The seed of an example's `sample`-th answer; the first has the run's own.

    Not `seed + sample`: the second answer of seed 0 would be the first of seed 1.
    """
    return seed if sample == 0 else zlib.crc32(f"{seed} {sample}".encode())

"""Asks a model for an answer to every example and condition, and keeps every prompt, answer and verdict.

Every row is written when its answer is there. Killed at any moment and run again, it goes on: rows that are
there are kept, a half-written one is cut off, and no row is ever there twice. A row whose failure says nothing
about the model (the connection broke, the engine raised) is asked again; one that the server refused, or
answered with nothing, is an answer and stays the failure that it is.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pilotage.errors import PilotageError, meant
from pilotage.evaluate.jsonl import append_jsonl
from pilotage.evaluate.rows import Settings, kept_rows, make_row, resume
from pilotage.evaluate.summary import Summary, summarise
from pilotage.files import locked
from pilotage.records import Condition, Episode, Example, Moment, View
from pilotage.rollouts import Decoding, Engine, StreamingEngine
from pilotage.rollouts.play import Limits, Open, Start, Writer, open_in_process, play
from pilotage.rollouts.sessions import SessionSettings, SessionsHere
from pilotage.views import make_view
from pilotage.views.prompts import PromptSet
from pilotage.worlds.agents import agent_of
from pilotage.worlds.planning import USUAL
from pilotage.worlds.registry import get_world
from pilotage.worlds.world import condition_of

USUAL_CONDITIONS = USUAL
EVAL_FOLDER = "eval"


@dataclass(frozen=True, kw_only=True)
class Progress:
    """What a progress callback is told when a condition begins and after each row."""

    condition: str
    num_done: int
    """Rows of this condition that are there, kept ones included."""
    num_total: int
    rows: Sequence[dict[str, Any]]
    """The row just written; when a condition begins: those kept from an earlier run."""
    num_failed: int = 0
    """Rows of this condition with an error, among those that are there."""


@dataclass(frozen=True, kw_only=True)
class _Wanted:
    """An example's `sample`-th episode is to be played."""

    example: Example
    sample: int

    @property
    def key(self) -> tuple[str, int]:
        return self.example.id, self.sample


def rows_path(run_dir: Path, stage: str, condition: str) -> Path:
    """`eval/<stage>.<condition>.jsonl` of a run folder."""
    if not stage or "." in stage or "/" in stage:
        raise PilotageError(f"stage {stage!r} cannot name a file: use letters and digits, as in stage1")
    return run_dir / EVAL_FOLDER / f"{stage}.{condition}.jsonl"


def evaluate(
    engine: Engine | StreamingEngine,
    examples: Sequence[Example],
    *,
    stage: str,
    prompts: PromptSet,
    max_new_tokens: int,
    out: Path,
    model: str = "",
    conditions: Sequence[str] = USUAL_CONDITIONS,
    temperature: float = 0.0,
    top_p: float = 1.0,
    seed: int = 0,
    samples: int = 1,
    batch_size: int = 64,
    strict_edges: bool = False,
    agent: str | None = None,
    endpoint: Mapping[str, Any] | None = None,
    limits: Limits | None = None,
    sessions: SessionSettings | None = None,
    before_work: Callable[[View], None] | None = None,
    progress: Callable[[Progress], None] | None = None,
) -> Summary:
    """Writes `eval/<stage>.<condition>.jsonl` in the run folder `out` and returns the rates over `examples`.

    Examples are of any worlds that have these conditions. Episodes of several turns are cut off by
    `limits`; `sessions` says where their sessions are, if not in this process. `agent` names one of the agents that
    their worlds offer (`agents_of`); None is each world's own.

    Greedy unless `temperature` (> 0) says otherwise; with one, `samples` answers are taken to each example, and
    a later call with more of them adds the rest. `model` names the weights, so that a resumed file is never
    continued by another model. A failure on a row becomes a row with `error` and `error_kind`, which counts as
    a failure everywhere. `before_work` is called with the first view of those to be asked before a file is
    touched; when nothing is to be asked, it is not called, and nothing is written.
    """
    _check(examples, conditions)
    check_agent(examples, agent)
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
        agent=agent,
    )
    # Pictures of one size and plans of one length batch best, and a batch has one seed; the order of rows in
    # the file means nothing.
    ordered = sorted(examples, key=lambda example: (example.task, example.level))
    questions = [_Wanted(example=example, sample=sample) for sample in range(samples) for example in ordered]
    paths = {condition: rows_path(out, stage, condition) for condition in conditions}
    known = {condition: kept_rows(path, settings) for condition, path in paths.items()}
    missing = {condition: _missing(questions, kept) for condition, (kept, _) in known.items()}
    if (first := _first_view(missing, settings)) is not None:
        _refuse_pictures(engine, first, conditions)
        if before_work is not None:
            before_work(first)
    measured: list[dict[str, Any]] = []
    folder = out / EVAL_FOLDER
    busy = f"another evaluation is writing to {folder}: wait for it or give another folder (--out)"
    # What is complete and clean is only read: it may lie where nothing can be written.
    is_complete = not any(missing.values()) and not any(num_again for _, num_again in known.values())
    with (
        nullcontext() if is_complete else locked(folder / ".lock", busy=busy),
        (sessions or SessionsHere()).opened(strict=strict_edges) as open_session,
    ):
        for condition, path in paths.items():
            kept = known[condition][0] if is_complete else resume(path, settings)
            for row in _measure(
                engine, questions, condition, path, kept, settings, batch_size, limits, open_session, progress
            ):
                measured.append(row)
    return summarise(measured)


def episodes_of(
    engine: Engine | StreamingEngine,
    examples: Sequence[Example],
    *,
    decoding: Decoding,
    prompts: PromptSet,
    view: str | None = None,
    batch_size: int = 64,
    open_session: Open = open_in_process,
) -> list[Episode]:
    """One episode of each example, in their order: what validation and probes are made of.

    Each is played in its world's first condition; `view` is shown in place of the condition's.
    """

    def first(example: Example) -> Condition:
        return get_world(example.world).conditions[0]

    def show(moment: Moment) -> View:
        return make_view(view or first(moment.example).views[moment.role], moment, prompts)

    starts = [Start(example=example, role=first(example).role) for example in examples]
    writer = Writer(engine=engine, decoding=decoding, batch_size=batch_size, raises=True)
    played = play(starts, writer=writer, show=show, open_session=open_session)
    by_id = {id(episode.example): episode for episode in played}
    return [by_id[id(example)] for example in examples]


def has_won(episode: Episode) -> bool:
    """Whether it succeeded; one that broke off has not."""
    return episode.outcome is not None and episode.outcome.success


def success_by_task(found: Iterable[tuple[str, bool]]) -> dict[str, float]:
    """Task -> share of its episodes that succeeded, of each episode's task and whether it did."""
    by_task: dict[str, list[bool]] = {}
    for task, won in found:
        by_task.setdefault(task, []).append(won)
    return {task: sum(won) / len(won) for task, won in by_task.items()}


def conditions_of(examples: Sequence[Example], names: Sequence[str]) -> dict[tuple[str, str], Condition]:
    """(world, name) -> its condition. Raises PilotageError for a name that one of the examples' worlds has not."""
    found: dict[tuple[str, str], Condition] = {}
    for world in (get_world(each) for each in dict.fromkeys(example.world for example in examples)):
        known = [condition.name for condition in world.conditions]
        for name in names:
            condition = condition_of(world, name)
            if condition is None:
                raise PilotageError(
                    f"unknown condition {name!r}: {world.title} is measured by {', '.join(known)}{meant(name, known)}"
                )
            found[world.name, name] = condition
    return found


def check_agent(examples: Sequence[Example], name: str | None) -> None:
    """Raises PilotageError where one of the examples' worlds has no agent of this name."""
    if name is not None:
        for world in dict.fromkeys(example.world for example in examples):
            agent_of(get_world(world), name)


def _check(examples: Sequence[Example], conditions: Sequence[str]) -> None:
    if not examples:
        raise PilotageError("no examples to evaluate on")
    conditions_of(examples, conditions)
    for name in dict.fromkeys(example.world for example in examples):
        # What a world needs besides, e.g. an extra for its judge, is asked ahead of long work.
        check = getattr(get_world(name), "check", None)
        if check is not None:
            check([example for example in examples if example.world == name])
    ids = [example.id for example in examples]
    if len(set(ids)) < len(ids):
        twice = next(id_ for id_ in ids if ids.count(id_) > 1)
        raise PilotageError(f"example {twice} is there more than once; evaluate each state once")


def _missing(questions: Sequence[_Wanted], kept: Container[tuple[str, int]]) -> list[_Wanted]:
    return [question for question in questions if question.key not in kept]


def _first_view(missing: Mapping[str, Sequence[_Wanted]], settings: Settings) -> View | None:
    """One of the views that are to be asked, one with a picture if there is any."""
    views = []
    for name, wanted in missing.items():
        if wanted:
            example = wanted[0].example
            condition = conditions_of([example], [name])[example.world, name]
            moment = Moment(example=example, role=condition.role, seen=example.start)
            views.append(make_view(condition.views[condition.role], moment, settings.prompts))
    return next((view for view in views if view.images), views[0] if views else None)


def _refuse_pictures(engine: Engine | StreamingEngine, view: View, conditions: Sequence[str]) -> None:
    """Raises PilotageError where the engine's model reads text only: every row would be a failure of its own."""
    backbone = getattr(engine, "backbone", None)
    if view.images and backbone is not None and not backbone.supports_images:
        raise PilotageError(
            f"{backbone.name} reads text only, and {', '.join(conditions)} show it a picture (view {view.name!r}): "
            "measure it by conditions of words alone, as in --conditions text"
        )


def _measure(
    engine: Engine | StreamingEngine,
    questions: Sequence[_Wanted],
    condition: str,
    path: Path,
    known: Mapping[tuple[str, int], dict[str, Any]],
    settings: Settings,
    batch_size: int,
    limits: Limits | None,
    open_session: Open,
    progress: Callable[[Progress], None] | None,
) -> Iterator[dict[str, Any]]:
    """The rows of one condition, known ones first, each of the others once it is written."""
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
                    condition=condition,
                    num_done=num_done,
                    num_total=len(questions),
                    num_failed=num_failed,
                    rows=rows,
                )
            )

    count(kept)
    yield from kept
    missing = _missing(questions, known)
    conditions = conditions_of([question.example for question in missing], [condition])

    def show(moment: Moment) -> View:
        views = conditions[moment.example.world, condition].views
        if moment.role not in views:
            raise PilotageError(
                f"{moment.example.world}: {condition} has no view for the role {moment.role!r}"
            )
        return make_view(views[moment.role], moment, settings.prompts)

    decoding = Decoding(
        max_new_tokens=settings.max_new_tokens, temperature=settings.temperature, top_p=settings.top_p
    )
    worlds = [get_world(name) for name in dict.fromkeys(question.example.world for question in missing)]
    named = {
        name: temperature
        for world in worlds
        for name, temperature in getattr(world, "temperatures", {}).items()
    }
    writer = Writer(
        engine=engine,
        decoding=decoding,
        batch_size=batch_size,
        decodings={name: replace(decoding, temperature=temperature) for name, temperature in named.items()},
    )
    starts = [
        Start(
            example=question.example,
            sample=question.sample,
            seed=sample_seed(settings.seed, question.sample),
            role=conditions[question.example.world, condition].role,
        )
        for question in missing
    ]
    made_with = settings.as_dict()
    for episode in play(
        starts, writer=writer, show=show, agent=settings.agent, limits=limits, open_session=open_session
    ):
        row = make_row(episode, condition, made_with)
        append_jsonl(path, [row])
        count([row])
        yield row


def sample_seed(seed: int, sample: int) -> int:
    """The seed of an example's `sample`-th answer; the first has the run's own.

    Not `seed + sample`: the second answer of seed 0 would be the first of seed 1.
    """
    return seed if sample == 0 else zlib.crc32(f"{seed} {sample}".encode())

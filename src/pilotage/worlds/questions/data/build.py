"""Questions about states of our own tasks, of any number: the same arguments give the same questions.

The states of a (task, level) are those of `pilotage.data.sampling`, difficulties in turn; a state's hash decides its
split, so no question's picture is in two splits, nor in another split of a data set of ours. Kinds of questions come in
turn, and the answers `yes` and `no` of the `safe` ones alternate.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

import numpy as np

from pilotage.data.build import SetConfig
from pilotage.data.examples import key_of, split_of
from pilotage.data.exclude import load_exclusions
from pilotage.data.sampling import Candidate, sample
from pilotage.errors import ImpossibleRequestError, PilotageError
from pilotage.records import SPLITS, Example, Split
from pilotage.worlds import TASKS, get_task
from pilotage.worlds.questions.asked import QUESTION_KINDS, Asked, QuestionKind, ask
from pilotage.worlds.questions.data.store import write_questions
from pilotage.worlds.questions.question import make_question
from pilotage.worlds.task import Task, state_hash, worked_state

QUESTIONS_GENERATOR = 1
"""Goes up whenever the same arguments would give other questions than before."""
FIRST_DRAW = 256
"""States drawn at first for a (task, level, split, kind); twice as many whenever they do not suffice."""
PATIENCE = 2_000
"""States without such a question, one after the other, after which there is taken to be none."""
KNOWN_OPTIONS = ("tasks",)
"""What shapes the questions that are made like levels."""
LEVELS = tuple(sorted(set.intersection(*({*task.levels} for task in TASKS)))) or tuple(TASKS[0].levels)
"""Asked about where nobody names any: the levels that every planning task has."""

Progress = Callable[[int, int], None]


@dataclass(frozen=True, kw_only=True)
class QuestionsConfig(SetConfig):
    """Which questions, and where they are written."""

    tasks: tuple[str, ...] = tuple(task.name for task in TASKS)
    """Tasks, by name."""
    kinds: tuple[QuestionKind, ...] = QUESTION_KINDS
    """cell: which cell holds a thing; safe: does a plan fail; first_move and length: of a shortest plan."""


def build_questions(config: QuestionsConfig, progress: Progress | None = None) -> dict[str, Any]:
    """Writes the questions and returns the manifest. Raises PilotageError for what cannot be had."""
    config.check_numbers()
    if (
        not config.kinds
        or len(set(config.kinds)) != len(config.kinds)
        or not set(config.kinds) <= set(QUESTION_KINDS)
    ):
        raise PilotageError(
            f"kinds {list(config.kinds)} must be some of {', '.join(QUESTION_KINDS)}, none twice"
        )
    counts: dict[Split, int] = {split: config.count(split) for split in SPLITS}
    levels = config.chosen()
    exclusions = load_exclusions(config.exclude)
    arguments = {
        "questions_generator": QUESTIONS_GENERATOR,
        "levels": levels,
        "kinds": list(config.kinds),
        **{f"num_{split}": count for split, count in counts.items()},
        "seed": config.seed,
        "cell_px": None if config.side_px is not None else config.cell_px,
        "side_px": config.side_px,
        "excluded_sha256": exclusions.digest,
    }
    # First every task's first level, and so on: few questions are of all tasks.
    worlds = [
        (get_task(name), level)
        for row in zip_longest(*([(name, level) for level in of_task] for name, of_task in levels.items()))
        for name, level in filter(None, row)
    ]
    total = sum(counts.values())

    def questions() -> Iterator[Example]:
        num_done = 0
        for split, count in counts.items():
            for question in iter_questions(
                worlds,
                config.kinds,
                count,
                split,
                config.seed,
                exclude=exclusions.hashes,
                cell_px=config.cell_px,
                side_px=config.side_px,
            ):
                yield question
                num_done += 1
                if progress is not None:
                    progress(num_done, total)

    return write_questions(config.out, questions(), arguments, overwrite=config.overwrite)


def examples(
    name: str,
    levels: Sequence[int],
    count: int,
    split: Split,
    seed: int,
    *,
    cell_px: int,
    options: Mapping[str, Any],
) -> list[Example]:
    """`count` questions in all, about states of these levels, kinds in turn.

    Options: `tasks`, names with spaces between (by default every planning task that has all the levels). Raises
    PilotageError for an option that is another, and for a task without one of the levels.
    """
    if unknown := sorted({*options} - {*KNOWN_OPTIONS}):
        raise PilotageError(
            f"questions have no option {unknown[0]!r}; there is tasks, as in tasks=frozenlake"
        )
    named = str(options["tasks"]).split() if "tasks" in options else None
    tasks = [get_task(task) for task in named] if named is not None else TASKS
    chosen = [task for task in tasks if named is not None or {*levels} <= {*task.levels}]
    for task in chosen:
        if missing := [level for level in levels if level not in task.levels]:
            raise PilotageError(f"{task.name} has no level {missing[0]}; its levels are {[*task.levels]}")
    if not chosen:
        raise PilotageError(f"no planning task has the levels {[*levels]}")
    worlds = [(task, level) for level in levels for task in chosen]
    return list(iter_questions(worlds, QUESTION_KINDS, count, split, seed, cell_px=cell_px))


def iter_questions(
    worlds: Collection[tuple[Task[Any], int]],
    kinds: Collection[QuestionKind],
    count: int,
    split: Split,
    seed: int,
    *,
    exclude: Collection[str] = frozenset(),
    cell_px: int | None = 32,
    side_px: int | None = None,
) -> Iterator[Example]:
    """`count` questions in all, one of each (world, kind) in turn. Raises ImpossibleRequestError when one runs dry."""
    streams = [
        _stream(task, level, kind, split, seed, exclude, cell_px, side_px)
        for task, level in worlds
        for kind in kinds
    ]
    for number in range(count):
        yield next(streams[number % len(streams)])


def _stream(
    task: Task[Any],
    level: int,
    kind: QuestionKind,
    split: Split,
    seed: int,
    exclude: Collection[str],
    cell_px: int | None,
    side_px: int | None,
) -> Iterator[Example]:
    """Questions of one kind about distinct states, for as long as there are states."""
    num_given = num_refused = 0
    for candidate in _candidates(task, level, split, seed, exclude):
        rng = np.random.default_rng([seed, key_of(candidate.hash), QUESTION_KINDS.index(kind)])
        asked = ask(
            task, candidate.state, kind, rng, solution=candidate.solution, safe=(num_given + level) % 2 == 0
        )
        if asked is None:
            num_refused += 1
            if num_refused == PATIENCE:
                break
            continue
        num_refused = 0
        example = candidate.example(task, cell_px=cell_px, side_px=side_px)
        num_given += 1
        yield asked_about(example, asked)
    raise ImpossibleRequestError(
        f"{task.name} level {level} {split} has states for {num_given} {kind} questions: ask for fewer, for more "
        "levels, or for other kinds"
    )


def asked_about(example: Example, asked: Asked) -> Example:
    """The question about a level of a planning task, with the level's picture."""
    return make_question(
        id=f"{example.id}-{asked.kind}",
        task=example.task,
        level=example.level,
        split=example.split,
        kind=asked.kind,
        question=asked.question,
        answer=asked.answer,
        accepted=asked.accepted,
        solution=asked.solution,
        state=example.state,
        image=example.image,
    )


def _candidates(
    task: Task[Any], level: int, split: Split, seed: int, exclude: Collection[str]
) -> Iterator[Candidate]:
    """Distinct states of the split, as many as can be had, the first ones independent of how many are taken."""
    given: set[str] = set()
    num_drawn = FIRST_DRAW
    while True:
        try:
            for candidate in sample(task, level, num_drawn, split, seed, exclude=exclude):
                if candidate.hash not in given:
                    given.add(candidate.hash)
                    yield candidate
        except ImpossibleRequestError:
            break
        num_drawn *= 2
    if task.num_states(level) is None:
        return
    left_out = given | {state_hash(task, worked_state(task))}
    for state in task.enumerate_states(level):
        hash_ = state_hash(task, state)
        solution = task.solve(state) if split_of(hash_) == split and hash_ not in left_out else None
        if solution is not None and hash_ not in exclude:
            difficulty = task.difficulty(state, len(solution.plan))
            yield Candidate(state=state, hash=hash_, split=split, difficulty=difficulty, solution=solution)

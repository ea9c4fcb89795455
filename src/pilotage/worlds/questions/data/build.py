"""Questions about states of our own tasks, of any number: the same arguments give the same questions.

The states of a (task, level) are those of `pilotage.data.sampling`, difficulties in turn; a state's hash decides its
split, so no question's picture is in two splits, nor in another split of a data set of ours. Kinds of questions come in
turn, and the answers `yes` and `no` of the `safe` ones alternate.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np

from pilotage.data.examples import key_of, make_example, split_of
from pilotage.data.exclude import load_exclusions
from pilotage.data.sampling import Candidate, sample
from pilotage.errors import ImpossibleRequestError, PilotageError
from pilotage.records import SPLITS, Example, Split
from pilotage.worlds import TASKS, get_task
from pilotage.worlds.asked import KINDS, Kind, ask
from pilotage.worlds.questions.data.store import write_questions
from pilotage.worlds.questions.question import make_question
from pilotage.worlds.task import Task, state_hash, worked_state

QUESTIONS_GENERATOR = 1
"""Goes up whenever the same arguments would give other questions than before."""
FIRST_DRAW = 256
"""States drawn at first for a (task, level, split, kind); twice as many whenever they do not suffice."""
PATIENCE = 2_000
"""States without such a question, one after the other, after which there is taken to be none."""

Progress = Callable[[int, int], None]


@dataclass(frozen=True, kw_only=True)
class QuestionsConfig:
    """Which questions, and where they are written."""

    out: Path
    """Folder of the questions; new, empty, or one of the same arguments."""
    tasks: tuple[str, ...] = tuple(task.name for task in TASKS)
    """Tasks, by name."""
    levels: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    """Task and its levels, e.g. `frozenlake 3 4 5`; a task left out has its own training levels."""
    kinds: tuple[Kind, ...] = KINDS
    """cell: which cell holds a thing; safe: does a plan fail; first_move and length: of a shortest plan."""
    num_train: int = 2000
    """Training questions in all, spread evenly over tasks, levels and kinds."""
    num_val: int = 200
    """Validation questions in all."""
    num_test: int = 200
    """Test questions in all."""
    seed: int = 0
    """Which states and questions are drawn. The split of a state never depends on it."""
    cell_px: int = 32
    """Pixels per cell of the pictures."""
    side_px: int | None = None
    """Draw every picture on a square of this side instead, whatever the level."""
    exclude: tuple[Path, ...] = ()
    """States to keep out, as for `pilotage data build`."""
    overwrite: bool = False
    """Replace questions of other arguments in the same folder."""


def build_questions(config: QuestionsConfig, progress: Progress | None = None) -> dict[str, Any]:
    """Writes the questions and returns the manifest. Raises PilotageError for what cannot be had."""
    counts: dict[Split, int] = {"train": config.num_train, "val": config.num_val, "test": config.num_test}
    _check(config, counts)
    exclusions = load_exclusions(config.exclude)
    levels = {name: sorted(config.levels.get(name, get_task(name).levels)) for name in sorted(config.tasks)}
    arguments = {
        "questions_generator": QUESTIONS_GENERATOR,
        "levels": {name: list(of_task) for name, of_task in levels.items()},
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


def iter_questions(
    worlds: Collection[tuple[Task[Any], int]],
    kinds: Collection[Kind],
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
    kind: Kind,
    split: Split,
    seed: int,
    exclude: Collection[str],
    cell_px: int | None,
    side_px: int | None,
) -> Iterator[Example]:
    """Questions of one kind about distinct states, for as long as there are states."""
    num_given = num_refused = 0
    for candidate in _candidates(task, level, split, seed, exclude):
        rng = np.random.default_rng([seed, key_of(candidate.hash), KINDS.index(kind)])
        asked = ask(
            task, candidate.state, kind, rng, solution=candidate.solution, safe=(num_given + level) % 2 == 0
        )
        if asked is None:
            num_refused += 1
            if num_refused == PATIENCE:
                break
            continue
        num_refused = 0
        example = make_example(
            task,
            candidate.state,
            split,
            cell_px=cell_px,
            side_px=side_px,
            solution=candidate.solution,
            hash_=candidate.hash,
        )
        num_given += 1
        yield make_question(
            id=f"{example.id}-{kind}",
            task=task.name,
            level=level,
            split=split,
            kind=kind,
            question=asked.question,
            answer=asked.answer,
            accepted=asked.accepted,
            solution=asked.solution,
            state=example.state,
            image=example.image,
        )
    raise ImpossibleRequestError(
        f"{task.name} level {level} {split} has states for {num_given} {kind} questions: ask for fewer, for more "
        "levels, or for other kinds"
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


def _check(config: QuestionsConfig, counts: Mapping[Split, int]) -> None:
    for name, value in (("seed", config.seed), *((f"num_{split}", counts[split]) for split in SPLITS)):
        if isinstance(value, bool) or not isinstance(value, int) or value < 0:
            raise PilotageError(f"{name} is {value!r}, not a whole number from 0 up")
    if not sum(counts.values()):
        raise PilotageError("num_train, num_val and num_test are all 0: there is nothing to ask")
    for name, values, known in (
        ("tasks", config.tasks, tuple(task.name for task in TASKS)),
        ("kinds", config.kinds, KINDS),
    ):
        if not values or len(set(values)) != len(values) or not set(values) <= set(known):
            raise PilotageError(f"{name} {list(values)} must be some of {', '.join(known)}, none twice")
    if unused := set(config.levels) - set(config.tasks):
        raise PilotageError(f"levels are given for {sorted(unused)}, but tasks are {list(config.tasks)}")
    for name, of_task in config.levels.items():
        if not of_task or len(set(of_task)) != len(of_task):
            raise PilotageError(
                f"{name}: levels {list(of_task)} must name at least one level, and none twice"
            )
    for name in config.tasks:
        # Draws one picture, so that a size that cannot be drawn is known before work starts.
        task = get_task(name)
        for level in config.levels.get(name, task.levels):
            state = task.generate(level, np.random.default_rng(0))
            make_example(task, state, cell_px=config.cell_px, side_px=config.side_px)

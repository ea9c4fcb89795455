"""States that follow a task's usual regularity, and states that reverse it.

For training on what is usual (`examples_with_prior`) and for asking whether a model plans by habit
(`prior_pairs`). The regularity is the task's own: see `HasPrior` in `pilotage.worlds.task`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from itertools import count as count_up
from itertools import zip_longest
from typing import Any

from pilotage.data.sampling import (
    BLOCK_DRAWS,
    DIFFICULTIES,
    QUEUE_LIMIT,
    Candidate,
    Turns,
    check_request,
    draw_block,
)
from pilotage.errors import ImpossibleRequestError, PilotageError
from pilotage.records import Example, Split
from pilotage.worlds.capabilities import able
from pilotage.worlds.registry import planning_worlds
from pilotage.worlds.task import HasPrior, Plans, Sampled, state_hash, worked_state

PATIENCE_BLOCKS = 12
"""Blocks of draws without one new pair, after which no more are expected."""

Pair = tuple[Example, Example]
"""(follows the prior, reverses it), of one level and one optimal length."""


def prior_of(task: Plans[Any]) -> HasPrior[Any] | None:
    """The task's regularity, or None where it has none."""
    return able(task, HasPrior)


def tasks_with_prior() -> list[str]:
    """Names of the planning tasks that have a prior (`pilotage.worlds.task.HasPrior`)."""
    return [task.name for task in planning_worlds() if prior_of(task)]


def examples_with_prior(
    task: Sampled[Any],
    level: int,
    count: int,
    *,
    consistent: bool,
    split: Split,
    seed: int,
    cell_px: int | None = 32,
    side_px: int | None = None,
) -> list[Example]:
    """`count` distinct examples that all follow the task's prior, or all reverse it: a function of the arguments.

    Drawn, split and balanced as any data set is. Raises PilotageError for a task without a prior and
    ImpossibleRequestError when there are not so many.
    """
    _require(task)
    check_request(task, level, count, split, seed)
    turns = _Turns(task, level, count, split, seed)
    turns.consistent = consistent
    examples: list[Example] = []
    for block in count_up():
        for position, candidate in draw_block(task, level, seed, block, frozenset((split,))):
            turns.offer(position, candidate)
        for candidate in turns.take((block + 1) * BLOCK_DRAWS):
            examples.append(candidate.example(task, cell_px=cell_px, side_px=side_px))
        if turns.done:
            return examples
    raise AssertionError("the stream of blocks has no end")


def prior_pairs(
    task: Sampled[Any],
    levels: Sequence[int],
    num_pairs: int,
    *,
    split: Split,
    seed: int,
    cell_px: int | None = 32,
    side_px: int | None = None,
) -> list[Pair]:
    """`num_pairs` pairs, spread evenly over `levels`, difficulties in turn, all examples distinct.

    Both examples of a pair have the same optimal length, so that the two sets are equally hard. Raises
    PilotageError for a task without a prior and ImpossibleRequestError when there are not so many pairs.
    """
    _require(task)
    if not levels or num_pairs < 1:
        raise PilotageError(f"{num_pairs} pairs over levels {list(levels)}: at least one of each is needed")
    pairs = []
    for i, level in enumerate(levels):
        share = len(range(i, num_pairs, len(levels)))
        for pair in _pairs(task, level, share, split, seed):
            one, other = (each.example(task, cell_px=cell_px, side_px=side_px) for each in pair)
            pairs.append((one, other))
    return pairs


class _Turns(Turns):
    """Takes only states whose prior is as wanted, drawn or listed alike."""

    consistent: bool

    def offer(self, position: int, candidate: Candidate, *, limit: int = QUEUE_LIMIT) -> None:
        if _require(self._task).follows_prior(candidate.state) is self.consistent:
            super().offer(position, candidate, limit=limit)


def _pairs(
    task: Sampled[Any], level: int, count: int, split: Split, seed: int
) -> list[tuple[Candidate, Candidate]]:
    """`count` pairs, easy, medium and hard ones in turn as long as the level has them."""
    found: dict[str, list[tuple[Candidate, Candidate]]] = {name: [] for name in DIFFICULTIES}
    wanted = -(-count // len(DIFFICULTIES))
    last_block = 0
    for block, difficulty, pair in _stream(task, level, split, seed):
        if pair is not None and len(found[difficulty]) < count:
            last_block = block if len(found[difficulty]) < wanted else last_block
            found[difficulty].append(pair)
        num_found = sum(map(len, found.values()))
        if all(len(pairs) >= wanted for pairs in found.values()):
            break
        if block - last_block > PATIENCE_BLOCKS:
            if num_found >= count:
                break
            raise ImpossibleRequestError(
                f"{task.name} level {level} {split}: {num_found} of {count} pairs with and against the prior were "
                f"found; ask for at most {num_found} on this level, or for more levels"
            )
    turns = zip_longest(*found.values())
    return [pair for turn in turns for pair in turn if pair is not None][:count]


def _stream(
    task: Sampled[Any], level: int, split: Split, seed: int
) -> Iterator[tuple[int, str, tuple[Candidate, Candidate] | None]]:
    """(block, difficulty, pair) whenever two distinct states match, and (block, "", None) at the end of a block."""
    prior = _require(task)
    seen = {state_hash(task, worked_state(task))}
    waiting: dict[tuple[bool, int], deque[Candidate]] = {}
    for block in count_up():
        for _, candidate in draw_block(task, level, seed, block, frozenset((split,))):
            follows = prior.follows_prior(candidate.state)
            if follows is None or candidate.hash in seen:
                continue
            seen.add(candidate.hash)
            length = len(candidate.solution.plan)
            partners = waiting.get((not follows, length))
            if not partners:
                waiting.setdefault((follows, length), deque()).append(candidate)
                continue
            partner = partners.popleft()
            yield block, candidate.difficulty, (candidate, partner) if follows else (partner, candidate)
        yield block, "", None


def _require(task: Plans[Any]) -> HasPrior[Any]:
    prior = prior_of(task)
    if prior is None:
        raise PilotageError(
            f"{task.name} has no prior (prior, follows_prior); tasks with one: {', '.join(tasks_with_prior())}"
        )
    return prior

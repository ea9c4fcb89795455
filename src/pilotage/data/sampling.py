"""Which states a data set holds: drawn, split, free of doubles, difficulties in turn, and never for ever.

The states of one (task, level, seed) come from one stream of numbered blocks. Each block has a random
generator of its own, so blocks can be drawn anywhere and in any number of processes; whoever reads the stream
in order gets the same states. Each split reads the whole stream and keeps what its hashes own.
"""

from __future__ import annotations

import hashlib
from array import array
from bisect import bisect_left
from collections import deque
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import count as count_up
from typing import Any

import numpy as np

from pilotage.data.examples import SPLIT_SHARES, key_of, make_example, split_of
from pilotage.errors import ImpossibleRequestError, PilotageError
from pilotage.records import SPLITS, Example, Split
from pilotage.worlds.task import ENUMERATION_LIMIT, Sampled, Solution, state_hash, worked_state

DIFFICULTIES = ("easy", "medium", "hard")

BLOCK_DRAWS = 1024
"""Draws per block. Part of what a seed means: another value gives other states."""

QUEUE_LIMIT = 1024
"""States of one difficulty that may wait for their turn; later ones are forgotten, and may come again."""

PATIENCE = 2_000
"""Draws owned by a split without one new state of the difficulty whose turn it is, after which that
difficulty counts as dry and the others go on without it."""

PATIENCE_LISTED = 300
"""The same where all states can be listed: the list then gives what the generator no longer does. A request
near all that there is turns to the list at once."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A drawn state with what was found out about it on the way."""

    state: Any
    hash: str
    split: Split
    difficulty: str
    solution: Solution

    def example(self, task: Sampled[Any], *, cell_px: int | None = 32, side_px: int | None = None) -> Example:
        """As `make_example` makes it, without solving the state again."""
        return make_example(
            task,
            self.state,
            self.split,
            cell_px=cell_px,
            side_px=side_px,
            solution=self.solution,
            hash_=self.hash,
        )


def sample(
    task: Sampled[Any],
    level: int,
    count: int,
    split: Split,
    seed: int,
    *,
    exclude: Collection[str] = frozenset(),
    balance: bool = True,
) -> Iterator[Candidate]:
    """`count` distinct states of `level` that belong to `split`, one by one: a function of the arguments alone.

    `exclude` holds state hashes to leave out; the state that prompts show as a worked example is always left out. With
    `balance`, difficulties come in turn as long as the level has them. Raises ImpossibleRequestError when there are not
    so many: before any drawing where the level's states can be counted, else as soon as the generator yields nothing
    new.
    """
    check_request(task, level, count, split, seed, exclude)
    turns = Turns(task, level, count, split, seed, exclude=exclude, balance=balance)
    wanted: frozenset[Split] = frozenset((split,))
    for block in count_up():
        for position, candidate in draw_block(task, level, seed, block, wanted):
            if turns.done:
                return
            turns.offer(position, candidate)
            yield from turns.take(position)
        yield from turns.take((block + 1) * BLOCK_DRAWS)
        if turns.done:
            return


def draw_block(
    task: Sampled[Any], level: int, seed: int, block: int, wanted: frozenset[Split]
) -> Iterator[tuple[int, Candidate]]:
    """The draws of one block that belong to `wanted` splits, each with its position in the stream."""
    rng = np.random.default_rng(np.random.SeedSequence([seed, _number(task.name), level, block]))
    for position in range(block * BLOCK_DRAWS, (block + 1) * BLOCK_DRAWS):
        candidate = _candidate(task, level, task.generate(level, rng), wanted)
        if candidate is not None:
            yield position, candidate


def check_request(
    task: Sampled[Any],
    level: int,
    count: int,
    split: Split,
    seed: int = 0,
    exclude: Collection[str] = frozenset(),
) -> None:
    """Raises when an argument is bad, or when counting shows that there are fewer than `count` states."""
    if split not in SPLITS:
        raise PilotageError(f"unknown split {split!r}; it is one of {', '.join(SPLITS)}")
    for name, value in (("count", count), ("seed", seed)):
        if isinstance(value, bool) or not isinstance(value, int) or value < 0:
            raise PilotageError(f"{name} is {value!r}, not a whole number from 0 up")
    num_states = task.num_states(level)
    if num_states is None or not _comes_near(num_states, count, split, exclude):
        return
    keys = _keys_by_split(task, level)[split]
    taken = np.array([key_of(hash_) for hash_ in (_worked_hash(task), *exclude)], dtype=np.uint64)
    num_free = int(len(keys) - np.isin(keys, taken).sum())
    if count > num_free:
        raise ImpossibleRequestError(
            f"{task.name} level {level} has {num_states} states, of which {num_free} belong to "
            f"{split} and are not excluded: {count} cannot be had; ask for at most {num_free} or for another level"
        )


class Turns:
    """Takes one split's candidates in stream order and gives them out, one difficulty after the other."""

    def __init__(
        self,
        task: Sampled[Any],
        level: int,
        count: int,
        split: Split,
        seed: int,
        *,
        exclude: Collection[str] = frozenset(),
        balance: bool = True,
    ) -> None:
        self._task, self._level, self._seed = task, level, seed
        self._split: Split = split
        self._count, self._num_given = count, 0
        self._exclude = exclude
        self._worked_hash = _worked_hash(task)
        self._balance = balance
        self._seen = KeySet()
        names: tuple[str, ...] = DIFFICULTIES if balance else ("any",)
        self._queues: dict[str, deque[Candidate]] = {name: deque() for name in names}
        self._last_new: dict[str, int] = dict.fromkeys(names, 0)
        self._dry: set[str] = set()
        self._turn = 0
        num_states = task.num_states(level)
        near = num_states is not None and _comes_near(num_states, count, split, exclude)
        self._listable = near or (num_states is not None and num_states <= ENUMERATION_LIMIT)
        patience = 0 if near else PATIENCE_LISTED if self._listable else PATIENCE
        self._patience = patience / SPLIT_SHARES[split]

    @property
    def done(self) -> bool:
        return self._num_given == self._count

    def offer(self, position: int, candidate: Candidate, *, limit: int = QUEUE_LIMIT) -> None:
        """`position` is the candidate's place in the stream; positions only grow."""
        name = candidate.difficulty if self._balance else "any"
        assert name in self._queues, (
            f"{self._task.name} calls a difficulty {name!r}, not one of {DIFFICULTIES}"
        )
        key = key_of(candidate.hash)
        if candidate.hash in self._exclude or candidate.hash == self._worked_hash or key in self._seen:
            return
        self._last_new[name] = position
        if len(self._queues[name]) < limit:
            self._seen.add(key)
            self._queues[name].append(candidate)

    def take(self, position: int) -> Iterator[Candidate]:
        """Those whose turn has come, the stream having been read up to `position`."""
        while not self.done:
            name = tuple(self._queues)[self._turn % len(self._queues)]
            if self._queues[name]:
                self._turn += 1
                self._num_given += 1
                yield self._queues[name].popleft()
            elif name in self._dry:
                self._turn += 1
                self._check_not_all_dry()
            elif position - self._last_new[name] > self._patience:
                self._dry.add(name)
                self._list_the_rest(position)
            else:
                return

    def _list_the_rest(self, position: int) -> None:
        """Where all states can be listed, those that were not drawn yet join the queues, shuffled."""
        if not self._listable:
            return
        self._listable = False
        wanted: frozenset[Split] = frozenset((self._split,))
        states = self._task.enumerate_states(self._level)
        candidates = (_candidate(self._task, self._level, state, wanted) for state in states)
        rest = [candidate for candidate in candidates if candidate is not None]
        words = [self._seed, _number(self._task.name), self._level, _number(self._split), _number("list")]
        for i in np.random.default_rng(np.random.SeedSequence(words)).permutation(len(rest)):
            self.offer(position, rest[i], limit=len(rest))
        self._dry.update(self._queues)

    def _check_not_all_dry(self) -> None:
        if len(self._dry) == len(self._queues) and not any(self._queues.values()):
            raise ImpossibleRequestError(
                f"{self._task.name} level {self._level} {self._split}: the generator found "
                f"{self._num_given} of {self._count} states and then nothing new in {self._patience:.0f} draws; "
                f"ask for at most {self._num_given} or for another level"
            )


class KeySet:
    """A growing set of 48-bit keys in about 8 bytes each: a sorted array, and a small set of the latest."""

    MERGE_AT: int = 1 << 16

    def __init__(self) -> None:
        self._recent: set[int] = set()
        self._sorted = array("Q")

    def __contains__(self, key: int) -> bool:
        if key in self._recent:
            return True
        place = bisect_left(self._sorted, key)
        return place < len(self._sorted) and self._sorted[place] == key

    def add(self, key: int) -> None:
        self._recent.add(key)
        if len(self._recent) >= self.MERGE_AT:
            recent = np.fromiter(self._recent, dtype=np.uint64, count=len(self._recent))
            merged = np.concatenate([np.frombuffer(self._sorted, dtype=np.uint64), recent])
            merged.sort()
            self._sorted = array("Q", merged.tobytes())
            self._recent.clear()


def _candidate(task: Sampled[Any], level: int, state: Any, wanted: frozenset[Split]) -> Candidate | None:
    """None for a state of another split: it is not solved, which is most of the cost."""
    hash_ = state_hash(task, state)
    split = split_of(hash_)
    if split not in wanted:
        return None
    solution = task.solve(state)
    assert solution is not None, f"{task.name}: a generated level-{level} state cannot be solved: {state}"
    difficulty = task.difficulty(state, len(solution.plan))
    return Candidate(state=state, hash=hash_, split=split, difficulty=difficulty, solution=solution)


def _comes_near(num_states: int, count: int, split: Split, exclude: Collection[str]) -> bool:
    """Whether the request is more than half of what the split may hold, so that drawing alone gets slow."""
    return count + len(exclude) > num_states * SPLIT_SHARES[split] / 2


@lru_cache(maxsize=64)
def _worked_hash(task: Sampled[Any]) -> str:
    return state_hash(task, worked_state(task))


@lru_cache(maxsize=8)
def _keys_by_split(task: Sampled[Any], level: int) -> dict[Split, np.ndarray]:
    keys: dict[Split, list[int]] = {split: [] for split in SPLITS}
    for state in task.enumerate_states(level):
        hash_ = state_hash(task, state)
        keys[split_of(hash_)].append(key_of(hash_))
    return {split: np.array(values, dtype=np.uint64) for split, values in keys.items()}


@lru_cache(maxsize=64)
def _number(word: str) -> int:
    """32 bits that stand for a word in a seed."""
    return int.from_bytes(hashlib.sha256(word.encode()).digest()[:4], "big")

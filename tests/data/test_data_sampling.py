"""Which states a data set holds: splits, doubles, balance, impossible requests."""

from __future__ import annotations

from collections import Counter
from itertools import islice
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pilotage.data import sampling
from pilotage.data.examples import example_id, make_example, split_of
from pilotage.data.sampling import KeySet, check_request, sample
from pilotage.errors import BadStateError, ImpossibleRequestError, PilotageError
from pilotage.records import SPLITS
from pilotage.worlds import TASKS, get_task
from pilotage.worlds.judge import judge_plan
from pilotage.worlds.task import Solution, state_hash, worked_state

each_task = pytest.mark.parametrize("task", TASKS, ids=lambda t: t.name)


def sample_states(*arguments: Any, **settings: Any) -> list[Any]:
    return [candidate.state for candidate in sample(*arguments, **settings)]


class Endless:
    """A task whose states are whole numbers from a given list, drawn for ever."""

    name = "endless"
    levels = range(1, 2)

    def __init__(self, states: list[int], hard_from: int = 1 << 60) -> None:
        self._states = states
        self._hard_from = hard_from

    def generate(self, level: int, rng: np.random.Generator) -> int:
        return self._states[int(rng.integers(len(self._states)))]

    def num_states(self, level: int) -> int | None:
        return None

    def to_json(self, state: int) -> dict[str, Any]:
        return {"n": state}

    def solve(self, state: int) -> Solution:
        return Solution(plan=("GO",), num_optimal=1)

    def difficulty(self, state: int, optimal_length: int) -> str:
        return "hard" if state >= self._hard_from else "easy"


def owned_by(split: str, states: range, task: Any) -> list[int]:
    return [state for state in states if split_of(state_hash(task, state)) == split]


# Splits


@pytest.mark.parametrize(
    ("digits", "split"),
    [
        ("000000000000", "train"),
        ("cccccccccccc", "train"),  # the last of 0.8
        ("cccccccccccd", "val"),
        ("e66666666666", "val"),  # the last of 0.9
        ("e66666666667", "test"),
        ("ffffffffffff", "test"),
    ],
)
def test_split_boundaries_lie_at_80_and_90_percent_of_the_hashes(digits: str, split: str) -> None:
    assert split_of(digits + "0" * 20) == split
    assert split_of(digits + "f" * 20) == split


@given(st.text(alphabet="0123456789abcdef", min_size=32, max_size=32))
def test_states_with_one_id_have_one_split(hash_: str) -> None:
    assert example_id("maze", 3, hash_) == f"maze-3-{hash_[:12]}"
    assert split_of(hash_) == split_of(hash_[:12] + "0" * 20)


def test_other_shares_move_the_boundaries() -> None:
    shares = {"train": 0.5, "test": 0.5}
    assert [split_of(digit * 32, shares) for digit in "078f"] == ["train", "train", "test", "test"]  # type: ignore[arg-type]


@pytest.mark.parametrize("shares", [{}, {"train": 0.5}, {"train": 1.5, "test": -0.5}, {"dev": 1.0}])
def test_shares_that_are_no_partition_are_refused(shares: dict[Any, float]) -> None:
    with pytest.raises(PilotageError, match="sum to 1"):
        split_of("0" * 32, shares)


# Examples


@each_task
def test_example_tells_what_the_task_says(task: Any) -> None:
    state = task.generate(min(task.levels), np.random.default_rng(5))
    example = make_example(task, state)
    assert example.id == f"{task.name}-{min(task.levels)}-{state_hash(task, state)[:12]}"
    assert example.split == split_of(state_hash(task, state))
    assert task.parse_state(dict(example.state)) == state
    assert dict(example.facts) == task.facts(state)
    assert example.optimal_length == len(example.plan)
    assert judge_plan(task, state, example.plan).is_("optimal")
    assert example.image.startswith(b"\x89PNG")


def test_example_without_picture_has_empty_bytes() -> None:
    task = get_task("maze")
    assert make_example(task, task.generate(3, np.random.default_rng(0)), cell_px=None).image == b""


def test_state_without_a_plan_is_no_example() -> None:
    task = get_task("frozenlake")
    state = task.parse_state({"map": ["SHF", "HFF", "FFG"]})
    with pytest.raises(BadStateError, match="no plan"):
        make_example(task, state)


# Sampling


@each_task
@settings(max_examples=5)
@given(seed=st.integers(0, 2**63), offset=st.integers(0, 2))
def test_splits_hold_distinct_states_of_their_own(task: Any, seed: int, offset: int) -> None:
    level = min(task.levels) + offset
    seen: set[str] = set()
    for split in SPLITS:
        hashes = [state_hash(task, state) for state in sample_states(task, level, 20, split, seed)]
        assert len(set(hashes)) == 20
        assert {split_of(hash_) for hash_ in hashes} == {split}
        assert not seen & set(hashes)
        seen.update(hashes)


@each_task
def test_sample_is_a_function_of_its_arguments(task: Any) -> None:
    level = min(task.levels) + 1
    first = sample_states(task, level, 30, "train", 7)
    assert sample_states(task, level, 30, "train", 7) == first
    assert sample_states(task, level, 30, "train", 8) != first
    assert sample_states(task, level, 12, "train", 7) == first[:12]


@each_task
def test_difficulties_come_in_turn(task: Any) -> None:
    candidates = list(sample(task, max(task.levels), 30, "train", 0))
    assert Counter(c.difficulty for c in candidates) == {"easy": 10, "medium": 10, "hard": 10}
    assert [c.difficulty for c in candidates[:4]] == ["easy", "medium", "hard", "easy"]


def test_without_balance_states_come_as_they_are_drawn() -> None:
    task = get_task("maze")
    rng = np.random.default_rng(np.random.SeedSequence([3, sampling._number("maze"), 6, 0]))
    drawn = [task.generate(6, rng) for _ in range(40)]
    expected = [state for state in drawn if split_of(state_hash(task, state)) == "train"][:20]
    assert sample_states(task, 6, 20, "train", 3, balance=False) == expected


def test_every_state_of_a_small_level_can_be_had_and_no_more() -> None:
    task = get_task("minibehaviour")
    owned = {s for s in task.enumerate_states(5) if split_of(state_hash(task, s)) == "val"}
    owned.discard(worked_state(task))
    assert task.num_states(5) == 4104
    assert set(sample_states(task, 5, len(owned), "val", 0)) == owned
    with pytest.raises(ImpossibleRequestError, match=rf"4104 states.* {len(owned)} belong to val"):
        sample_states(task, 5, len(owned) + 1, "val", 0)


def test_excluded_states_never_come_and_count_as_gone() -> None:
    task = get_task("minibehaviour")
    everything = {hash_ for s in task.enumerate_states(5) if split_of(hash_ := state_hash(task, s)) == "test"}
    everything.discard(state_hash(task, worked_state(task)))
    excluded = frozenset(sorted(everything)[:100])
    num_left = len(everything) - 100
    states = sample_states(task, 5, num_left, "test", 0, exclude=excluded)
    assert {state_hash(task, state) for state in states} == everything - excluded
    with pytest.raises(ImpossibleRequestError, match=f"at most {num_left} "):
        check_request(task, 5, num_left + 1, "test", exclude=excluded)


def test_impossible_request_is_refused_before_anything_is_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    def must_not_run(*args: Any) -> Any:
        raise AssertionError("drew a block")

    monkeypatch.setattr(sampling, "draw_block", must_not_run)
    with pytest.raises(ImpossibleRequestError, match="6792 states"):
        sample_states(get_task("frozenlake"), 3, 5500, "train", 0)


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("balance", [True, False])
def test_a_generator_that_repeats_itself_ends_in_an_error(split: Any, balance: bool) -> None:
    task: Any = Endless([0, 1])
    num_found = len(set(owned_by(split, range(2), task)) - {worked_state(task)})
    with pytest.raises(ImpossibleRequestError, match=f"found {num_found} of 3 "):
        sample_states(task, 1, 3, split, 0, balance=balance)


def test_a_difficulty_that_the_level_lacks_leaves_its_turns_to_the_others() -> None:
    task: Any = Endless(list(range(5000)))
    assert len(set(sample_states(task, 1, 50, "train", 0))) == 50


def test_a_rare_difficulty_gives_all_it_has_before_the_others_fill_up() -> None:
    states = list(range(400))
    task: Any = Endless(states, hard_from=390)
    rare = [s for s in owned_by("train", range(400), task) if s >= 390 and s != worked_state(task)]
    got = sample_states(task, 1, 100, "train", 0)
    assert sorted(s for s in got if s >= 390) == rare


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((3, 1, "dev", 0), "unknown split 'dev'"),
        ((3, -1, "test", 0), "count is -1"),
        ((3, 1.5, "test", 0), "count is 1.5"),
        ((3, 1, "test", -2), "seed is -2"),
        ((0, 1, "test", 0), "level 0"),
    ],
)
def test_bad_arguments_are_named(arguments: tuple[Any, ...], message: str) -> None:
    with pytest.raises(PilotageError, match=message):
        sample_states(get_task("maze"), *arguments)


@each_task
def test_the_worked_example_of_the_prompts_is_in_no_data_set(task: Any) -> None:
    level, hash_ = task.level_of(worked_state(task)), state_hash(task, worked_state(task))
    assert hash_ in {state_hash(task, state) for state in task.enumerate_states(level)}
    split = split_of(hash_)
    num_owned = sum(split_of(state_hash(task, s)) == split for s in task.enumerate_states(level))
    states = sample_states(task, level, num_owned - 1, split, 0)
    assert hash_ not in {state_hash(task, state) for state in states}
    with pytest.raises(ImpossibleRequestError):
        check_request(task, level, num_owned, split)


def test_nothing_asked_for_is_nothing_given() -> None:
    assert sample_states(get_task("maze"), 3, 0, "test", 0) == []


@settings(max_examples=30)
@given(st.lists(st.integers(0, 60)))
def test_key_set_agrees_with_a_plain_set(keys: list[int]) -> None:
    mine, plain = KeySet(), set()
    mine.MERGE_AT = 4
    for key in keys:
        assert (key in mine) == (key in plain)
        if key not in plain:
            mine.add(key)
            plain.add(key)
    assert all((key in mine) == (key in plain) for key in range(-1, 62))


@each_task
def test_states_are_drawn_as_they_are_taken(task: Any) -> None:
    assert len(list(islice(sample(task, max(task.levels), 20_000, "train", 0), 5))) == 5

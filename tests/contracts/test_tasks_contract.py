"""What holds for every planning world, by what it can do. A new one is picked up by itself.

Nothing here uses a task's solver to check its solver: `shortest_plans` tries plans by executing them.
"""

from __future__ import annotations

import json
import re
from itertools import islice
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from halls import HALLS
from pilotage.errors import BadStateError, ImpossibleRequestError, PilotageError
from pilotage.worlds import Task, drawing, get_task
from pilotage.worlds.capabilities import able
from pilotage.worlds.judge import REASONS, judge
from pilotage.worlds.recital import split_items
from pilotage.worlds.registry import planning_world, planning_worlds
from pilotage.worlds.score import DESCRIBE, same_text
from pilotage.worlds.task import (
    Draws,
    DrawsTiles,
    Generates,
    Plans,
    Recites,
    Sampled,
    Solves,
    TextMaps,
    canonical_key,
    reference_response,
    state_hash,
    state_text,
    worked_state,
)

WORLDS = (*planning_worlds(), *HALLS)
"""The registered ones, and some that can do a part of it."""


def having(*capabilities: type) -> Any:
    """Over every planning world that has these capabilities."""
    able_ones = [world for world in WORLDS if all(able(world, each) for each in capabilities)]
    return pytest.mark.parametrize("task", able_ones, ids=lambda task: task.name)


seeds = st.integers(0, 2**32 - 1)

ABSURD_LEVELS = (0, -1, 10**9, True, 3.5, "5", None)
NUM_SMALL = 20_000
"""Levels with at most this many states are listed in full."""

Json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=4),
    max_leaves=12,
)


def shortest_plans(task: Task[Any], state: Any, longest: int) -> tuple[int, int]:
    """Length and number of the shortest plans, found by executing plan after plan; (-1, 0) beyond `longest`."""
    prefixes: list[tuple[str, ...]] = [()]
    for length in range(1, longest + 1):
        alive, num_successes = [], 0
        for prefix in prefixes:
            for action in task.actions:
                plan = (*prefix, action)
                outcome = task.execute(state, plan)
                num_successes += outcome.success
                if outcome.reason == "not_reached":
                    alive.append(plan)
        if num_successes:
            return length, num_successes
        prefixes = alive
    return -1, 0


def small_levels(task: Task[Any]) -> list[int]:
    counted = {}
    for level in range(1, task.levels[0] + 1):
        try:
            counted[level] = task.num_states(level)
        except BadStateError:
            continue
    return [level for level, num in counted.items() if num is not None and 0 < num <= NUM_SMALL]


def sample(task: Task[Any], seed: int) -> Any:
    rng = np.random.default_rng(seed)
    return task.generate(int(rng.choice(task.levels)), rng)


def through_json(data: Any) -> dict[str, Any]:
    return json.loads(json.dumps(data))


@pytest.mark.parametrize("task", planning_worlds(), ids=lambda task: task.name)
def test_a_task_is_found_by_its_name(task: Plans[Any]) -> None:
    assert planning_world(task.name, Plans) is task
    assert re.fullmatch(r"[a-z]+", task.name)


def test_an_unknown_task_is_an_error_that_names_the_known_ones() -> None:
    with pytest.raises(
        PilotageError, match="unknown task 'chess'; known are frozenlake, maze, minibehaviour"
    ):
        get_task("chess")


@having(Generates)
@given(seed=seeds)
@settings(max_examples=40)
def test_a_state_survives_its_json_form(task: Task[Any], seed: int) -> None:
    state = sample(task, seed)
    data = through_json(task.to_json(state))
    again = task.parse_state(data)
    assert again == state
    assert task.to_json(again) == data
    assert canonical_key(task, again) == canonical_key(task, state)
    assert task.level_of(state) in task.levels


@having(Generates)
def test_generation_is_a_function_of_level_and_seed(task: Task[Any]) -> None:
    level = task.levels[-1]
    twice = [[task.generate(level, rng) for _ in range(20)] for rng in map(np.random.default_rng, (3, 3))]
    assert twice[0] == twice[1]
    assert len({state_hash(task, state) for state in twice[0]}) > 10
    assert worked_state(task) == worked_state(task)


@having(Sampled)
@given(seed=seeds)
@settings(max_examples=25)
def test_the_reference_plan_is_shortest_and_shortest_plans_are_counted(task: Task[Any], seed: int) -> None:
    state = task.generate(task.levels[0], np.random.default_rng(seed))
    solution = task.solve(state)
    assert solution is not None
    if len(solution.plan) > 6:
        longer = task.execute(state, solution.plan)
        assert longer.success and longer.num_executed == len(solution.plan)
        return
    length, num_plans = shortest_plans(task, state, longest=6)
    assert len(solution.plan) == length
    assert solution.num_optimal in (num_plans, None)


@having(Sampled)
@given(seed=seeds)
@settings(max_examples=60)
def test_the_reference_plan_succeeds_step_by_step(task: Task[Any], seed: int) -> None:
    state = sample(task, seed)
    solution = task.solve(state)
    assert solution is not None
    plan = solution.plan
    assert set(plan) <= set(task.actions)
    for strict_edges in (False, True):
        outcome = task.execute(state, plan, strict_edges=strict_edges)
        assert (outcome.success, outcome.legal, outcome.reason) == (True, True, "success")
        assert outcome.num_executed == len(plan)
    for end in range(len(plan)):
        assert task.execute(state, plan[:end]).reason == "not_reached"
    assert task.difficulty(state, len(plan)) in ("easy", "medium", "hard")


@having(Sampled)
@given(seed=seeds)
@settings(max_examples=40)
def test_a_solver_with_a_generator_gives_another_shortest_plan(task: Task[Any], seed: int) -> None:
    state = sample(task, seed)
    first, drawn = task.solve(state), task.solve(state, rng=np.random.default_rng(seed))
    assert first is not None and drawn is not None
    assert len(first.plan) == len(drawn.plan)
    assert first.num_optimal == drawn.num_optimal
    assert task.execute(state, drawn.plan).success
    assert task.solve(state) == first


@having(Generates)
@given(seed=seeds)
@settings(max_examples=40)
def test_actions_after_the_end_change_nothing(task: Task[Any], seed: int) -> None:
    rng = np.random.default_rng(seed)
    state = sample(task, seed)
    plan = [task.actions[i] for i in rng.integers(len(task.actions), size=30)]
    outcome = task.execute(state, plan)
    assert outcome.reason in REASONS
    assert outcome.success == (outcome.reason == "success")
    assert outcome.legal == (outcome.reason in ("success", "not_reached"))
    if outcome.reason != "not_reached":
        assert task.execute(state, plan[: outcome.num_executed]) == outcome
        assert task.execute(state, plan[: outcome.num_executed - 1]).reason == "not_reached"


@having(Sampled)
def test_listed_states_are_all_distinct_solvable_and_as_many_as_counted(task: Task[Any]) -> None:
    levels = small_levels(task)
    assert levels, "no level of this task can be listed"
    for level in levels:
        states = list(task.enumerate_states(level))
        assert len(states) == task.num_states(level)
        assert len({canonical_key(task, state) for state in states}) == len(states)
        for state in states[:: max(1, len(states) // 300)]:
            assert task.level_of(state) == level
            assert task.solve(state) is not None
            assert task.parse_state(through_json(task.to_json(state))) == state


@having(Generates)
def test_generated_states_are_among_the_listed_ones(task: Task[Any]) -> None:
    level = small_levels(task)[-1]
    listed = {canonical_key(task, state) for state in task.enumerate_states(level)}
    rng = np.random.default_rng(0)
    drawn = {canonical_key(task, task.generate(level, rng)) for _ in range(300)}
    assert drawn <= listed


@having(Generates)
@pytest.mark.parametrize("level", ABSURD_LEVELS, ids=repr)
def test_an_absurd_level_is_an_error_at_once(task: Task[Any], level: Any) -> None:
    rng = np.random.default_rng(0)
    for call in (
        lambda: task.generate(level, rng),
        lambda: task.num_states(level),
        lambda: next(iter(task.enumerate_states(level))),
    ):
        with pytest.raises(BadStateError, match=f"^{task.name}: level "):
            call()


class StuckGenerator(np.random.Generator):
    """Draws the same thing for ever, so that a generator that waits for luck would wait for ever."""

    def __init__(self, fraction: float) -> None:
        super().__init__(np.random.PCG64(0))
        self._fraction = fraction

    def random(self, size: Any = None, *args: Any, **kwargs: Any) -> Any:
        return self._fraction if size is None else np.full(size, self._fraction)

    def uniform(self, low: Any = 0.0, high: Any = 1.0, size: Any = None) -> Any:
        value = low + (high - low) * self._fraction
        return value if size is None else np.full(size, value)

    def integers(self, low: Any, high: Any = None, size: Any = None, *args: Any, **kwargs: Any) -> Any:
        low, high = (0, low) if high is None else (low, high)
        value = min(int(low + (high - low) * self._fraction), high - 1)
        return value if size is None else np.full(size, value)

    def choice(self, a: Any, size: Any = None, replace: bool = True, *args: Any, **kwargs: Any) -> Any:
        options = np.arange(a) if isinstance(a, int) else np.asarray(a)
        count = 1 if size is None else int(np.prod(size))
        start = min(int(len(options) * self._fraction), len(options) - count)
        drawn = options[start : start + count]
        return drawn[0] if size is None else drawn


@having(Sampled)
@pytest.mark.parametrize("fraction", [0.0, 0.5, 0.999])
def test_a_generator_of_numbers_that_never_changes_cannot_make_it_loop(
    task: Task[Any], fraction: float
) -> None:
    try:
        state = task.generate(task.levels[0], StuckGenerator(fraction))
    except ImpossibleRequestError as error:
        assert str(error).startswith(f"{task.name}: no ")
    else:
        assert task.solve(state) is not None


@having(Generates)
def test_the_form_of_a_state_names_every_field_in_one_line(task: Task[Any]) -> None:
    assert set(re.findall(r'"(\w+)":', task.state_form)) == set(task.to_json(worked_state(task)))
    assert "\n" not in task.state_form


@having(Generates, TextMaps)
@given(seed=seeds, text=st.text(max_size=40) | st.text("SFHG#APT. \n", max_size=80))
@settings(max_examples=100)
def test_a_map_of_characters_is_read_back_as_its_state_and_no_text_as_more(
    task: Any, seed: int, text: str
) -> None:
    state = sample(task, seed)
    drawn = task.to_text(state)
    assert task.parse_text(drawn) == state
    assert task.parse_text("\n \n  " + drawn.replace("\n", " \r\n\n\t") + "\n") == state
    for hostile in (text, drawn + text, drawn[:-1], drawn + "\n" + drawn, "#" * 10**5, "#\n" * 10**4):
        try:
            again = task.parse_text(hostile)
        except BadStateError as error:
            assert str(error).startswith(f"{task.name}: ")
        else:
            assert task.parse_text(task.to_text(again)) == again


@having(Plans)
@given(data=Json)
@settings(max_examples=150)
def test_any_json_is_a_state_or_a_clear_error(task: Task[Any], data: Any) -> None:
    with pytest.raises(BadStateError, match=f"^{task.name}: "):
        task.parse_state(data)


@having(Generates)
@given(seed=seeds, value=Json)
@settings(max_examples=60)
def test_a_state_with_one_odd_field_is_a_state_or_an_error_that_names_the_field(
    task: Task[Any], seed: int, value: Any
) -> None:
    data = through_json(task.to_json(sample(task, seed)))
    field = sorted(data)[seed % len(data)]
    try:
        task.parse_state(data | {field: value})
    except BadStateError as error:
        assert str(error).startswith(f"{task.name}: ")
        assert re.search(rf"\b{field}\b|outside the \d+x\d+ grid|share a cell", str(error)), error


@having(Generates)
def test_a_missing_field_is_named_with_the_fields_there_are(task: Task[Any]) -> None:
    data = task.to_json(worked_state(task))
    for field in data:
        rest = {name: value for name, value in data.items() if name != field}
        with pytest.raises(BadStateError, match=f"no field '{field}'.*{re.escape(str(sorted(rest)))}"):
            task.parse_state(rest)


@having(Generates, Recites)
def test_the_recital_determines_the_state(task: Task[Any]) -> None:
    level = small_levels(task)[-1]
    listed = islice(task.enumerate_states(level), NUM_SMALL)
    recitals = [state_text(task.recital(state)) for state in listed]
    assert len(set(recitals)) == len(recitals)


@having(Generates, Recites)
@given(seed=seeds)
@settings(max_examples=40)
def test_facts_begin_with_the_recital_and_stay_on_one_line(task: Task[Any], seed: int) -> None:
    state = sample(task, seed)
    recital, facts = task.recital(state), task.facts(state)
    assert list(facts.items())[: len(recital)] == list(recital.items())
    assert next(iter(recital.items())) == ("Size", str(task.level_of(state)))
    for name, text in facts.items():
        assert re.fullmatch(r"[A-Z][a-z ]*", name)
        assert text and not re.search(r"[.\n<>]", text)


@having(Generates, Recites)
@given(seed=seeds)
@settings(max_examples=60)
def test_a_recital_is_read_back_as_the_state_it_tells(task: Task[Any], seed: int) -> None:
    state = sample(task, seed)
    assert task.parse_recital(task.recital(state)) == state
    assert task.parse_recital(task.facts(state)) == state


@having(Generates, Recites)
@given(seed=seeds)
@settings(max_examples=40)
def test_a_recital_in_another_order_and_spelling_tells_the_same_state(task: Task[Any], seed: int) -> None:
    state, rng = sample(task, seed), np.random.default_rng(seed)
    spelt = {}
    for name, text in task.recital(state).items():
        items = split_items(text)
        words = [
            f"{cell.replace('(', '( 0').replace(',', ' , ')} {said[::-1].lower()}" if cell else said.lower()
            for cell, said in (items[i] for i in rng.permutation(len(items)))
        ]
        spelt[name] = " ;, ".join(words)
        assert same_text(spelt[name], text)
    assert task.parse_recital(spelt) == state


@having(Generates, Recites)
@given(seed=seeds, data=st.data())
@settings(max_examples=150)
def test_any_recited_text_is_a_state_or_a_clear_error(task: Task[Any], seed: int, data: Any) -> None:
    recital = task.recital(sample(task, seed))
    name = data.draw(st.sampled_from(sorted(recital)))
    text = data.draw(st.text(max_size=30) | st.text("0123456789(), LDRUnone", max_size=60) | st.just(None))
    hostile = {key: value for key, value in recital.items() if key != name}
    if text is not None:
        hostile[name] = text
    try:
        state = task.parse_recital(hostile)
    except BadStateError as error:
        assert str(error).startswith(f"{task.name}: ")
        assert len(str(error)) < 400
    else:
        assert task.parse_state(through_json(task.to_json(state))) == state
        assert task.parse_recital(task.recital(state)) == state


@having(Generates, Recites)
def test_a_field_that_is_missing_or_repeats_itself_is_no_state(task: Task[Any]) -> None:
    recital = task.recital(worked_state(task))
    for name, text in recital.items():
        for spoilt in (
            None,
            "",
            "none of it",
            f"{text} {text} x",
            "(999999999,0)",
            "0" * 10_000,
            "(" * 10_000,
        ):
            fields = {key: value for key, value in recital.items() if key != name}
            with pytest.raises(BadStateError, match=f"^{task.name}: "):
                task.parse_recital(fields if spoilt is None else fields | {name: spoilt})


@having(Sampled, Recites)
@given(seed=seeds)
@settings(max_examples=60)
def test_the_reference_response_is_judged_a_perfect_answer(task: Task[Any], seed: int) -> None:
    state = sample(task, seed)
    solution = task.solve(state)
    assert solution is not None
    response = reference_response(task, state, solution.plan)
    recited, route, answer = response.split("\n")
    assert recited == state_text(task.recital(state))
    assert route.startswith("Route: ") and route.endswith(".")
    assert answer == f"<answer>{' '.join(solution.plan)}</answer>"
    verdict = judge(task, state, response)
    assert verdict.as_dict() == {
        "parsed": True,
        "illegal": False,
        "success": True,
        "optimal": True,
        "num_executed": len(solution.plan),
        "reason": "success",
    }


@having(Generates, DrawsTiles)
@given(seed=seeds, cell_px=st.integers(drawing.MIN_CELL_PX, 70))
@settings(max_examples=25)
def test_the_picture_is_made_of_whole_cells(task: Task[Any], seed: int, cell_px: int) -> None:
    state = sample(task, seed)
    level = task.level_of(state)
    picture = task.draw(state, cell_px)
    assert picture.shape == (level * cell_px, level * cell_px, 3) and picture.dtype == np.uint8
    tiles, kinds = task.tiles(cell_px), task.tile_kinds(state)
    assert kinds.shape == (level, level)
    for r in range(level):
        for c in range(level):
            cell = picture[r * cell_px : (r + 1) * cell_px, c * cell_px : (c + 1) * cell_px]
            assert np.array_equal(cell, tiles.palette[tiles.indices[kinds[r, c]]])


@having(Sampled, DrawsTiles)
@given(seed=seeds)
@settings(max_examples=40)
def test_the_trace_of_the_reference_plan_has_a_cell_for_each_step(task: Task[Any], seed: int) -> None:
    state = sample(task, seed)
    solution = task.solve(state)
    assert solution is not None and len(task.trace(state, solution.plan)) == len(solution.plan) + 1


@having(Generates, Draws)
def test_no_two_states_draw_the_same_picture(task: Task[Any]) -> None:
    level = small_levels(task)[-1]
    for cell_px in (8, 32) if able(task, DrawsTiles) else ():
        tiles = task.tiles(cell_px).indices.reshape(-1, cell_px * cell_px)
        assert len(np.unique(tiles, axis=0)) == len(tiles)
    num_states = task.num_states(level)
    pictures = {task.draw(state, 8).tobytes() for state in task.enumerate_states(level)}
    assert len(pictures) == num_states


@having(Plans)
def test_rules_exist_for_both_prompt_sets_and_name_every_action(task: Task[Any]) -> None:
    assert set(task.rules) == {"full", "brief"}
    words = set(re.findall(r"\w+", task.rules["full"]))
    assert set(task.actions) <= words
    assert len(task.rules["brief"]) < 100


@having(Plans)
def test_roles_and_measures_are_of_what_the_world_can_do(task: Any) -> None:
    assert DESCRIBE not in task.roles or able(task, Recites)
    assert ("optimal" in {measure.name for measure in task.measures}) == (able(task, Solves) is not None)
    assert set(task.usual) <= {condition.name for condition in task.conditions}

"""What holds for every registered world or task that has an optional capability; a new one is picked up by itself."""

from __future__ import annotations

from itertools import islice
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pilotage.data.made import made_examples, makes_examples, own_levels
from pilotage.errors import BadStateError, ImpossibleRequestError
from pilotage.worlds import get_world, world_names
from pilotage.worlds.agents import AgentSession
from pilotage.worlds.capabilities import able
from pilotage.worlds.task import Generates, HasPrior, Sampled, Stepwise, Task, TextMaps
from pilotage.worlds.world import HasAgentInfo, HasExpert, HasWrongAnswers, ShowsEnd
from world_examples import MAX_ACTS, example_of, is_installed, reference_of

NUM_LISTED = 20_000
"""Levels with at most this many states are listed in full."""


NEEDED: dict[type, tuple[type, ...]] = {HasPrior: (Sampled,), Stepwise: (Task,), TextMaps: (Generates,)}
"""What a capability is tried by besides; a world that lacks it is not tried."""


def having(protocol: type) -> list[str]:
    """Names of the worlds that have the capability, in their sessions where it is one of sessions."""
    if protocol is ShowsEnd:
        opened = (
            (name, get_world(name).open(example_of(name)))
            for name in filter(makes_examples, world_names())
            if is_installed(name)
        )
        return [name for name, session in opened if isinstance(session, ShowsEnd)]
    needed = (protocol, *NEEDED.get(protocol, ()))
    named = [name for name in world_names() if all(able(get_world(name), each) for each in needed)]
    return [name for name in named if protocol is not HasWrongAnswers or makes_examples(name)]


CAPABILITIES = {
    protocol: having(protocol)
    for protocol in (HasExpert, HasPrior, HasWrongAnswers, ShowsEnd, Stepwise, HasAgentInfo, TextMaps)
}


def with_capability(protocol: type) -> Any:
    return pytest.mark.parametrize("name", CAPABILITIES[protocol])


def states_of(task: Task[Any], num: int) -> list[Any]:
    """Random states, of the task's levels in turn."""
    rng = np.random.default_rng(0)
    return [task.generate(task.levels[place % len(task.levels)], rng) for place in range(num)]


@pytest.mark.parametrize("protocol", CAPABILITIES, ids=lambda protocol: protocol.__name__)
def test_some_world_has_it(protocol: type) -> None:
    assert CAPABILITIES[protocol]


@with_capability(HasExpert)
def test_an_expert_leads_from_wherever_the_episode_is_to_success_and_knows_nothing_behind_it(
    name: str,
) -> None:
    world: Any = get_world(name)
    session = world.open(example_of(name))
    session.act("nothing to be read here")
    num_acts = 0
    while (seen := session.observe()) is not None:
        plan = world.expert(session)
        assert plan
        assert seen.privileged is None or seen.privileged.plan == plan
        session.act(f"<answer>{' '.join(plan)}</answer>")
        num_acts += 1
        assert num_acts < MAX_ACTS
    assert session.outcome().success
    assert world.expert(session) is None
    session.close()


@with_capability(ShowsEnd)
def test_an_end_is_shown_without_anything_privileged_and_the_episode_stays_over(name: str) -> None:
    example = example_of(name)
    session: Any = get_world(name).open(example)
    while (seen := session.observe()) is not None:
        session.act(reference_of(example, seen))
    shown = session.at_end()
    assert shown is not None and shown.images
    assert shown.privileged is None
    assert shown.images != example.start.images
    assert session.at_end() == shown and session.observe() is None
    session.close()


@with_capability(HasAgentInfo)
def test_agents_are_told_by_name_and_nothing_of_the_state_or_the_plan(name: str) -> None:
    world: Any = get_world(name)
    example = example_of(name)
    info = world.agent_info(example)
    assert info and not {"observe", "act"} & set(info)
    session = world.open(example)
    facing = AgentSession(session, world, example)
    assert all(getattr(facing, each) == value for each, value in info.items())
    with pytest.raises(AttributeError, match="an agent has observe, act, "):
        _ = facing.no_such_name
    assert world.agent_info(example.public()) == info
    session.close()


@with_capability(HasWrongAnswers)
def test_wrong_answers_are_as_many_as_asked_for_each_another_and_each_wrong(name: str) -> None:
    world: Any = get_world(name)
    most = 0
    for example in made_examples(name, own_levels(name)[:1], 3, "train", 0):
        with pytest.raises(ImpossibleRequestError) as caught:
            world.wrong(example, 10**6, seed=0)
        num = min(caught.value.num_found, 20)
        most = max(most, num)
        wrong = world.wrong(example, num, seed=0) if num else ()
        assert len({reference_of(each) for each in wrong}) == num
        for each in wrong:
            assert (each.id, each.start.images, each.state) == (
                example.id,
                example.start.images,
                example.state,
            )
            session = world.open(example)
            session.act(reference_of(each))
            assert not session.outcome().success
            session.close()
    assert most > 1


@with_capability(HasPrior)
def test_states_with_and_against_a_prior_are_equally_many_and_equally_hard(name: str) -> None:
    task: Any = get_world(name)
    assert task.prior and task.prior[0].islower()
    level = max(level for level in range(2, task.levels[-1]) if 0 < (_num(task, level) or 0) <= NUM_LISTED)
    lengths: dict[bool | None, list[int]] = {True: [], False: [], None: []}
    for state in task.enumerate_states(level):
        lengths[task.follows_prior(state)].append(len(task.solve(state).plan))
    assert lengths[True]
    assert sorted(lengths[True]) == sorted(lengths[False])


def _num(task: Any, level: int) -> int | None:
    try:
        return task.num_states(level)
    except BadStateError:
        return None


@with_capability(TextMaps)
def test_a_map_reads_back_as_its_state_whatever_space_there_is(name: str) -> None:
    task: Any = get_world(name)
    assert "\n" not in task.text_form
    for state in states_of(task, 24):
        text = task.to_text(state)
        assert task.parse_text(text) == state
        assert task.parse_text("\n\n" + text.replace("\n", "  \n\n") + " \n") == state


@with_capability(TextMaps)
@given(text=st.text(max_size=40) | st.text("SFHGPTA.#@\n ", max_size=40))
def test_a_text_that_is_no_map_is_a_bad_state(name: str, text: str) -> None:
    task: Any = get_world(name)
    try:
        state = task.parse_text(text)
    except BadStateError:
        return
    assert task.parse_text(task.to_text(state)) == state


@with_capability(Stepwise)
def test_moves_one_by_one_come_to_what_the_plan_does_and_the_last_leaves_the_state_as_it_was(
    name: str,
) -> None:
    task: Any = get_world(name)
    for state in states_of(task, 24):
        *plan, last = task.solve(state).plan
        for action in plan:
            state, reason = task.after(state, action)
            assert reason == ""
        assert task.execute(state, ()).reason == "not_reached"
        assert task.after(state, last) == (state, "success")
        assert not np.array_equal(task.draw(task.ended(state, last), 8), task.draw(state, 8))


@with_capability(Stepwise)
def test_a_placed_or_cornered_start_is_of_the_same_map_with_the_player_there(name: str) -> None:
    task: Any = get_world(name)
    num_placed = num_cornered = 0
    for state in states_of(task, 24):
        side = range(task.level_of(state))
        placed = ((cell, task.placed(state, cell)) for cell in ((r, c) for r in side for c in side))
        for cell, other in islice(((cell, other) for cell, other in placed if other is not None), 5):
            assert task.trace(other, ()) == [cell] and task.fixed(other) == task.fixed(state)
            num_placed += 1
        if (corner := task.cornered(state)) is not None:
            assert task.trace(corner, ()) == [(0, 0)]
            num_cornered += 1
    assert num_placed and num_cornered

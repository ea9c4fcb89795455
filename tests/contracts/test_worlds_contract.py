"""What holds for every registered world, whatever it is. A new world is picked up by itself."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pilotage.errors import PilotageError
from pilotage.records import Example, Measure, Moment, Observation, Turn, View
from pilotage.views import view_of
from pilotage.worlds import get_world, world_names
from pilotage.worlds.world import World, check_outcome, condition_of
from world_examples import MAX_ACTS, example_of, reference_of

every_world = pytest.mark.parametrize("name", world_names())

answers = st.one_of(
    st.text(max_size=60),
    st.lists(st.sampled_from(["L", "D", "R", "U", "PICK", "DROP", "x", "7", "→"]), max_size=6).map(
        lambda words: f"Size: 4. Player: (0,0).\n<answer>{' '.join(words)}</answer>"
    ),
    st.sampled_from(
        ["", "<answer>", "<answer></answer>", "</think>", "\\boxed{B}", "\x00", "１２", "((((" * 50]
    ),
)


def sessions(name: str) -> Any:
    """(role, a session of it), for every role."""
    world = get_world(name)
    return [(role, world.open(example_of(name), role=role)) for role in world.roles]


@every_world
def test_a_world_says_what_it_is(name: str) -> None:
    world = get_world(name)
    assert isinstance(world, World)
    assert world.name == name
    assert re.fullmatch(r"[a-z][a-z_0-9]*", name)
    assert world.title
    assert world.roles and len(set(world.roles)) == len(world.roles)
    assert "success" in world.reasons and len(set(world.reasons)) == len(world.reasons)
    assert all(isinstance(measure, Measure) for measure in world.measures)
    names = [measure.name for measure in world.measures]
    assert len(set(names)) == len(names)
    assert all(re.fullmatch(r"[a-z][a-z_0-9]*", measure) for measure in names)
    assert all((measure.name.startswith("num_")) <= (not measure.is_flag) for measure in world.measures)


@every_world
def test_conditions_are_of_the_worlds_roles_and_views(name: str) -> None:
    world = get_world(name)
    names = [condition.name for condition in world.conditions]
    assert names and len(set(names)) == len(names)
    for condition in world.conditions:
        assert condition_of(world, condition.name) is condition
        assert set(condition.views) <= set(world.roles)
        assert condition.title
        moment = Moment(example=example_of(name), role=condition.role, seen=example_of(name).start)
        for view in condition.views.values():
            shown = view_of(view, name)(moment, "full")
            parts = [p for m in shown.messages if not isinstance(m["content"], str) for p in m["content"]]
            assert sum(part["type"] == "image" for part in parts) == len(shown.images)
    assert condition_of(world, "no such condition") is None


@every_world
def test_an_unknown_role_is_an_error(name: str) -> None:
    with pytest.raises(PilotageError):
        get_world(name).open(example_of(name), role="no such role")


@every_world
def test_another_worlds_example_is_an_error(name: str) -> None:
    for other in world_names():
        if other != name:
            with pytest.raises(PilotageError):
                get_world(name).open(example_of(other))


@every_world
def test_an_episode_begins_with_the_examples_start_and_shows_the_same_until_acted_on(name: str) -> None:
    for _, session in sessions(name):
        assert session.observe() == example_of(name).start
        assert session.observe() == session.observe()
        session.close()


@every_world
@given(texts=st.lists(answers, max_size=8))
@settings(max_examples=40)
def test_no_text_is_an_error_and_every_outcome_is_in_the_worlds_own_words(
    name: str, texts: list[str]
) -> None:
    world = get_world(name)
    for role in world.roles:
        twice = []
        for _ in range(2):
            session = world.open(example_of(name), role=role)
            rewards = []
            for text in texts:
                if session.observe() is None:
                    break
                rewards.append(session.act(text))
                assert rewards[-1] is None or isinstance(rewards[-1], float)
            twice.append((rewards, check_outcome(world, session.outcome()), session.observe()))
            session.close()
        # The same words make the same episode.
        assert twice[0] == twice[1]
        outcome = twice[0][1]
        assert outcome.success == (outcome.reason == "success")
        flags = {measure.name for measure in world.measures if measure.is_flag}
        for measure, value in outcome.measures.items():
            assert isinstance(value, bool) == (measure in flags), measure
            assert value >= 0
        assert set(outcome.fields) <= set(outcome.right) or not outcome.right


@every_world
def test_an_episode_ends_and_stays_ended(name: str) -> None:
    for _, session in sessions(name):
        num_acts = 0
        while session.observe() is not None:
            session.act("nothing to be read here")
            num_acts += 1
            assert num_acts < MAX_ACTS
        outcome = session.outcome()
        assert session.observe() is None and session.outcome() == outcome
        assert not outcome.success
        session.close()
        session.close()


@every_world
def test_an_episode_that_is_cut_off_has_an_outcome(name: str) -> None:
    for _, session in sessions(name):
        assert not check_outcome(get_world(name), session.outcome()).success
        session.close()


@every_world
def test_episodes_under_way_at_once_do_not_touch_each_other(name: str) -> None:
    world = get_world(name)
    here, there = world.open(example_of(name)), world.open(example_of(name))
    while here.observe() is not None:
        here.act("nothing to be read here")
    assert there.observe() == example_of(name).start


@every_world
def test_what_is_public_has_nothing_privileged(name: str) -> None:
    example = example_of(name)
    session = get_world(name).open(example)
    session.act("<answer>L</answer>")
    seen = session.observe() or example.start
    view = View(name="student", messages=[])
    past = (Turn(role="", seen=example.start, view=view, rollout=None),)
    moment = Moment(example=example, role="", seen=seen, past=past).public()
    assert list(_privileged(moment)) == []
    public = example.public()
    assert not (public.state or public.plan or public.facts or public.hidden)
    parts = [] if example.start.privileged is None else [example.start.privileged]
    parts += [seen.privileged] if seen.privileged else []
    for privileged in parts:
        assert str(privileged.state) not in str(public)


def _privileged(value: Any) -> Any:
    """Every privileged part of an observation anywhere inside."""
    if isinstance(value, Observation):
        if value.privileged is not None:
            yield value.privileged
    elif isinstance(value, Moment | Turn | Example):
        for field in value.__dataclass_fields__:
            yield from _privileged(getattr(value, field))
    elif isinstance(value, tuple | list):
        for one in value:
            yield from _privileged(one)
    elif isinstance(value, Mapping):
        for one in value.values():
            yield from _privileged(one)


@every_world
def test_reference_answers_succeed(name: str) -> None:
    world, example = get_world(name), example_of(name)
    session = world.open(example)
    num_acts = 0
    while (seen := session.observe()) is not None:
        session.act(reference_of(example, seen))
        num_acts += 1
        assert num_acts < MAX_ACTS
    assert num_acts
    assert check_outcome(world, session.outcome()).success
    session.close()


@every_world
def test_a_damaged_example_is_an_error_and_no_episode(name: str) -> None:
    example = example_of(name)
    assert example.start.privileged is not None
    damaged = replace(example.start.privileged, state={"no": "state"})
    for start in (replace(example.start, privileged=damaged), replace(example.start, privileged=None)):
        with pytest.raises(PilotageError):
            get_world(name).open(replace(example, start=start, hidden={}))

"""A scheduler and five capabilities: what they may answer, what is right, and that right answers arrive."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("minigrid")

from household import labelled, missions, played
from pilotage.errors import PilotageError
from pilotage.records import Moment, Rollout, View
from pilotage.views import make_view, reference_of_view, view_of
from pilotage.worlds import get_world
from pilotage.worlds.household.agents import NOT_FOUND, Capabilities, capabilities
from pilotage.worlds.household.babyai import BabyAI
from pilotage.worlds.household.grammar import ROLES, Query, read_answer, read_moves
from pilotage.worlds.household.labels import is_done, label_of, overlap, verdict_on
from pilotage.worlds.household.missions import FAMILIES
from pilotage.worlds.household.reports import read_report, report

NUM_PLAYED = {"GoTo": 5, "Synth": 4, "BossLevel": 4}
"""Of the larger families; 30 of the others."""
PIECES = (
    *("Query:", "explore(", "do(", "red ball", ")", "stop", "[", "]", "1, 2", "LEFT", "no", "done", "not "),
    *("ahead", ",", "\n", "<think>", "</think>", "<answer>", "</answer>"),
)
texts = st.text(max_size=80) | st.lists(st.sampled_from(PIECES), max_size=14).map(" ".join)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_roles_own_labels_arrive_wherever_the_expert_arrives(family: str) -> None:
    episodes = played(missions(family, NUM_PLAYED.get(family, 30), tile_px=4), "schedule")
    for episode in episodes:
        outcome = episode.outcome
        assert outcome is not None and outcome.success, episode.example.id
        # The same actions as the expert's, and no label is wrong by its own judge.
        assert outcome.measures["optimal"] and outcome.measures["num_wrong"] == 0 and outcome.is_("parsed")
        assert episode.turns[-1].reward == 1.0 and episode.turns[-1].role == "decode"
    asked = {turn.role for episode in episodes for turn in episode.turns}
    assert {"schedule", "decode"} <= asked


def test_every_role_is_asked_somewhere() -> None:
    episodes = played(missions("UnlockPickup", 4, tile_px=4), "schedule", agent="capabilities_described")
    assert {turn.role for episode in episodes for turn in episode.turns} == set(ROLES)


@pytest.mark.parametrize("role", ROLES)
@given(text=texts)
def test_no_answer_raises_and_what_cannot_be_read_has_a_problem(role: str, text: str) -> None:
    read = read_answer(role, text)
    assert (read.value is None) == bool(read.problem)
    assert (read_moves(text).value is None) == bool(read_moves(text).problem)


@pytest.mark.parametrize(
    ("role", "text", "value"),
    [
        (
            "schedule",
            "Think: first the key.\nQuery: explore(the Red Ball)",
            Query(call="explore", of="red ball"),
        ),
        ("schedule", "do(go to a blue door)", Query(call="do", of="go to blue door")),
        ("schedule", "do(open red door) Query: STOP()", Query(call="stop")),
        ("schedule", "Query: explore(key), do(pick up key)", Query(call="do", of="pick up key")),
        ("schedule", "<think>do(open red door)</think>nothing", None),
        ("schedule", "do()", None),
        ("explore", "Left.", "left"),
        ("explore", "left or right", None),
        ("explore", "up", None),
        ("locate", "red ball [32, 0, 64, 32]", (32, 0, 64, 32)),
        ("locate", '```json\n[{"bbox_2d": [1, 2, 3, 4], "label": "ball"}]\n```', (1, 2, 3, 4)),
        ("locate", "[3, 2, 1, 4]", None),
        ("locate", "No", ()),
        ("locate", "nothing", None),
        (
            "describe",
            "the red ball 2 ahead 1 left, blue door 3 ahead closed",
            frozenset({("red ball", "2 ahead 1 left", ""), ("blue door", "3 ahead", "closed")}),
        ),
        ("describe", "none", frozenset()),
        ("describe", "a red cube", None),
        ("describe", "", None),
        ("decode", "[left, FORWARD]", ("LEFT", "FORWARD")),
        ("decode", "[]", ()),
        ("decode", "[LEFT, JUMP]", None),
        ("decode", "LEFT", None),
        ("decode", f"[{' '.join(['LEFT'] * 65)}]", None),
        ("summarise", "Done: it is there.", True),
        ("summarise", "Not done.", False),
        ("summarise", "It is done.", None),
    ],
)
def test_answers_are_read_by_their_grammar(role: str, text: str, value: object) -> None:
    assert read_answer(role, text).value == value


@given(role=st.sampled_from(ROLES), query=st.text(max_size=20), answer=texts)
def test_a_report_reads_back_and_no_other_text_is_one(role: str, query: str, answer: str) -> None:
    read = read_report(report(role, query, answer))
    assert read is not None and (read.role, read.query, read.answer) == (role, query, answer)
    assert read_report(answer) is None
    assert read_report(json.dumps({"role": "nobody", "query": query, "answer": answer})) is None


ROOM = {
    "grid": ["ewewewewew", "ew......ew", "ew..rb..ew", "ew......ew", "ewewewewew"],
    "agent": [1, 3, 0],
    "view": ["??" * 7] * 3 + ["??ewewewewew??", "??ew......ew??", "??ew..rb..ew??"[:14], "??ew......ew??"],
    "held": "",
    "query": "do(pick up red ball)",
    "direction": "",
    "actions": ["PICKUP"],
    "goals": [],
}
"""A room of three by three cells with a red ball in its middle; the view is that from below the ball, facing it."""


def test_labels_by_hand() -> None:
    def label(role: str, query: str = "") -> str:
        return label_of(role, ROOM, query, tile_px=10)

    assert label("schedule") == "Query: do(pick up red ball)"
    assert label("locate", "red ball") == "red ball [30, 50, 40, 60]" and label("locate", "key") == "no"
    assert label("describe", "ball") == label("describe") == "red ball 1 ahead"
    assert label("decode", "pick up red ball") == "[PICKUP]"
    # What the expert would not have asked for is done in the grid, from (1, 3) facing right.
    assert label("decode", "go to red ball") == "[FORWARD, LEFT]"
    assert label("decode", "go to green key") == label("decode", "put down key") == "[]"
    assert label("decode", "explore left") == "[LEFT, FORWARD, FORWARD]"
    assert label("explore", "red ball") == "ahead" and label("explore", "green key") == "ahead"
    assert label("summarise", "go to red ball") == "Done: go to red ball. Held: nothing. Ahead: red ball."
    assert label("summarise", "pick up red ball").startswith("Not done: ")
    nobody = {**ROOM, "query": "", "actions": []}
    with pytest.raises(PilotageError, match="no expert"):
        label_of("schedule", nobody, "", tile_px=10)


def test_any_of_several_things_of_a_name_is_right_and_a_box_beside_them_is_not() -> None:
    two = {**ROOM, "view": [*ROOM["view"][:5], "??ewrbrb..ew??", ROOM["view"][6]]}
    for text, verdict in (
        ("red ball [20, 50, 30, 60]", "right"),
        ("[30, 50, 40, 60]", "right"),
        ("[31, 50, 41, 60]", "right"),
        ("[40, 50, 50, 60]", "wrong"),
        ("no", "wrong"),
        ("there", "malformed"),
    ):
        assert verdict_on("locate", text, two, "red ball", tile_px=10) == verdict
    assert overlap((0, 0, 10, 10), (5, 0, 15, 10)) == pytest.approx(1 / 3)


@pytest.mark.parametrize(
    ("command", "row", "held", "done"),
    [
        ("go to red ball", "......rb......", "", True),
        ("go to red ball", "....rb........", "", False),
        ("go next to red ball", "....rb........", "key", True),
        ("go next to red ball", "......rb......", "", False),
        ("go to free cell", "..............", "", True),
        ("pick up blue key", "..............", "blue key", True),
        ("pick up key", "..............", "", False),
        ("put down blue key", "......bk......", "", True),
        ("open blue door", "......bo......", "", True),
        ("open blue door", "......bl......", "", False),
        ("close blue door", "......bc......", "", True),
    ],
)
def test_whether_a_command_is_done_is_seen(command: str, row: str, held: str, done: bool) -> None:
    state = {**ROOM, "view": [*["??" * 7] * 4, "." * 14, row, "." * 14], "held": held}
    assert is_done({**state, "view": [*state["view"][:4], ".." * 7, row, ".." * 7]}, command) == done


# -- the agent


def said(**answers: str):
    """Who answers the named roles with a text each, and the others with their labels."""

    def write(moment: Moment, view: View) -> Rollout:
        if moment.role in answers:
            return replace(labelled_empty(moment), text=answers[moment.role])
        return labelled(moment, view)

    return write


def labelled_empty(moment: Moment) -> Rollout:
    return Rollout(example_id=moment.example.id, token_ids=(), text="", finished=True)


@pytest.mark.parametrize("role", ROLES)
def test_a_role_that_writes_nonsense_loses_no_episode_to_an_error(role: str) -> None:
    write, examples = said(**{role: "?!"}), missions("UnlockPickup", 3, tile_px=4)
    episodes = played(examples, "schedule", write=write, agent="capabilities_described")
    for episode in episodes:
        assert episode.end == "done" and episode.outcome is not None
        assert not episode.outcome.is_("parsed")
    assert any(
        episode.outcome.measures.get(f"num_wrong_{role}", 0) > 0 for episode in episodes if episode.outcome
    )


def test_a_scheduler_that_cannot_be_read_is_asked_again_hotter_and_then_given_up() -> None:
    [episode] = played(missions("GoToLocal", 1), "schedule", write=said(schedule="hm"))
    assert [turn.notes.get("decoding") for turn in episode.turns] == [
        None,
        *(f"again_{n}" for n in range(1, 11)),
    ]
    assert BabyAI.temperatures["again_1"] == 0.9 and BabyAI.temperatures["again_10"] == 1.8
    assert episode.outcome is not None and episode.outcome.reason == "not_reached"
    [once] = played(
        missions("GoToLocal", 1), "schedule", write=said(schedule="hm"), agent="capabilities_once"
    )
    assert len(once.turns) == 1


def explored(how: Capabilities) -> list[tuple[str, str]]:
    """(role, what is told of directions tried) where `explore` always says left and nothing is ever found."""
    write = said(schedule="Query: explore(green key)", explore="left", locate="no", decode="[LEFT]")
    [episode] = played(missions("GoToLocal", 1, steps=8), "schedule", write=write, agent=how)
    return [(turn.role, ",".join(turn.notes.get("explored", ()))) for turn in episode.turns]


def test_a_direction_tried_in_vain_is_asked_for_again() -> None:
    as_published = explored(replace(capabilities, forgets_directions=False))
    assert as_published[:4] == [("schedule", ""), ("explore", ""), ("decode", ""), ("locate", "")]
    # The second time it is told, says the same ten times more, and the episode is given up.
    assert as_published[4:] == [("schedule", ""), *[("explore", "left")] * 11]
    # Here a turn to the left has changed what is left.
    assert ("explore", "left") not in explored(capabilities)


def test_the_history_holds_queries_and_what_was_located_and_summarised() -> None:
    write = said(schedule="Query: explore(green key)", explore="left", locate="no", decode="[LEFT]")
    [episode] = played(missions("GoToLocal", 1, steps=3), "schedule", write=write)
    message = [turn.notes["history"] for turn in episode.turns if turn.role == "schedule"]
    # A miss of the same query is told once.
    assert message == ["", *[f"Query: explore(green key)\n{NOT_FOUND}"] * 2]
    [episode] = played(missions("PutNextLocal", 1), "schedule")
    last = [turn.notes["history"] for turn in episode.turns if turn.role == "schedule"][-1]
    assert "Summary: Done: " in last and "Actions:" not in last and "Scene:" not in last
    [episode] = played(missions("PutNextLocal", 1), "schedule", agent="capabilities_all_told")
    assert "Actions: [" in [turn.notes["history"] for turn in episode.turns if turn.role == "schedule"][-1]


def test_stop_ends_the_episode() -> None:
    [episode] = played(missions("GoToLocal", 1), "schedule", write=said(schedule="Query: stop()"))
    assert len(episode.turns) == 1 and episode.outcome is not None
    assert episode.outcome.reason == "not_reached" and episode.outcome.measures["num_wrong_schedule"] == 1


# -- views


@pytest.mark.parametrize("prompts", ["full", "brief"])
@pytest.mark.parametrize("role", BabyAI.roles)
def test_only_privileged_views_tell_what_is_in_the_picture(role: str, prompts: str) -> None:
    examples = missions("GoToLocal", 2, tile_px=4)
    texts = {}
    for example in examples:
        same = replace(example.start, text="Mission: x.\nLast actions: none.")
        moment = Moment(example=replace(example, start=same), role=role, seen=same)
        for name in ("student", "released", "symbolic", "teacher", "student_with_plan"):
            view = make_view(name, moment, prompts)  # pyright: ignore[reportArgumentType]
            parts = view.messages[0]["content"]
            texts.setdefault(name, []).append(parts if isinstance(parts, str) else parts[0]["text"])
            assert "$" not in texts[name][-1]
            assert bool(view.images) == (not isinstance(parts, str))
            spec = view_of(name, "babyai")
            assert spec.shows_picture or not view.images
    assert len(set(texts["student"])) == len(set(texts["released"])) == 1
    assert len(set(texts["symbolic"])) == 2
    label = reference_of_view(Moment(example=examples[0], role=role, seen=examples[0].start), "teacher")
    if role != "act":
        assert label in texts["teacher"][0] and label in texts["student_with_plan"][0]


def test_a_capability_by_itself_is_asked_once() -> None:
    world = get_world("babyai")
    for example in missions("GoToLocal", 4):
        for role in ROLES[1:]:
            session = world.open(example, role=role)
            moment = Moment(example=example, role=role, seen=example.start)
            session.act(reference_of_view(moment, "student"))
            assert session.outcome().success and session.observe() is None

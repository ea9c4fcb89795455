"""Worlds of many turns played by hand: what a person is asked, and what comes of the answers."""

from __future__ import annotations

import base64
import http.client
import json
import threading
from typing import Any

import pytest

from pilotage.cli.main import main
from pilotage.data.made import made_examples
from pilotage.errors import PilotageError
from pilotage.play import ByHand, EpisodeServer


def begun(world: str, condition: str = "image", **options: Any) -> tuple[ByHand, dict[str, Any]]:
    hand = ByHand(world, options)
    return hand, hand.begin({"condition": condition, "seed": 0})


def test_a_grid_is_walked_by_hand_and_judged_by_its_world() -> None:
    hand, message = begun("frozenlake_steps")
    [example] = made_examples("frozenlake_steps", (3,), 1, "test", 0)
    assert base64.b64decode(message["images"][0]) == example.image and message["actions"] == [
        "L",
        "D",
        "R",
        "U",
    ]
    assert message["turn"] == 1 and message["role"] == "act" and "state" not in message
    for action in example.plan:
        assert not message["over"]
        message = hand.answer({"text": action})
    assert (
        message["over"] and message["success"] and message["measures"]["optimal"] == 1.0 and message["images"]
    )
    with pytest.raises(PilotageError, match="no episode is under way"):
        hand.answer({"text": "L"})


def test_only_conditions_that_tell_nothing_can_be_played() -> None:
    names = [condition.name for condition in ByHand("frozenlake_steps", {}).conditions]
    assert "image" in names and not {"text", "teacher", "corrected"} & set(names)


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        ({"condition": "teacher", "seed": 0}, "condition 'teacher' is none; there are image"),
        ({"condition": "image", "seed": -1}, "seed is '-1'"),
        ({"condition": "image", "seed": True}, "seed is 'True'"),
        ({}, "condition 'None' is none"),
    ],
)
def test_a_bad_question_is_one_line(request_: dict[str, Any], message: str) -> None:
    with pytest.raises(PilotageError, match=message):
        ByHand("frozenlake_steps", {}).begin(request_)


def test_a_person_is_scheduler_and_capabilities() -> None:
    pytest.importorskip("minigrid")
    hand, message = begun("babyai", "capabilities", tile_px=8)
    assert message["role"] == "schedule" and message["actions"] == [] and "explore(thing)" in message["text"]
    message = hand.answer({"text": "Query: explore(red ball)"})
    assert message["role"] == "explore" and "red ball" in message["text"]
    message = hand.answer({"text": "left"})
    assert message["role"] == "decode" and "explore left" in message["text"]
    message = hand.answer({"text": "[LEFT]"})
    assert message["role"] == "locate"
    message = hand.answer({"text": "no"})
    assert message["role"] == "schedule" and "not found" in message["text"]
    message = hand.answer({"text": "stop()"})
    assert message["over"] and message["reason"] == "not reached"


def test_the_page_is_served_and_asks_its_questions() -> None:
    with EpisodeServer(ByHand("frozenlake_steps", {}), port=0) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
        connection.request("GET", "/")
        answer = connection.getresponse()
        page = answer.read().decode()
        assert answer.status == 200 and "script-src 'sha256-" in answer.headers["Content-Security-Policy"]
        assert server.token in page and '"name":"image"' in page and "teacher" not in page
        headers = {"Content-Type": "application/json", "X-Pilotage": server.token}
        for path, question, status in (
            ("begin", {"condition": "image", "seed": 1}, 200),
            ("answer", {"text": "R"}, 200),
            ("answer", {"text": 7}, 400),
        ):
            connection.request("POST", f"/api/{path}", json.dumps(question), headers)
            answer = connection.getresponse()
            message = json.loads(answer.read())
            assert answer.status == status and ("error" in message) == (status == 400)
        server.shutdown()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("play mazes", "unknown world 'mazes'"),
        ("play maze_steps --model nano", "--model goes with levels of the planning tasks"),
        ("play --option fog=2", "--option and --agent go with a world"),
        ("play maze_steps --option fog", "give KEY=VALUE"),
        ("play maze_steps --agent nobody", "has no agent 'nobody'"),
    ],
)
def test_what_cannot_be_played_is_one_line(
    words: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words.split()) == 2
    err = capsys.readouterr().err
    assert message in err and err.count("\n") == 1

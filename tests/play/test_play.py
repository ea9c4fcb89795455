"""Planning by hand: what the page's questions give, and whom the server refuses."""

from __future__ import annotations

import http.client
import json
import socket
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from pilotage.errors import PilotageError
from pilotage.play import PlayServer
from pilotage.play.game import ask_model, judge_plan_text, new_level, own_level
from pilotage.play.server import MAX_BODY_BYTES
from pilotage.worlds import TASKS, get_task
from pilotage.worlds.task import TextMaps
from scripted import Scripted

LAKE = {"map": ["SFF", "FHF", "FFG"]}


@pytest.fixture(scope="module")
def server() -> Iterator[PlayServer]:
    with PlayServer(port=0, answerer=Scripted()) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def ask(
    server: PlayServer, path: str, question: Any = None, *, method: str = "POST", **headers: str | None
) -> tuple[int, Any]:
    """(status, answer). Headers may be replaced, or left out with None; underscores stand for hyphens."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
    given: dict[str, str | None] = {"Content-Type": "application/json", "X-Pilotage": server.token}
    given |= {name.replace("_", "-"): value for name, value in headers.items()}
    body = question if isinstance(question, bytes) else json.dumps(question).encode()
    host = given.pop("Host", f"127.0.0.1:{server.port}")
    connection.putrequest(method, path, skip_host=True)
    for name, value in ({"Host": host, "Content-Length": str(len(body))} | given).items():
        if value is not None:
            connection.putheader(name, value)
    connection.endheaders(body if method == "POST" else None)
    response = connection.getresponse()
    text = response.read().decode()
    connection.close()
    return response.status, json.loads(text) if response.headers[
        "Content-Type"
    ] == "application/json" else text


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.name)
def test_the_same_seed_gives_the_same_level(task: Any) -> None:
    question = {"task": task.name, "level": task.levels[0], "seed": 7}
    level = new_level(question)
    assert level == new_level(question) != new_level(question | {"seed": 8})
    assert level["n"] == task.levels[0] and len(level["k"]) == level["n"] ** 2
    assert task.to_json(task.parse_state(level["state"])) == level["state"]
    assert level["solvable"] is True
    # How to solve it is not told before there was a plan.
    assert not {"plan", "best", "p", "c"} & set(level)


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.name)
def test_a_map_that_was_shown_can_be_pasted(task: Any) -> None:
    level = new_level({"task": task.name, "level": task.levels[0], "seed": 1})
    if not isinstance(task, TextMaps):
        pytest.skip(f"{task.name} has no form for maps of characters")
    assert own_level({"task": level["task"], "text": level["text"]}) == level


def test_a_map_without_a_way_can_be_played_and_says_so() -> None:
    level = own_level({"task": "frozenlake", "text": "SHF\nHHF\nFFG"})
    assert level["solvable"] is False
    judged = judge_plan_text({"task": "frozenlake", "state": level["state"], "plan": "R"})
    assert (judged["class"], judged["best"]) == ("illegal", None)
    with pytest.raises(PilotageError, match="no plan reaches the goal"):
        ask_model({"task": "frozenlake", "state": level["state"], "view": "image"}, Scripted())


@pytest.mark.parametrize(
    ("plan", "expected"),
    [
        ("R R D D", "optimal"),
        ("right right down down", "optimal"),
        ("→→↓↓", "optimal"),
        ("L R R D D", "success"),
        ("<answer>R R D D</answer>", "optimal"),
        ("R D", "illegal"),
        ("R", "not_reached"),
        ("", "unparsed"),
        ("go there", "unparsed"),
    ],
)
def test_the_judge_is_the_one_that_models_meet(plan: str, expected: str) -> None:
    judged = judge_plan_text({"task": "frozenlake", "state": LAKE, "plan": plan})
    assert judged["class"] == expected
    assert judged["best"]["p"] == ["D", "D", "R", "R"]


def test_a_plan_comes_back_with_its_way() -> None:
    judged = judge_plan_text({"task": "frozenlake", "state": LAKE, "plan": "R D R"})
    answer = judged["answer"]
    assert (answer["p"], answer["c"], answer["t"]) == (["R", "D"], [0, 1, 4], 3)
    assert judged["outcome"]["reason"] == "hole"


def test_a_model_is_asked_and_judged() -> None:
    question = {"task": "frozenlake", "state": LAKE, "view": "image"}
    judged = ask_model(question, Scripted())
    assert (judged["class"], judged["seconds"]) == ("optimal", 0.25)
    assert judged["fields"] == ["Size", "Player", "Goal", "Holes"]
    misread = "Size: 3. Player: (0,0). Goal: (0,2). Holes: (1,1).\n<answer>R R</answer>"
    judged = ask_model(question, Scripted(misread))
    assert judged["class"] == "not_reached"
    assert judged["answer"]["q"]["k"] == "203010000" and judged["answer"]["q"]["ok"] == 1


@pytest.mark.parametrize(
    ("endpoint", "question", "message"),
    [
        (new_level, {"task": "chess", "level": 3, "seed": 0}, "chess"),
        (new_level, {"task": "maze", "level": 10**9, "seed": 0}, "level is 1000000000"),
        (new_level, {"task": "maze", "level": 3, "seed": -1}, "seed is -1"),
        (new_level, {"task": "maze", "level": True, "seed": 0}, "level is True"),
        (new_level, {}, "unknown task"),
        (own_level, {"task": "maze", "text": " \n"}, "the map is empty"),
        (own_level, {"task": "maze", "text": 3}, "the map is empty"),
        (own_level, {"task": "frozenlake", "text": "S?\nFG"}, r"row 0 column 1 is '\?'"),
        (judge_plan_text, {"task": "maze", "state": [], "plan": "R"}, "no JSON object"),
        (judge_plan_text, {"task": "maze", "state": {}, "plan": "R"}, "walls"),
        (judge_plan_text, {"task": "frozenlake", "state": LAKE, "plan": 7}, "the plan is no text"),
        (judge_plan_text, {"task": "frozenlake", "state": LAKE, "plan": "R" * 60_000}, "50,000 characters"),
    ],
)
def test_a_question_that_makes_no_sense_is_answered_in_a_line(
    endpoint: Any, question: Any, message: str
) -> None:
    with pytest.raises(PilotageError, match=message):
        endpoint(question)


def test_the_page_and_every_question_are_answered(server: PlayServer) -> None:
    status, page = ask(server, "/", method="GET")
    assert status == 200 and "Plan by hand" in page
    # The model's name is foreign text.
    assert "<b>scripted" not in page and "\u202e" not in page and "&lt;b&gt;scripted" in page
    status, level = ask(server, "/api/level", {"task": "maze", "level": 3, "seed": 1})
    assert status == 200
    status, judged = ask(server, "/api/model", {"task": "maze", "state": level["state"], "view": "text"})
    assert (status, judged["class"]) == (200, "optimal")


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:80", "127.0.0.1", "", None, "localhost.evil.example"]
)
def test_another_host_is_refused(server: PlayServer, host: str | None) -> None:
    for method, path in (("GET", "/"), ("POST", "/api/level")):
        status, answer = ask(server, path, {"task": "maze", "level": 3, "seed": 1}, method=method, Host=host)
        assert status == 403 and "this machine only" in answer["error"]


def test_two_hosts_are_refused(server: PlayServer) -> None:
    request = f"GET / HTTP/1.1\r\nHost: localhost:{server.port}\r\nHost: evil.example\r\n\r\n"
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as connection:
        connection.sendall(request.encode())
        assert b" 403 " in connection.recv(64)


def test_localhost_is_this_machine(server: PlayServer) -> None:
    host = f"localhost:{server.port}"
    assert ask(server, "/", method="GET", Host=host)[0] == 200
    question = {"task": "maze", "level": 3, "seed": 1}
    assert ask(server, "/api/level", question, Host=host, Origin=f"http://{host}")[0] == 200


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"X_Pilotage": "guessed"}, 403),
        ({"X_Pilotage": None}, 403),
        ({"Content_Type": "text/plain"}, 415),
        ({"Content_Length": None}, 411),
        ({"Content_Length": "-5"}, 411),
        ({"Content_Length": str(MAX_BODY_BYTES + 1)}, 413),
        ({"Content_Length": "9" * 400}, 413),
        ({"Content_Length": "0" * 12 + str(MAX_BODY_BYTES + 1)}, 413),
    ],
)
def test_a_question_from_elsewhere_or_out_of_bounds_is_refused(
    server: PlayServer, headers: dict[str, Any], status: int
) -> None:
    got, answer = ask(server, "/api/level", {"task": "maze", "level": 3, "seed": 1}, **headers)
    assert got == status and answer["error"]


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"\xff", b"[" * 10**5])
def test_what_is_no_object_is_refused(server: PlayServer, body: bytes) -> None:
    status, answer = ask(server, "/api/level", body)
    assert status == 400 and answer["error"] == "the question is no JSON object"


def test_nothing_else_is_there(server: PlayServer) -> None:
    assert ask(server, "/etc/passwd", method="GET")[0] == 404
    assert ask(server, "/../../etc/passwd", method="GET")[0] == 404
    assert ask(server, "/api/nothing", {})[0] == 404
    assert ask(server, "/api/level", {"task": "maze"})[0] == 400


def test_it_listens_on_this_machine_only(server: PlayServer) -> None:
    assert server.server_address[0] == "127.0.0.1"


def test_a_model_that_breaks_is_told_without_its_details() -> None:
    with PlayServer(port=0, answerer=Scripted("raise")) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        question = {"task": "frozenlake", "state": LAKE, "view": "image"}
        status, answer = ask(server, "/api/model", question)
        assert status == 500 and "secret" not in answer["error"]
        # It goes on.
        assert ask(server, "/api/level", {"task": "maze", "level": 3, "seed": 1})[0] == 200
        server.shutdown()
        thread.join()


def test_without_a_model_there_is_none_to_ask() -> None:
    with PlayServer(port=0) as server:
        assert "/api/model" not in server.endpoints
        assert b"Ask the model" not in server.page


def test_a_port_that_is_taken_is_one_clear_line(server: PlayServer) -> None:
    with pytest.raises(PilotageError, match=f"127.0.0.1:{server.port}.*--port"):
        PlayServer(port=server.port)
    with pytest.raises(PilotageError, match="port 70000"):
        PlayServer(port=70_000)


def test_every_task_that_is_registered_can_be_chosen(server: PlayServer) -> None:
    settings = json.loads(server.page.decode().partition('id="settings">')[2].partition("</script>")[0])
    assert [task["name"] for task in settings["tasks"]] == [task.name for task in TASKS]
    assert settings["tasks"][0]["actions"] == list(get_task(TASKS[0].name).actions)

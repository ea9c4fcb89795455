"""The endpoint engine against a real server that misbehaves on purpose."""

from __future__ import annotations

import asyncio
import base64
import gzip
import json
import logging
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from email.utils import formatdate
from typing import Any

import pytest

from misbehaving import (
    Behaviour,
    completion,
    cuts_the_body,
    dribbles,
    echoes_the_key,
    hangs_up,
    in_turn,
    never_ends,
    says,
    sends,
    serving,
    speaks_no_http,
    stalls,
    well,
)
from pilotage.errors import PilotageError
from pilotage.records import View
from pilotage.rollouts import Answer, Decoding, Request
from pilotage.rollouts.endpoint import EndpointConfig, EndpointEngine
from pilotage.rollouts.endpoint_http import base_url, one_line, read_completion, retry_after_s
from pilotage.worlds.grids.views import VIEWS
from synthetic_run import make_examples
from tiny import generate

GOOD = "<answer>R</answer>"
WORDS = View(name="symbolic", messages=[{"role": "user", "content": "Plan."}])
PICTURE = VIEWS["student"](make_examples(1)[0], "brief")
KEY = "sk-very-secret-0123456789"


def engine(url: str, **more: Any) -> EndpointEngine:
    settings: dict[str, Any] = {"timeout_s": 5.0, "retries": 2, "first_wait_s": 0.01} | more
    return EndpointEngine(EndpointConfig(url=url, model="good", **settings))


def ask(url: str, num: int = 1, *, view: View = WORDS, temperature: float = 0.0, **more: Any) -> list[Answer]:
    requests = [Request(view=view, example_id=f"e{i}", seed=0) for i in range(num)]
    found = list(engine(url, **more).stream(requests, Decoding(max_new_tokens=50, temperature=temperature)))
    return sorted(found, key=lambda answer: answer.index)


def text_of(answer: Answer) -> str:
    assert answer.error is None, answer.error
    assert answer.rollout is not None
    return answer.rollout.text


def test_it_works_where_an_event_loop_runs_already_as_in_a_notebook() -> None:
    async def cell(url: str) -> str:
        asked = engine(url)
        asked.probe(WORDS)
        (answer,) = asked.stream([Request(view=WORDS, example_id="e", seed=0)], Decoding(max_new_tokens=50))
        return text_of(answer)

    # In a thread of its own: a browser that another test keeps open runs a loop in this one.
    with serving(well(GOOD)) as server, ThreadPoolExecutor(1) as pool:
        assert pool.submit(asyncio.run, cell(server.url)).result() == GOOD


def test_the_request_is_openai_s_and_the_answer_carries_tokens_and_model() -> None:
    with serving(well(GOOD)) as server:
        (answer,) = ask(server.url, view=PICTURE)
    assert text_of(answer) == GOOD and answer.rollout is not None and answer.rollout.finished
    assert answer.notes == {
        "attempts": 1,
        "num_tokens": 7,
        "usage": {"prompt_tokens": 100, "completion_tokens": 7},
        "served_model": "good-1",
    }
    (sent,) = server.requests
    assert {k: v for k, v in sent.items() if k != "messages"} == {
        "model": "good",
        "max_tokens": 50,
        "temperature": 0.0,
    }
    text, image = sent["messages"][0]["content"]
    assert text == PICTURE.messages[0]["content"][0]
    head, _, encoded = image["image_url"]["url"].partition(",")
    assert head == "data:image/png;base64" and base64.b64decode(encoded) == PICTURE.images[0]


def test_a_begun_answer_is_sent_as_one_to_go_on_with() -> None:
    begun = View(name="x", messages=WORDS.messages, prefill="Size: 4.\n")
    with serving(well(GOOD)) as server:
        ask(server.url, view=begun)
    (sent,) = server.requests
    assert sent["messages"][-1] == {"role": "assistant", "content": "Size: 4.\n"}
    assert sent["continue_final_message"] is True and sent["add_generation_prompt"] is False


def test_sampling_sends_a_seed_of_its_own_for_every_example_and_sample() -> None:
    requests = [Request(view=WORDS, example_id=f"e{i}", seed=seed) for i in range(3) for seed in (0, 7)]
    with serving(well(GOOD)) as server:
        list(
            engine(server.url).stream(
                requests, Decoding(max_new_tokens=5, temperature=0.7, top_p=0.9, top_k=20)
            )
        )
        first = sorted(sent["seed"] for sent in server.requests)
        server.requests.clear()
        list(engine(server.url).stream(requests, Decoding(max_new_tokens=5, temperature=0.7)))
    assert len(set(first)) == 6 and first == sorted(sent["seed"] for sent in server.requests)
    with serving(well(GOOD)) as server:
        list(
            engine(server.url).stream(
                requests[:1], Decoding(max_new_tokens=5, temperature=0.7, top_p=0.9, top_k=20)
            )
        )
    assert (server.requests[0]["top_p"], server.requests[0]["top_k"]) == (0.9, 20)


PASSING: dict[str, Behaviour] = {
    "500": says(500),
    "503 html": sends(b"<html>busy</html>", kind="text/html", status=503),
    "429": says(429, Retry_After="0"),
    "408": says(408),
    "stall": stalls(1.5),
    "dribble": dribbles(1.5),
    "hang up": hangs_up,
    "cut body": cuts_the_body,
    "no http": speaks_no_http,
    "invalid json": sends(b'{"choices": [{"mess'),
    "html with 200": sends(b"<html>log in</html>", kind="text/html"),
    "empty body": sends(b""),
    "not an object": sends([1, 2]),
    "error with 200": sends({"error": {"message": "upstream died", "code": 502}}),
    "no choices": sends({"object": "chat.completion", "choices": []}),
    "choices of nothing": sends({"choices": [None]}),
    "content of nothing": sends(completion(None) | {"choices": [{"message": {"content": {"a": 1}}}]}),
    "not unicode": sends(b'{"choices": "\xff\xfe"}'),
    "deep nesting": sends(b"[" * 100_000),
    "huge number": sends(b'{"choices": ' + b"9" * 10_000 + b"}"),
}


SLOW = (PASSING["stall"], PASSING["dribble"])
SHORT = 0.8


@pytest.mark.parametrize("trouble", PASSING.values(), ids=PASSING)
def test_what_may_pass_is_tried_again(trouble: Behaviour) -> None:
    with serving(choose=in_turn(trouble, well(GOOD))) as server:
        (answer,) = ask(server.url, timeout_s=SHORT if trouble in SLOW else 5.0)
    assert text_of(answer) == GOOD and answer.notes["attempts"] == 2


@pytest.mark.parametrize("trouble", PASSING.values(), ids=PASSING)
def test_what_does_not_pass_is_a_row_of_kind_transport(trouble: Behaviour) -> None:
    with serving(trouble) as server:
        (answer,) = ask(server.url, timeout_s=0.2 if trouble in SLOW else 5.0, retries=1)
    assert answer.rollout is None and answer.error_kind == "transport"
    assert answer.error and "\n" not in answer.error and len(answer.error) < 400
    assert answer.notes["attempts"] == 2


@pytest.mark.parametrize("kind", ["text/plain", "text/event-stream", "application/octet-stream", "nonsense"])
def test_a_completion_under_a_wrong_content_type_is_read(kind: str) -> None:
    with serving(sends(completion(GOOD), kind=kind)) as server:
        assert text_of(ask(server.url)[0]) == GOOD


KEPT: dict[str, tuple[Behaviour, str]] = {
    "400": (says(400, "prompt too long"), "refused"),
    "413": (says(413), "refused"),
    "422": (says(422), "refused"),
    "content filter": (
        sends(
            completion("half")
            | {"choices": [{"message": {"content": "half"}, "finish_reason": "content_filter"}]}
        ),
        "refused",
    ),
    "refusal": (
        sends(completion("") | {"choices": [{"message": {"content": None, "refusal": "I will not"}}]}),
        "refused",
    ),
    "empty": (sends(completion("")), "empty"),
    "null": (sends(completion(None)), "empty"),
    "endless body": (never_ends, "too_large"),
    "endless error": (sends(b"x" * 2**24, status=500, kind="text/plain"), "too_large"),
    "enormous answer": (sends(completion("R " * 500_000 + GOOD)), "too_large"),
    "packed enormous answer": (
        sends(gzip.compress(json.dumps(completion("R " * 3_000_000)).encode()), Content_Encoding="gzip"),
        "transport",  # not unpacked, so nobody knows how large
    ),
}


@pytest.mark.parametrize(("trouble", "kind"), KEPT.values(), ids=KEPT)
def test_an_answer_that_cannot_be_used_is_a_row_of_its_kind_at_once(trouble: Behaviour, kind: str) -> None:
    with serving(trouble) as server:
        (answer,) = ask(server.url)
    assert (answer.error_kind, len(server.requests)) == (kind, 1)
    if answer.rollout is not None:
        assert len(answer.rollout.text) <= 20_000


def test_one_bad_request_costs_only_itself() -> None:
    def choose(number: int, body: dict[str, Any]) -> Behaviour:
        return {0: hangs_up, 1: says(400), 2: says(500)}.get(number, well(GOOD))

    with serving(choose=choose) as server:
        answers = ask(server.url, 20)
    assert [answer.index for answer in answers] == list(range(20))
    assert sorted(answer.error_kind or "" for answer in answers) == [""] * 19 + ["refused"]


def test_all_of_a_noisy_server_s_answers_arrive_exactly_once() -> None:
    troubles = [says(500), hangs_up, cuts_the_body, sends(b"{"), says(429, Retry_After="0"), says(502)]

    def choose(number: int, body: dict[str, Any]) -> Behaviour:
        return troubles[number // 2 % len(troubles)] if number % 2 else well(body["messages"][0]["content"])

    views = [View(name="x", messages=[{"role": "user", "content": f"text {i}"}]) for i in range(40)]
    requests = [Request(view=view, example_id=str(i), seed=0) for i, view in enumerate(views)]
    with serving(choose=choose) as server:
        answers = list(engine(server.url, retries=20).stream(requests, Decoding(max_new_tokens=5)))
    assert sorted(answer.index for answer in answers) == list(range(40))
    for answer in answers:
        assert text_of(answer) == f"text {answer.index}"


def test_retry_after_is_honoured_by_every_request() -> None:
    with serving(choose=in_turn(says(429, Retry_After="0.4"), well(GOOD))) as server:
        answers = ask(server.url, 4, concurrency=1)
    assert all(answer.error is None for answer in answers)
    assert server.times_s[1] - server.times_s[0] >= 0.4


def test_a_server_that_wants_a_long_wait_is_not_waited_for() -> None:
    with serving(says(429, "come back tomorrow", Retry_After="86400")) as server:
        (answer,) = ask(server.url, retries=5)
    assert answer.error_kind == "transport" and "come back tomorrow" in (answer.error or "")
    assert len(server.requests) == 1


def test_retry_after_is_read_in_all_its_forms() -> None:
    assert retry_after_s({"retry-after": "2.5"}) == 2.5
    assert retry_after_s({"retry-after-ms": "1500", "retry-after": "9"}) == 1.5
    later = retry_after_s({"retry-after": formatdate(time.time() + 100, usegmt=True)})
    assert later is not None and 97 < later <= 100
    assert retry_after_s({"retry-after": "-3"}) == 0.0
    assert [retry_after_s({"retry-after": bad}) for bad in ("", "soon", "nan", "1e999999")] == [
        None,
        None,
        None,
        float("inf"),
    ]
    assert retry_after_s({}) is None


def test_no_more_requests_than_allowed_are_under_way() -> None:
    with serving(well(GOOD, after_s=0.03)) as server:
        ask(server.url, 20, concurrency=3)
    assert server.most_at_once == 3


def test_requests_keep_to_the_rate_retries_included() -> None:
    with serving(choose=in_turn(well(GOOD), says(500), well(GOOD))) as server:
        ask(server.url, 4, concurrency=4, requests_per_minute=600)
    gaps = [b - a for a, b in zip(server.times_s, server.times_s[1:], strict=False)]
    assert len(server.times_s) == 5 and min(gaps) > 0.05
    assert server.times_s[-1] - server.times_s[0] >= 0.35


@pytest.mark.parametrize(
    "refusal",
    [says(401, "key revoked"), says(402), says(429, "quota", code="insufficient_quota")],
    ids=["401", "402", "quota"],
)
def test_a_key_that_stops_working_ends_the_work_and_keeps_what_is_done(refusal: Behaviour) -> None:
    requests = [Request(view=WORDS, example_id=str(i), seed=0) for i in range(50)]
    found = []

    def collect(url: str) -> None:
        for answer in engine(url, concurrency=1).stream(requests, Decoding(max_new_tokens=5)):
            found.append(answer.index)

    with serving(choose=in_turn(well(GOOD), well(GOOD), well(GOOD), refusal)) as server:
        pytest.raises(PilotageError, collect, server.url).match("takes no further request")
    assert found == [0, 1, 2] and len(server.requests) == 4


def test_leaving_the_stream_early_drops_what_is_under_way() -> None:
    before = threading.active_count()
    requests = [Request(view=WORDS, example_id=str(i), seed=0) for i in range(50)]
    with serving(choose=in_turn(well(GOOD), stalls(5))) as server:
        stream = engine(server.url, concurrency=4).stream(requests, Decoding(max_new_tokens=5))
        next(stream)
        stream.close()  # pyright: ignore[reportAttributeAccessIssue]
        assert len(server.requests) <= 5
        assert not [thread for thread in threading.enumerate() if thread.name == "endpoint"]
    assert threading.active_count() <= before + 5


def test_redirects_are_not_followed_with_the_key() -> None:
    with serving(well(GOOD)) as other, serving() as server:
        server.behave = lambda *_: says(307, Location=f"{other.url}/chat/completions")
        (answer,) = ask(server.url, key=KEY)
    assert answer.error_kind == "transport" and other.requests == []


def test_the_key_goes_to_the_server_and_nowhere_else(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    echo = says(400, f"bad key {KEY}")
    with serving(choose=in_turn(echoes_the_key, echo, says(500, KEY), echo)) as server:
        config = engine(server.url, key=KEY, concurrency=1)
        answers = list(
            config.stream(
                [Request(view=WORDS, example_id=str(i)) for i in range(3)], Decoding(max_new_tokens=5)
            )
        )
    assert all(headers["authorization"] == f"Bearer {KEY}" for headers in server.headers)
    assert "your key is [key]" in text_of(answers[0]) and "[key]" in (answers[1].error or "")
    assert KEY not in repr(answers) and KEY not in caplog.text and KEY not in repr(config.config)


def test_generate_gives_rollouts_in_order_or_an_error() -> None:
    with serving(choose=lambda number, body: well(body["messages"][0]["content"])) as server:
        views = [View(name="x", messages=[{"role": "user", "content": t}]) for t in "abc"]
        rollouts = generate(
            engine(server.url),
            views,
            example_ids=["1", "2", "3"],
            max_new_tokens=5,
            temperature=1.0,
            num_return=2,
        )
    assert [rollout.text for rollout in rollouts] == ["a", "a", "b", "b", "c", "c"]
    with serving(says(400)) as server, pytest.raises(PilotageError, match="example 1"):
        generate(engine(server.url), views[:1], example_ids=["1"], max_new_tokens=5)


@pytest.mark.parametrize(
    ("given", "base"),
    [
        ("http://127.0.0.1:8000", "http://127.0.0.1:8000/v1"),
        ("http://127.0.0.1:8000/", "http://127.0.0.1:8000/v1"),
        ("https://host/api/v3/", "https://host/api/v3"),
        (" http://[::1]:80/v1/chat/completions ", "http://[::1]:80/v1"),
    ],
)
def test_an_endpoint_s_base_is_found(given: str, base: str) -> None:
    assert base_url(given) == base


@pytest.mark.parametrize(
    "given",
    ["http://user:sk-1@host/v1", "http://sk-1@host/v1", "http://host/v1?key=sk-1", "http://host/#sk-1"],
)
def test_credentials_in_a_url_are_refused_and_not_repeated(given: str) -> None:
    with pytest.raises(PilotageError, match="OPENAI_API_KEY") as refused:
        base_url(given)
    assert "sk-1" not in str(refused.value)


@pytest.mark.parametrize(
    "given", ["", "host:8000", "ftp://host/v1", "http://", "http://h:99999999/v1", "//h"]
)
def test_what_is_no_url_is_refused(given: str) -> None:
    with pytest.raises(PilotageError, match="not a URL"):
        base_url(given)


def test_a_content_of_parts_is_their_text() -> None:
    parts = [
        {"type": "text", "text": "a"},
        {"type": "thinking", "thinking": "x"},
        {"type": "text", "text": "b"},
    ]
    body = json.dumps({"choices": [{"message": {"content": parts}}], "usage": {"prompt_tokens": -1}}).encode()
    read = read_completion(body)
    assert (read.text, read.finish_reason, dict(read.usage)) == ("ab", "", {})


def test_servers_words_are_made_fit_for_a_terminal() -> None:
    assert one_line("a\x1b[31m\nb\u202e" + "c" * 1000).startswith(r"a\x1b[31m b\u202ecc")
    assert len(one_line("x" * 5000)) == 300


@pytest.mark.parametrize(
    "bad", [{"concurrency": 0}, {"timeout_s": 0}, {"retries": -1}, {"requests_per_minute": 0}]
)
def test_settings_that_make_no_sense_are_refused(bad: dict[str, Any]) -> None:
    with pytest.raises(PilotageError):
        engine("http://127.0.0.1:1/v1", **bad)

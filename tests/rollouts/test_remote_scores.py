"""Scores from a server: what is asked, what is read, and every way in which a server can fail."""

from __future__ import annotations

import json
import math
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from pilotage.errors import PilotageError
from pilotage.rollouts.remote_scores import RemoteScorer, RemoteScoresError

Answer = Callable[[dict[str, Any], int], tuple[int, Any]]
"""(request, number of requests before it) -> status and body, JSON unless bytes."""


@contextmanager
def serving(answer: Answer) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """A server on this machine; gives its address and the requests that it had."""
    requests: list[dict[str, Any]] = []
    lock = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with lock:
                before = len(requests)
                requests.append(body | {"_path": self.path, "_key": self.headers.get("Authorization")})
            status, said = answer(body, before)
            data = said if isinstance(said, bytes) else json.dumps(said).encode()
            self.send_response(status)
            if status in (301, 302, 307):
                self.send_header("Location", "http://127.0.0.1:9/elsewhere")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1/completions", requests
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def logp(ids: list[int], at: int) -> float:
    """A made-up model: an id's log-probability depends on it and on all before."""
    return -((31 * ids[at] + sum(ids[:at])) % 97) / 10 - 0.1


def vllm(body: dict[str, Any], _: int = 0) -> tuple[int, Any]:
    ids = body["prompt"]
    listed: list[Any] = [None]
    for at in range(1, len(ids)):
        entry = {str(ids[at]): {"logprob": logp(ids, at), "rank": 5, "decoded_token": "x"}}
        listed.append(entry | {"0": {"logprob": -0.01, "rank": 1, "decoded_token": "y"}})
    return 200, {"choices": [{"index": 0, "text": "z", "prompt_logprobs": listed}]}


def echo(body: dict[str, Any], _: int = 0, *, generated: int = 0) -> tuple[int, Any]:
    ids = body["prompt"]
    values = [None, *(logp(ids, at) for at in range(1, len(ids))), *[-0.5] * generated]
    return 200, {"choices": [{"logprobs": {"tokens": ["t"] * len(values), "token_logprobs": values}}]}


def scorer(url: str, **changes: Any) -> RemoteScorer:
    return RemoteScorer(**{"url": url, "model": "teacher", "pause_s": 0.0, "timeout_s": 5.0, **changes})


PROMPTS, RESPONSES = [[5, 6, 7], [8], [9, 9]], [[1, 2], [3, 4, 5], []]
EXPECTED = [
    tuple(logp(prompt + response, at) for at in range(len(prompt), len(prompt) + len(response)))
    for prompt, response in zip(PROMPTS, RESPONSES, strict=True)
]


@pytest.mark.parametrize(
    ("style", "answer"),
    [
        ("prompt_logprobs", vllm),
        ("echo", echo),
        ("echo", lambda body, n: echo(body, generated=1)),
    ],
    ids=["prompt_logprobs", "echo without the generated token", "echo with it"],
)
def test_response_ids_are_scored_behind_their_prompts_and_in_order(style, answer):
    with serving(answer) as (url, requests):
        done: list[int] = []
        assert scorer(url, style=style).score(PROMPTS, RESPONSES, progress=done.append) == EXPECTED
    assert len(requests) == 2  # an empty response needs no server
    assert sum(done) == 3


def test_what_is_asked():
    with serving(vllm) as (url, requests):
        scorer(url, api_key="secret").score([[5]], [[1]])
    (request,) = requests
    assert request == {
        "model": "teacher",
        "prompt": [5, 1],
        "temperature": 1.0,
        "stream": False,
        "add_special_tokens": False,
        "max_tokens": 1,
        "prompt_logprobs": 0,
        "_path": "/v1/completions",
        "_key": "Bearer secret",
    }
    with serving(echo) as (url, requests):
        scorer(url, style="echo").score([[5]], [[1]])
    assert {"echo": True, "logprobs": 1, "max_tokens": 1, "_key": None}.items() <= requests[0].items()


@pytest.mark.parametrize("status", [429, 500, 503])
def test_passing_faults_are_tried_again(status):
    def answer(body: dict[str, Any], before: int) -> tuple[int, Any]:
        return (status, "busy") if before < 2 else vllm(body)

    with serving(answer) as (url, requests):
        assert scorer(url).score([[5]], [[1]]) == [(logp([5, 1], 1),)]
    assert len(requests) == 3


def test_half_an_answer_is_tried_again():
    def answer(body: dict[str, Any], before: int) -> tuple[int, Any]:
        return (200, b'{"choices": [') if before == 0 else vllm(body)

    with serving(answer) as (url, _):
        assert scorer(url).score([[5]], [[1]]) == [(logp([5, 1], 1),)]


def test_server_that_stays_away_is_an_error_that_names_it():
    with serving(lambda body, before: (503, "loading")) as (url, requests):
        with pytest.raises(RemoteScoresError, match="3 attempts: status 503.*loading.*'teacher'"):
            scorer(url, num_retries=2).score([[5]], [[1]])
        assert len(requests) == 3
    with pytest.raises(RemoteScoresError, match="is the server up"):
        scorer(url, num_retries=0).score([[5]], [[1]])


def entry(value: Any, token: str = "1") -> dict[str, Any]:
    return {"choices": [{"prompt_logprobs": [None, {token: {"logprob": value}}]}]}


@pytest.mark.parametrize(
    ("status", "said", "named"),
    [
        (404, "no such model", "status 404.*no such model"),
        (400, "too long", "longest context"),
        (302, "", "status 302"),
        (200, {"error": "x"}, "KeyError: 'choices'"),
        (200, [], "TypeError"),
        (200, {"choices": []}, "IndexError"),
        (200, {"choices": [{"text": "z"}]}, "style='prompt_logprobs'"),
        (200, {"choices": [{"prompt_logprobs": None}]}, "TypeError"),
        (200, entry(-1.0, token="2"), "the student's tokenizer"),
        (200, entry("low"), "ValueError"),
        (200, entry(None), "TypeError"),
        (200, entry(math.nan), "token 1 has log-probability nan"),
        (200, entry(-math.inf), "token 1 has log-probability -inf"),
        (200, entry(3.0), "token 1 has log-probability 3.0"),
        (200, {"choices": [{"prompt_logprobs": [None]}]}, "scored 1 tokens where 2 ids were sent"),
        (200, {"choices": [{"prompt_logprobs": [None] + [{"1": {"logprob": -1}}] * 5}]}, "scored 6 tokens"),
        (200, b" " * 2000, "more than 1000 bytes"),
    ],
)
def test_answers_that_cannot_be_used_are_named_and_not_asked_for_again(status, said, named):
    with serving(lambda body, before: (status, said)) as (url, requests):
        with pytest.raises(RemoteScoresError, match=named):
            scorer(url, max_answer_bytes=1000).score([[5]], [[1]])
        assert len(requests) == 1


def test_server_that_echoes_what_it_generated_alone_is_noticed():
    said = {"choices": [{"logprobs": {"token_logprobs": [-0.5]}}]}
    with (
        serving(lambda body, before: (200, said)) as (url, _),
        pytest.raises(RemoteScoresError, match="scored 1 tokens where 4 ids"),
    ):
        scorer(url, style="echo").score([[5, 6]], [[1, 2]])


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"url": "file:///etc/passwd"}, "http or https"),
        ({"url": "localhost:8000"}, "http or https"),
        ({"style": "chat"}, "prompt_logprobs, echo"),
        ({"num_parallel": 0}, "num_parallel 0"),
        ({"timeout_s": 0}, "timeout_s 0"),
    ],
)
def test_settings_that_make_no_sense_are_named(changes, named):
    with pytest.raises(PilotageError, match=named):
        scorer(**{"url": "http://localhost:1/v1/completions", **changes})


def test_prompts_that_predict_nothing_are_refused():
    with pytest.raises(ValueError, match="row 0: the prompt is empty"):
        scorer("http://localhost:1/v1").score([[]], [[1]])
    with pytest.raises(ValueError, match="1 prompts but 2"):
        scorer("http://localhost:1/v1").score([[1]], [[1], [2]])

"""`pilotage serve`: OpenAI's schema, hostile requests, many clients, and the same answers as in process."""

from __future__ import annotations

import base64
import contextlib
import io
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import pytest
import uvicorn
from PIL import Image

from pilotage.backbones.load import load_backbone
from pilotage.cli.main import main
from pilotage.errors import PilotageError
from pilotage.evaluate import evaluate
from pilotage.records import View
from pilotage.rollouts import Decoding, Request, samples_of
from pilotage.rollouts.endpoint import EndpointConfig, EndpointEngine
from pilotage.rollouts.serve import MAX_BODY_BYTES, MAX_HELD_BYTES, make_app, open_socket
from pilotage.rollouts.serve_chat import RequestError, parse_chat, read_image
from pilotage.rollouts.serve_queue import Batcher
from pilotage.rollouts.transformers_engine import TransformersEngine
from pilotage.worlds.grids.views import VIEWS
from synthetic_run import make_examples
from tiny import generate, image_view, picture, png, text_view, tiny_backbone

TEXT: list[dict[str, Any]] = [{"role": "user", "content": "Plan a way over the ice."}]


def data_url(data: bytes, condition: str = "png") -> str:
    return f"data:image/{condition};base64,{base64.b64encode(data).decode()}"


def with_image(url: str) -> list[dict[str, Any]]:
    parts = [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": "Plan."}]
    return [{"role": "user", "content": parts}]


def body(**more: Any) -> dict[str, Any]:
    return {"model": "m", "messages": TEXT, "max_tokens": 12, "temperature": 0} | more


def parse(**more: Any) -> Any:
    return parse_chat(body(**more), model="m", max_new_tokens=100)


class Slow(TransformersEngine):
    """Notes its batches, and waits for leave before each."""

    def __init__(self, *arguments: Any, **more: Any) -> None:
        super().__init__(*arguments, **more)
        self.batches: list[list[str]] = []
        self.num_begun = 0
        self.may_go = threading.Event()
        self.may_go.set()

    def generate(self, requests: Any, decoding: Any, **more: Any) -> Any:
        self.num_begun += 1
        self.may_go.wait(30)
        self.batches.append([request.example_id for request in requests if request.sample == 0])
        if any("crash" in str(request.view.messages) for request in requests):
            raise RuntimeError("the device is on fire")
        return super().generate(requests, decoding, **more)


@contextlib.contextmanager
def served(
    engine: TransformersEngine,
    *,
    key: str = "",
    hosts: tuple[str, ...] = (),
    max_held_bytes: int = MAX_HELD_BYTES,
    **more: Any,
) -> Iterator[str]:
    batcher = Batcher(engine, **more)
    app = make_app(
        batcher, model="m", max_new_tokens=200, key=key, hosts=hosts, max_held_bytes=max_held_bytes
    )
    bound = open_socket("127.0.0.1", 0)
    server = uvicorn.Server(uvicorn.Config(app, log_level="critical", access_log=False))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [bound]}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{bound.getsockname()[1]}/v1"
    finally:
        server.should_exit = True
        thread.join()
        batcher.close()
        bound.close()


@pytest.fixture(scope="module")
def slow() -> Slow:
    return Slow(tiny_backbone())


@pytest.fixture(scope="module")
def url(slow: Slow) -> Iterator[str]:
    with served(slow) as found:
        yield found


@pytest.fixture(scope="module")
def http() -> Iterator[httpx2.Client]:
    with httpx2.Client(timeout=30) as client:
        yield client


def chat(http: httpx2.Client, url: str, *, timeout: float = 30, **more: Any) -> httpx2.Response:
    return http.post(f"{url}/chat/completions", json=body(**more), timeout=timeout)


def test_a_completion_is_what_the_engine_says(http: httpx2.Client, url: str, slow: Slow) -> None:
    image = png(picture(3, seed=1))
    view = View(
        name="x",
        messages=[{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "Plan."}]}],
        images=(image,),
    )
    (expected,) = generate(slow, [view], example_ids=["x"], max_new_tokens=12)
    said = chat(http, url, messages=with_image(data_url(image))).json()
    (choice,) = said["choices"]
    assert choice["message"] == {"role": "assistant", "content": expected.text, "refusal": None}
    assert choice["finish_reason"] == ("stop" if expected.finished else "length")
    # <|im_start|>user\n<|vision_start|> 9 patches <|vision_end|>Plan.<|im_end|>\n<|im_start|>assistant\n
    ids = slow.backbone.tokenizer(
        "<|im_start|>user\n<|vision_start|><|vision_end|>Plan.<|im_end|>\n<|im_start|>assistant\n"
    )
    assert said["usage"] == {
        "prompt_tokens": len(ids["input_ids"]) + 9,
        "completion_tokens": len(expected.token_ids),
        "total_tokens": len(ids["input_ids"]) + 9 + len(expected.token_ids),
    }
    assert (said["object"], said["model"]) == ("chat.completion", "m")


def test_a_begun_answer_is_gone_on_with(http: httpx2.Client, url: str, slow: Slow) -> None:
    view = text_view(TEXT[0]["content"], prefill="Size: 4.")
    (expected,) = generate(slow, [view], example_ids=["x"], max_new_tokens=12)
    begun = [*TEXT, {"role": "assistant", "content": "Size: 4."}]
    said = chat(http, url, messages=begun, continue_final_message=True, add_generation_prompt=False).json()
    assert said["choices"][0]["message"]["content"] == expected.text


def test_sampling_follows_the_seed_whatever_the_company(http: httpx2.Client, url: str) -> None:
    def draw(seed: int | None, n: int = 1) -> list[str]:
        said = chat(http, url, temperature=1.0, seed=seed, n=n).json()
        return [choice["message"]["content"] for choice in said["choices"]]

    alone = draw(5)
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(draw, [5, 6, 7, 5, 5, 8, 6, 9]))
    assert [together[i] for i in (0, 3, 4)] == [alone] * 3 and together[1] == together[6]
    assert len({text for (text,) in together}) == 5
    assert len(set(draw(5, n=4))) > 1 and draw(5, n=4)[0] == alone[0]
    assert len({draw(None)[0] for _ in range(4)}) > 1


def test_requests_that_wait_are_decoded_together_and_answered_to_their_own_clients(slow: Slow) -> None:
    prompts = [f"Size: {i}. Player: ({i},0)." for i in range(12)]
    views = [text_view(prompt) for prompt in prompts]
    expected = [rollout.text for rollout in generate(slow, views, example_ids=prompts, max_new_tokens=12)]
    assert len(set(expected)) > 1
    slow.batches.clear()
    with served(slow, batch_size=4) as url, httpx2.Client(timeout=30) as http, ThreadPoolExecutor(12) as pool:
        slow.may_go.clear()
        answers = [
            pool.submit(chat, http, url, messages=[{"role": "user", "content": prompt}]) for prompt in prompts
        ]
        threading.Timer(0.5, slow.may_go.set).start()
        texts = [answer.result().json()["choices"][0]["message"]["content"] for answer in answers]
    assert texts == expected
    # The first batch goes with whoever is there; the others are full.
    assert len(slow.batches) <= 4 and max(map(len, slow.batches)) == 4


def test_when_too_many_wait_the_next_is_told_to_come_again(slow: Slow) -> None:
    with served(slow, batch_size=1, max_waiting=2) as url, ThreadPoolExecutor(6) as pool:
        slow.may_go.clear()
        with httpx2.Client(timeout=30) as http:
            answers = [pool.submit(chat, http, url) for _ in range(6)]
            threading.Timer(0.5, slow.may_go.set).start()
            found = [answer.result() for answer in answers]
    busy = [answer for answer in found if answer.status_code == 429]
    assert len(busy) == 3 and all(answer.headers["retry-after"] == "1" for answer in busy)
    assert busy[0].json()["error"]["type"] == "rate_limit_error"


def test_a_request_that_breaks_the_engine_costs_only_itself(
    http: httpx2.Client, url: str, slow: Slow
) -> None:
    slow.may_go.clear()
    with ThreadPoolExecutor(3) as pool:
        answers = [
            pool.submit(chat, http, url, messages=[{"role": "user", "content": text}])
            for text in ("Plan.", "crash", "Size: 4.")
        ]
        threading.Timer(0.3, slow.may_go.set).start()
        statuses = [answer.result().status_code for answer in answers]
    assert statuses == [200, 500, 200]
    assert "fire" not in answers[1].result().text
    assert chat(http, url).status_code == 200


def eventually(holds: Callable[[], bool]) -> bool:
    """Whether it comes to hold before patience ends."""
    for _ in range(500):
        if holds():
            return True
        time.sleep(0.02)
    return False


def begin(url: str, **more: Any) -> socket.socket:
    """A connection on which a request has been sent and no answer been read."""
    content = json.dumps(body(**more)).encode()
    host, port = url.removeprefix("http://").removesuffix("/v1").split(":")
    connection = socket.create_connection((host, int(port)), timeout=30)
    head = "POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    connection.sendall(head.encode() + f"Content-Length: {len(content)}\r\n\r\n".encode() + content)
    return connection


def test_who_hangs_up_while_waiting_is_not_decoded(slow: Slow, monkeypatch: pytest.MonkeyPatch) -> None:
    taken_in, let_go = noted(monkeypatch, "submit"), noted(monkeypatch, "abandon")
    slow.batches.clear()
    slow.num_begun = 0
    with served(slow, batch_size=1, max_waiting=2) as url, httpx2.Client(timeout=30) as http:
        slow.may_go.clear()
        waiting = [begin(url, seed=seed, temperature=1) for seed in (1, 2, 3)]
        assert eventually(lambda: len(taken_in) == 3 and slow.num_begun == 1)
        assert chat(http, url, seed=9, temperature=1).status_code == 429, "one is decoded, two wait"
        for connection in waiting:
            connection.close()
        assert eventually(lambda: len(let_go) == 3)
        slow.may_go.set()
        assert chat(http, url, seed=4, temperature=1).status_code == 200
    assert len(slow.batches) == 2 and slow.batches[1] == ["seed 4"]


def noted(monkeypatch: pytest.MonkeyPatch, name: str) -> list[Any]:
    """What `Batcher`'s method of this name has been given when it was done."""
    calls: list[Any] = []
    method = getattr(Batcher, name)

    def spy(self: Batcher, given: Any) -> Any:
        found = method(self, given)
        calls.append(given)
        return found

    monkeypatch.setattr(Batcher, name, spy)
    return calls


def test_what_an_idle_engine_is_about_to_take_does_not_wait(slow: Slow) -> None:
    batcher = Batcher(slow, batch_size=1, max_waiting=2)
    with batcher._changed:  # its thread cannot have taken any
        jobs = [batcher.submit(parse(seed=seed)) for seed in (1, 2, 3)]
        with pytest.raises(RequestError, match="2 requests are waiting already"):
            batcher.submit(parse(seed=4))
    assert [len(job.future.result(30).rollouts) for job in jobs] == [1, 1, 1]
    batcher.close()


def test_a_server_that_closes_while_a_client_hangs_up_drops_them_all(slow: Slow) -> None:
    batcher = Batcher(slow, batch_size=1)
    slow.num_begun = 0
    slow.may_go.clear()
    decoded = batcher.submit(parse(seed=1))
    assert eventually(lambda: slow.num_begun == 1)
    gone, waits = batcher.submit(parse(seed=2)), batcher.submit(parse(seed=3))
    assert gone.future.cancel()
    threading.Timer(0.2, slow.may_go.set).start()
    batcher.close()
    assert len(decoded.future.result(0).rollouts) == 1
    with pytest.raises(RequestError, match="the server is closing"):
        waits.future.result(0)


def test_who_hangs_up_while_decoded_is_decoded_no_further(caplog: pytest.LogCaptureFixture) -> None:
    class Endless(TransformersEngine):
        """Answers when nobody waits any more."""

        ended = threading.Event()

        def generate(self, requests: Any, decoding: Any, *, is_wanted: Any) -> Any:
            assert eventually(lambda: not is_wanted(0))
            self.ended.set()
            return super().generate(requests, decoding, is_wanted=is_wanted)

    engine = Endless(tiny_backbone())
    with caplog.at_level("DEBUG"), served(engine) as url:
        connection = begin(url)
        time.sleep(0.2)
        connection.close()
        assert engine.ended.wait(20)
    assert not [record for record in caplog.records if record.exc_info or record.levelname == "ERROR"]


def test_a_rollout_that_nobody_waits_for_ends_and_leaves_the_others_as_they_are() -> None:
    engine = TransformersEngine(tiny_backbone())
    views = [text_view(f"Size: {i}.") for i in range(3)]
    requests, decoding = samples_of(views, "abc"), Decoding(max_new_tokens=30, temperature=1.0)
    undisturbed = engine.generate(requests, decoding)
    asked = 0

    def is_wanted(place: int) -> bool:
        nonlocal asked
        asked += place == 1
        return place != 1 or asked < 3

    found = engine.generate(requests, decoding, is_wanted=is_wanted)
    assert [found[i].token_ids for i in (0, 2)] == [undisturbed[i].token_ids for i in (0, 2)]
    assert found[1].token_ids == undisturbed[1].token_ids[:3] and not found[1].finished


def test_bodies_together_are_bounded_and_their_room_is_free_again(slow: Slow) -> None:
    with served(slow, max_held_bytes=1000) as url, httpx2.Client(timeout=30) as http:
        slow.may_go.clear()
        with ThreadPoolExecutor(12) as pool:
            answers = [pool.submit(chat, http, url) for _ in range(12)]
            threading.Timer(0.5, slow.may_go.set).start()
            found = [answer.result() for answer in answers]
        busy = [answer for answer in found if answer.status_code == 429]
        assert len(busy) == 12 - 1000 // len(found[0].request.content)
        assert busy[0].headers["retry-after"] == "1" and "fill the server" in busy[0].text
        for _ in range(12):
            assert chat(http, url).status_code == 200
        assert chat(http, url, messages=[{"role": "user", "content": "x" * 1000}]).status_code == 429


def test_a_body_that_never_comes_is_not_waited_for(slow: Slow, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pilotage.rollouts.serve.BODY_LIMIT_S", 0.2)
    with served(slow) as url:
        host, port = url.removeprefix("http://").removesuffix("/v1").split(":")
        with socket.create_connection((host, int(port)), timeout=30) as connection:
            connection.sendall(
                b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
                b"Content-Length: 10\r\n\r\n{"
            )
            assert connection.recv(1000).startswith(b"HTTP/1.1 408")


def test_text_that_reads_as_the_model_s_own_tokens_is_refused(http: httpx2.Client, url: str) -> None:
    for content in ("Plan.<|im_end|>", "<|im_start|>system"):
        for messages in (
            [{"role": "user", "content": content}],
            [*TEXT, {"role": "assistant", "content": content}],
        ):
            said = chat(http, url, messages=messages)
            assert said.status_code == 400 and "special token" in said.json()["error"]["message"]


def test_models_and_health(http: httpx2.Client, url: str) -> None:
    assert http.get(f"{url}/models").json()["data"][0]["id"] == "m"
    assert http.get(f"{url}/models/m").json()["object"] == "model"
    assert http.get(f"{url}/models/other").status_code == 404
    assert http.get(url.removesuffix("/v1") + "/health").json() == {"status": "ok"}
    missing = http.get(f"{url}/nothing")
    assert missing.status_code == 404 and missing.json()["error"]["type"] == "invalid_request_error"


TINY_PNG = png(picture(1))


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"messages": None}, "messages"),
        ({"messages": []}, "messages"),
        ({"messages": ["hi"]}, "messages[0]"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": ["user"], "content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": "user"}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": "\ud800"}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": [{"type": "video_url"}]}]}, "messages[0].content[0]"),
        ({"messages": [{"role": "user", "content": ["x"]}]}, "messages[0].content[0]"),
        ({"messages": with_image("http://127.0.0.1:1/secret.png")}, "messages[0].content[0].image_url"),
        ({"messages": with_image("file:///etc/passwd")}, "messages[0].content[0].image_url"),
        ({"messages": with_image("/etc/passwd")}, "messages[0].content[0].image_url"),
        ({"messages": with_image("data:image/png;base64,!!!")}, "messages[0].content[0].image_url"),
        ({"messages": with_image(data_url(b"no picture"))}, "messages[0].content[0].image_url"),
        ({"messages": with_image(data_url(TINY_PNG[:60]))}, "messages[0].content[0].image_url"),
        ({"messages": with_image(data_url(TINY_PNG)) * 17}, "messages"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": 101}, "max_tokens"),
        ({"max_tokens": True}, "max_tokens"),
        ({"max_completion_tokens": "9"}, "max_completion_tokens"),
        ({"temperature": -1}, "temperature"),
        ({"temperature": 5e-324}, "temperature"),
        ({"temperature": "hot"}, "temperature"),
        ({"top_p": 0}, "top_p"),
        ({"top_p": 1.5}, "top_p"),
        ({"seed": 1.5}, "seed"),
        ({"n": 2}, "n"),
        ({"n": 10**6, "temperature": 1}, "n"),
        ({"stream": True}, "stream"),
        ({"tools": [{}]}, "tools"),
        ({"response_format": {"type": "json_object"}}, "response_format"),
        ({"continue_final_message": True}, "continue_final_message"),
    ],
)
def test_a_request_that_cannot_be_honoured_is_told_which_field(change: dict[str, Any], param: str) -> None:
    with pytest.raises(RequestError) as refused:
        parse(**change)
    assert (refused.value.status, refused.value.param) == (400, param)
    assert refused.value.as_dict()["error"]["type"] == "invalid_request_error"


def test_another_model_is_404_with_its_code(http: httpx2.Client, url: str) -> None:
    said = chat(http, url, model="other")
    assert said.status_code == 404 and said.json()["error"]["code"] == "model_not_found"


def test_a_picture_s_bytes_are_kept_when_they_are_png_and_made_png_when_not() -> None:
    assert read_image(data_url(TINY_PNG), "x") == TINY_PNG
    pixels = np.full((32, 64, 3), 200, np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG")
    made = read_image(data_url(buffer.getvalue(), "jpeg"), "x")
    with Image.open(io.BytesIO(made)) as image:
        assert (image.format, image.size) == ("PNG", (64, 32))


def test_pictures_that_would_fill_the_memory_are_refused_by_their_header() -> None:
    buffer = io.BytesIO()
    Image.new("1", (5_000, 5_000)).save(buffer, "PNG")
    with pytest.raises(RequestError, match="5000x5000"):
        read_image(data_url(buffer.getvalue()), "x")
    with pytest.raises(RequestError, match="300x1 px"):
        read_image(data_url(png(np.zeros((1, 300, 3), np.uint8))), "x")


@pytest.mark.parametrize("size", [(1, 1), (5, 3), (2, 100)])
def test_a_tiny_picture_is_answered(http: httpx2.Client, url: str, size: tuple[int, int]) -> None:
    image = png(np.zeros((*size, 3), np.uint8))
    assert chat(http, url, messages=with_image(data_url(image)), max_tokens=2).status_code == 200


def test_a_placeholder_in_the_text_is_the_client_s_mistake(http: httpx2.Client, url: str) -> None:
    said = chat(http, url, messages=[{"role": "user", "content": "<|image_pad|>"}])
    assert said.status_code == 400 and "image" in said.json()["error"]["message"]


def test_a_prompt_beyond_the_context_is_refused(http: httpx2.Client, url: str) -> None:
    said = chat(http, url, messages=[{"role": "user", "content": "(0,1) " * 3000}])
    assert said.status_code == 400 and said.json()["error"]["code"] == "context_length_exceeded"


@pytest.mark.parametrize(
    ("content", "condition", "status"),
    [
        (b"{", "application/json", 400),
        (b"[1]", "application/json", 400),
        (b'{"temperature": NaN}', "application/json", 400),
        (b"[" * 200_000, "application/json", 400),
        (b'{"n": ' + b"9" * 10_000 + b"}", "application/json", 400),
        (b"\xff", "application/json", 400),
        (json.dumps({"model": "m"}).encode(), "text/plain", 415),
        (b" " * (MAX_BODY_BYTES + 1), "application/json", 413),
    ],
)
def test_bodies_that_are_no_requests(
    http: httpx2.Client, url: str, content: bytes, condition: str, status: int
) -> None:
    said = http.post(f"{url}/chat/completions", content=content, headers={"Content-Type": condition})
    assert said.status_code == status and said.json()["error"]["message"]


def test_a_key_is_asked_for(slow: Slow) -> None:
    with served(slow, key="sesame") as url:
        answers = [
            httpx2.get(f"{url}/models", headers={"Authorization": given}).status_code
            for given in ("", "Bearer wrong", "Bearer sesame")
        ]
        assert httpx2.post(f"{url}/chat/completions", json=body()).status_code == 401
    assert answers == [401, 401, 200]


def test_a_page_s_own_name_does_not_reach_a_loopback_server(slow: Slow) -> None:
    with served(slow, hosts=("127.0.0.1", "localhost")) as url:
        assert httpx2.get(f"{url}/models").status_code == 200
        assert httpx2.get(f"{url}/models", headers={"Host": "evil.example"}).status_code == 400


def test_a_port_that_is_taken_is_one_line() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(PilotageError, match="--port 0"):
        open_socket("127.0.0.1", taken.getsockname()[1])
    with pytest.raises(PilotageError, match="port 99999"):
        open_socket("127.0.0.1", 99999)


def test_nano_behind_an_endpoint_and_in_process_agree_answer_by_answer(tmp_path: Path) -> None:
    engine = TransformersEngine(load_backbone("nano", attn_implementation="eager"), batch_size=8)
    examples = make_examples(2, seed=5)
    conditions = ("image", "text", "corrected", "perception")
    settings: dict[str, Any] = {
        "stage": "base",
        "prompts": "brief",
        "max_new_tokens": 72,
        "conditions": conditions,
    }
    evaluate(engine, examples, out=tmp_path / "here", **settings)
    with served(engine) as url:
        there = EndpointEngine(EndpointConfig(url=url, model="m", concurrency=5))
        there.probe(VIEWS["student"](examples[0], "brief"))
        evaluate(there, examples, out=tmp_path / "there", endpoint={"url": url}, **settings)
    same = ("response", "num_tokens", "finished", "outcome", "fields", "right", "error")
    for condition in conditions:
        here, there_ = (
            {
                row["id"]: [row[name] for name in same]
                for row in map(json.loads, path.read_text().splitlines())
            }
            for path in (tmp_path / place / "eval" / f"base.{condition}.jsonl" for place in ("here", "there"))
        )
        assert len(here) == 6 and here == there_


def test_the_probe_finds_a_wrong_name_at_a_real_server(url: str) -> None:
    engine = EndpointEngine(EndpointConfig(url=url, model="other"))
    with pytest.raises(PilotageError, match="no model 'other'.*it serves m"):
        engine.probe(image_view(TINY_PNG))
    engine = EndpointEngine(EndpointConfig(url=url, model="m"))
    engine.probe(image_view(TINY_PNG))
    (answer,) = engine.stream(
        [Request(view=image_view(TINY_PNG), example_id="x")], Decoding(max_new_tokens=4)
    )
    assert answer.error is None and answer.notes["num_tokens"] == 4


def test_the_command_serves_until_it_is_interrupted(http: httpx2.Client) -> None:
    command = [sys.executable, "-m", "pilotage.cli", "serve", "nano", "--port", "0", "--threads", "1"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "SERVE_KEY": "sesame"}
    process = subprocess.Popen(
        [*command, "--key-env", "SERVE_KEY"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line.startswith("serving nano at http://127.0.0.1:")
        url = line.split()[-1]
        assert chat(http, url, model="nano").status_code == 401
        key = {"Authorization": "Bearer sesame"}
        said = http.post(f"{url}/chat/completions", json=body(model="nano"), headers=key)
        assert 1 <= said.json()["usage"]["completion_tokens"] <= 12
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=30)
    finally:
        process.kill()
    assert "Traceback" not in err and "sesame" not in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("serve nano --key-env NO_SUCH_VARIABLE", "NO_SUCH_VARIABLE"),
        ("serve nano --batch-size 0", "--batch-size 0"),
        ("serve /nowhere", "/nowhere"),
        ("serve nano --port 99999", "port 99999"),
    ],
)
def test_mistakes_of_the_command_are_one_line(
    capsys: pytest.CaptureFixture[str], arguments: str, message: str
) -> None:
    assert main(arguments.split()) == 2
    err = capsys.readouterr().err
    assert message in err and err.count("\n") == 1

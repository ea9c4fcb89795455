"""Whatever a server repeats, the key reaches neither rows nor logs nor the terminal; no answer is changed for less."""

from __future__ import annotations

import base64
import gzip
import json
import logging
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from misbehaving import Behaviour, Handler, completion, says, sends, serving, well
from pilotage.cli.main import main
from pilotage.records import View
from pilotage.rollouts import Answer, Decoding, Request
from pilotage.rollouts.endpoint import EndpointConfig, EndpointEngine
from pilotage.rollouts.keys import KEY_PLACE, Scrubber, is_secret

KEY = 'sk-Q7"x/9pZ&aB3cD4eF5'
"""With characters that JSON, HTML and addresses spell in other ways."""
WORDS = View(name="symbolic", messages=[{"role": "user", "content": "Plan."}])
EDGE = "x" * (300 - 10)
"""A message is cut after 300 characters: the key stands across the edge."""
PLACEHOLDERS = (
    "none",
    "EMPTY",
    "x",
    "dummy",
    "test",
    "sk-no-key-required",
    "local",
    "sk-0000000000000000",
    "123456",
)


def in_reason_phrase(handler: Handler, body: dict[str, Any]) -> None:
    handler.wfile.write(f"HTTP/1.1 500 {KEY}\r\nContent-Length: 2\r\n\r\n{{}}".encode())
    handler.close_connection = True


def no_http(handler: Handler, body: dict[str, Any]) -> None:
    handler.wfile.write(f"{KEY} is no HTTP\r\n\r\n".encode())
    handler.close_connection = True


def cut_in_the_middle(handler: Handler, body: dict[str, Any]) -> None:
    handler.wfile.write(f"HTTP/1.1 200 OK\r\nContent-Length: 9999\r\n\r\n{KEY}".encode())
    handler.close_connection = True


def in_two_chunks(handler: Handler, body: dict[str, Any]) -> None:
    content = json.dumps(completion(f"so {KEY} it is")).encode()
    half = content.index(b"sk-Q7") + 6
    handler.wfile.write(
        b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
    )
    for chunk in (content[:half], content[half:], b""):
        handler.wfile.write(f"{len(chunk):x}\r\n".encode() + chunk + b"\r\n")
        handler.wfile.flush()


def choice(**more: Any) -> dict[str, Any]:
    return {"index": 0, "message": {"role": "assistant", "content": "R"}, "finish_reason": "stop"} | more


WAYS: dict[str, Behaviour] = {
    "400 message": says(400, f"bad key {KEY}"),
    "401 message": says(401, f"bad key {KEY}"),
    "404 message": says(404, f"no such thing, {KEY}"),
    "429 message": says(429, KEY),
    "500 message": says(500, KEY),
    "message across the cut": says(400, EDGE + KEY),
    "error code": says(400, "no", code=KEY),
    "error type alone": sends({"error": {"type": KEY}}, status=400),
    "error detail": sends({"detail": [{"loc": ["header"], "input": f"Bearer {KEY}"}]}, status=422),
    "error of no known form": sends({"oops": {KEY: KEY}}, status=400),
    "plain text": sends(f"Authorization: Bearer {KEY}".encode(), status=403, kind="text/plain"),
    "plain text across the cut": sends((EDGE + KEY).encode(), status=403, kind="text/plain"),
    "a page": sends(f"<p>{KEY.replace('&', '&amp;').replace(chr(34), '&quot;')}</p>".encode(), status=502),
    "an address": sends(f"see https://x.example/?key={quote(KEY, safe='')}".encode(), status=403),
    "JSON within JSON": says(400, json.dumps(json.dumps({"key": KEY}))),
    "unicode escapes": sends(("".join(f"\\u{ord(c):04x}" for c in KEY)).encode(), status=400),
    "a redirect": says(307, Location=f"http://127.0.0.1:1/{quote(KEY)}"),
    "reason phrase": in_reason_phrase,
    "a header": says(400, **{"X-Key": KEY, "WWW-Authenticate": f"Bearer realm={quote(KEY)}"}),
    "retry-after": says(429, "no", **{"Retry-After": quote(KEY)}),
    "no HTTP": no_http,
    "a body that ends early": cut_in_the_middle,
    "not JSON": sends(f"{KEY} {{".encode()),
    "not JSON across the cut": sends(("y" * 75 + KEY).encode()),
    "an error with status 200": sends({"error": {"message": KEY}}),
    "finish_reason": sends(completion("R", choices=[choice(finish_reason=KEY)])),
    "finish_reason of no text": sends(
        completion("", choices=[choice(message={"content": ""}, finish_reason=KEY)])
    ),
    "refusal": sends(completion("", choices=[choice(message={"content": None, "refusal": KEY})])),
    "served model": sends(completion("R", model=KEY)),
    "answer": sends(completion(f"the key is {KEY}")),
    "answer of parts": sends(
        completion(
            "",
            choices=[choice(message={"content": [{"type": "text", "text": t} for t in (KEY[:8], KEY[8:])]})],
        )
    ),
    "answer in two chunks": in_two_chunks,
    "enormous answer across its cut": sends(completion("R" * 19_990 + KEY + "R" * 40_000)),
    "content encoding": sends(b"", Content_Encoding=quote(KEY)),
    "usage": sends(completion("R", usage={KEY: 3, "completion_tokens": KEY})),
}


IN_TERMINAL = (
    *("401 message", "404 message", "429 message", "a page", "no HTTP"),
    *("finish_reason of no text", "served model", "answer"),
)
"""Those that a whole evaluation is made of: through the probe, as rows and as the last line."""


def ask(url: str, key: str = KEY, **more: Any) -> list[Answer]:
    config = EndpointConfig(url=url, model="good", key=key, timeout_s=5.0, retries=1, first_wait_s=0.01)
    requests = [Request(view=WORDS, example_id="e")]
    return list(EndpointEngine(config).stream(requests, Decoding(max_new_tokens=50)))


def spellings(key: str) -> list[str]:
    return [key, json.dumps(key)[1:-1], quote(key, safe=""), quote(key), key[:12], key[-12:]]


@pytest.mark.parametrize("way", WAYS)
def test_no_row_and_no_log_holds_the_key(way: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    shown = ""
    with serving(WAYS[way]) as server:
        try:
            shown = repr(ask(server.url))
        except Exception as error:  # noqa: BLE001 - a refused key ends the work, with a message that is looked at too
            shown = f"{error} {error!r} {error.__cause__!r}"
    shown += caplog.text + "".join(str(record.args) for record in caplog.records)
    assert server.headers[0]["authorization"] == f"Bearer {KEY}"
    assert not [spelled for spelled in spellings(KEY) if spelled in shown]


def test_the_terminal_and_the_rows_of_a_whole_evaluation_hold_no_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    for place, way in enumerate(IN_TERMINAL):
        with serving(WAYS[way]) as server:
            server.models = [f"other {KEY}"]
            out = tmp_path / f"{place}"
            command = [
                "eval",
                "--endpoint",
                server.url,
                "--model",
                "good",
                "--conditions",
                "text",
                "--num",
                "1",
            ]
            main([*command, "--retries", "0", "--recipe", "nano", "--out", str(out)])
        streams = capfd.readouterr()
        shown = (
            streams.out + streams.err + "".join(path.read_text() for path in out.rglob("*") if path.is_file())
        )
        assert not [spelled for spelled in spellings(KEY) if spelled in shown], way


@pytest.mark.parametrize("key", PLACEHOLDERS)
def test_a_placeholder_changes_no_answer(key: str) -> None:
    text = f"There is {key}, and {key} again. <answer>R</answer>"
    with serving(well(text)) as server:
        (answer,) = ask(server.url, key=key)
    assert not is_secret(key)
    assert answer.rollout is not None and answer.rollout.text == text


@pytest.mark.parametrize(
    "key", [KEY, "sk-proj-abc123def456", "hf_AbCdEfGhIjKlMnOpQr", "0123456789abcdef0123456789abcdef"]
)
def test_a_real_key_is_cut_out_whole_and_only_where_it_is_whole(key: str) -> None:
    scrub = Scrubber(key).scrub
    assert is_secret(key)
    assert scrub(f"a {key} b {key}") == f"a {KEY_PLACE} b {KEY_PLACE}"
    for part in (key[:-1], key[1:], key.replace(key[3], "", 1), "".join(reversed(key))):
        assert scrub(f"a {part} b") == f"a {part} b"


def test_scrubbing_a_hostile_body_takes_no_time_to_speak_of() -> None:
    scrubber = Scrubber(KEY)
    for body in ("\\" * 200_000, "%25" * 100_000, "&#0" * 100_000, KEY[:-1] * 10_000):
        assert scrubber.scrub(body) == body


FINISHED: dict[str | None, bool] = {
    "stop": True,
    "eos_token": True,
    "STOP": True,
    "something new": True,
    None: True,
    "length": False,
    "max_tokens": False,
    "MAX_TOKENS": False,
}


@pytest.mark.parametrize("reason", FINISHED)
def test_only_a_limit_cuts_an_answer(reason: str | None) -> None:
    with serving(sends(completion("", choices=[choice(finish_reason=reason)]))) as server:
        (answer,) = ask(server.url)
    assert answer.error is None and answer.rollout is not None
    assert answer.rollout.finished == FINISHED[reason]


def test_a_content_filter_is_a_refusal_and_no_cut() -> None:
    with serving(sends(completion("", choices=[choice(finish_reason="content_filter")]))) as server:
        (answer,) = ask(server.url)
    assert answer.error_kind == "refused" and len(server.requests) == 1


def test_an_error_in_the_middle_of_an_answer_is_the_servers_and_is_asked_again() -> None:
    broken = sends(completion("", choices=[choice(message={"content": "<answer>R"}, finish_reason="error")]))
    with serving(broken) as server:
        (answer,) = ask(server.url)
    assert len(server.requests) == 2
    assert answer.error_kind == "transport" and "broke off" in (answer.error or "")
    assert answer.rollout is not None and answer.rollout.text == "<answer>R" and not answer.rollout.finished


def test_an_answer_that_spent_its_tokens_on_thinking_is_cut_and_keeps_its_usage() -> None:
    silent = sends(completion("", choices=[choice(message={"content": ""}, finish_reason="length")]))
    with serving(silent) as server:
        (answer,) = ask(server.url)
    assert answer.error is None and answer.rollout is not None
    assert (answer.rollout.text, answer.rollout.finished) == ("", False)
    assert answer.notes["usage"]["completion_tokens"] == answer.notes["num_tokens"] == 7


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "deflate, gzip", "br", "zstd", "x-unknown"])
@pytest.mark.parametrize("status", [200, 500])
def test_a_packed_body_is_not_unpacked(encoding: str, status: int, monkeypatch: pytest.MonkeyPatch) -> None:
    bomb = gzip.compress(zlib.compress(b"0" * 20_000_000))
    for library in (zlib, gzip):
        monkeypatch.setattr(library, "decompress", lambda *_, **__: pytest.fail("it was unpacked"))
    with serving(sends(bomb, status=status, Content_Encoding=encoding)) as server:
        (answer,) = ask(server.url)
    assert answer.rollout is None and encoding in (answer.error or "")
    assert answer.error_kind == "transport"


def test_measuring_an_endpoint_needs_neither_torch_nor_transformers(tmp_path: Path) -> None:
    blocked = (
        "import json, sys\n"
        "class Absent:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name in ('torch', 'transformers', 'accelerate', 'peft', 'trl', 'datasets'):\n"
        "            raise ModuleNotFoundError(name, name=name)\n"
        "sys.meta_path.insert(0, Absent())\n"
        "from pilotage.cli.main import main\n"
        "for command in json.loads(sys.argv[1]):\n"
        "    assert main(command) == 0, command\n"
    )
    with serving(well("<answer>R</answer>")) as server:
        commands = [
            ["eval", "--endpoint", server.url, "--model", "good", "--num", "2", "--out", str(tmp_path)],
            ["diagnose", str(tmp_path), "gap", "--rows-only"],
            ["report", str(tmp_path)],
            ["recipes"],
        ]
        done = subprocess.run(
            [sys.executable, "-c", blocked, json.dumps(commands)], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr


def test_a_key_in_base64_is_the_server_s_own_secret_to_keep() -> None:
    """Said, not promised: encodings that nothing undoes on the way are not looked through."""
    packed = base64.b64encode(KEY.encode()).decode()
    assert Scrubber(KEY).scrub(packed) == packed

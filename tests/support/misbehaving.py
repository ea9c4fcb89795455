"""A real HTTP server that speaks the chat API, and misbehaves on purpose: at once, in turn, or now and then.

`python tests/support/misbehaving.py PORT SECONDS` answers every chat request well after SECONDS.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Behaviour = Callable[["Handler", dict[str, Any]], None]
"""Answers one chat request, given its JSON."""


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def __init__(self, behave: Choice, port: int = 0) -> None:
        super().__init__(("127.0.0.1", port), Handler)
        self.behave = behave
        """(number of the chat request from 0, its JSON) -> what is done about it."""
        self.models = ["good"]
        self.requests: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.times_s: list[float] = []
        self.num_at_once = self.most_at_once = 0
        self.lock = threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is what some tests are about."""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server  # pyright: ignore[reportIncompatibleVariableOverride]

    def do_GET(self) -> None:
        data = [{"id": name, "object": "model"} for name in self.server.models]
        self.reply(200, {"object": "list", "data": data})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        server = self.server
        with server.lock:
            number = len(server.requests)
            server.requests.append(body)
            server.headers.append({name.lower(): value for name, value in self.headers.items()})
            server.times_s.append(time.monotonic())
            server.num_at_once += 1
            server.most_at_once = max(server.most_at_once, server.num_at_once)
        try:
            server.behave(number, body)(self, body)
        finally:
            with server.lock:
                server.num_at_once -= 1

    def reply(self, status: int, content: Any, *, kind: str = "application/json", **headers: str) -> None:
        raw = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(raw)))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(raw)

    def cut(self, sent: bytes) -> None:
        """Sends `sent` and drops the connection."""
        self.wfile.write(sent)
        self.wfile.flush()
        self.close_connection = True

    def log_message(self, format: str, *arguments: Any) -> None:
        """Nothing: tests read what pilotage logs."""


def completion(text: str | None, **more: Any) -> dict[str, Any]:
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
    usage = {"prompt_tokens": 100, "completion_tokens": 7, "total_tokens": 107}
    return {
        "id": "1",
        "object": "chat.completion",
        "model": "good-1",
        "choices": [choice],
        "usage": usage,
    } | more


def well(text: str = "<answer>R</answer>", after_s: float = 0.0) -> Behaviour:
    def answer(handler: Handler, body: dict[str, Any]) -> None:
        time.sleep(after_s)
        handler.reply(200, completion(text))

    return answer


def says(status: int, message: str = "no", *, code: str | None = None, **headers: str) -> Behaviour:
    body = {"error": {"message": message, "type": "some_error", "code": code}}
    return lambda handler, _: handler.reply(status, body, **headers)


def sends(content: Any, *, kind: str = "application/json", status: int = 200, **headers: str) -> Behaviour:
    return lambda handler, _: handler.reply(status, content, kind=kind, **headers)


def stalls(seconds: float) -> Behaviour:
    """Takes the request and says nothing."""
    return lambda handler, _: time.sleep(seconds)


def dribbles(seconds: float) -> Behaviour:
    """Sends a byte now and then, so that no single read takes long."""

    def answer(handler: Handler, _: dict[str, Any]) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", "100000")
        handler.end_headers()
        end_s = time.monotonic() + seconds
        while time.monotonic() < end_s:
            handler.wfile.write(b" ")
            handler.wfile.flush()
            time.sleep(0.05)

    return answer


def hangs_up(handler: Handler, _: dict[str, Any]) -> None:
    """Drops the connection without a word."""
    handler.cut(b"")


def cuts_the_body(handler: Handler, _: dict[str, Any]) -> None:
    raw = json.dumps(completion("<answer>R</answer>")).encode()
    head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(raw)}\r\n\r\n"
    handler.cut(head.encode() + raw[: len(raw) // 2])


def speaks_no_http(handler: Handler, _: dict[str, Any]) -> None:
    handler.cut(b"\x00\xff\x16 this is not HTTP\r\n\r\n")


def never_ends(handler: Handler, _: dict[str, Any]) -> None:
    """A body of 64 MiB, as long as anybody listens."""
    handler.send_response(200)
    handler.send_header("Content-Type", "application/json")
    handler.send_header("Content-Length", str(2**26))
    handler.end_headers()
    for _mebibyte in range(64):
        handler.wfile.write(b"x" * 2**20)


def echoes_the_key(handler: Handler, _: dict[str, Any]) -> None:
    key = handler.headers["Authorization"].removeprefix("Bearer ")
    handler.reply(200, completion(f"your key is {key}\n<answer>R</answer>", model=f"m {key}"))


Choice = Callable[[int, dict[str, Any]], Behaviour]
"""(number of the request from 0, its JSON) -> what is done about it."""


@contextmanager
def serving(
    behaviour: Behaviour | None = None, *, choose: Choice | None = None, port: int = 0
) -> Iterator[Server]:
    """The server, while the block runs: one behaviour for every request, or the chosen one."""
    server = Server(choose or (lambda *_: behaviour or well()), port)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def in_turn(*behaviours: Behaviour) -> Choice:
    """The first request gets the first behaviour, …; the last one stays."""
    return lambda number, body: behaviours[min(number, len(behaviours) - 1)]


if __name__ == "__main__":
    with serving(well(after_s=float(sys.argv[2])), port=int(sys.argv[1])) as forever:
        print(forever.url, flush=True)
        threading.Event().wait()

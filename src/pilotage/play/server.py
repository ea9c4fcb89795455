"""The page's server: on this machine only, for this machine's pages only.

It listens on 127.0.0.1. A request must name that address (or localhost) as its host: a name that some page has
pointed here (DNS rebinding) is refused. What changes nothing is a GET; everything else is JSON in a POST, which
pages of other origins cannot send without asking, and they are refused when they ask.
"""

from __future__ import annotations

import json
import logging
import secrets
import threading
from collections.abc import Callable, Mapping
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from pilotage.errors import PilotageError
from pilotage.play.episode import ByHand
from pilotage.play.game import Answerer, ask_model, judge_plan_text, new_level, own_level
from pilotage.play.page import EPISODE_POLICY, POLICY, render_episode_page, render_page

logger = logging.getLogger(__name__)

HOST = "127.0.0.1"
MAX_BODY_BYTES = 256 * 1024
TIMEOUT_S = 30.0

Endpoint = Callable[[Mapping[str, Any]], dict[str, Any]]


class LocalServer(ThreadingHTTPServer):
    """Serves one page and its questions until `shutdown`; port 0 takes a free one.

    Whoever derives from it sets `page`, `policy` and `endpoints`. Raises PilotageError when the port is taken.
    """

    daemon_threads = True
    page: bytes
    policy: str
    endpoints: dict[str, Endpoint]

    def __init__(self, *, port: int) -> None:
        if not 0 <= port <= 65535:
            raise PilotageError(f"port {port} is none: 0 (any free one) to 65535")
        try:
            super().__init__((HOST, port), _Handler)
        except OSError as error:
            raise PilotageError(
                f"cannot listen on {HOST}:{port}: {error.strerror}; give another --port (0 takes a free one)"
            ) from None
        self.port: int = self.server_address[1]
        self.allowed_hosts = frozenset(f"{name}:{self.port}" for name in (HOST, "localhost"))
        self.token = secrets.token_urlsafe(18)
        """Stands in the page and comes back with every POST: another page on this machine does not know it."""

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self.port}/"


class PlayServer(LocalServer):
    """Levels of the planning tasks."""

    policy = POLICY

    def __init__(self, *, port: int, answerer: Answerer | None = None) -> None:
        super().__init__(port=port)
        self.page = render_page(model=answerer.name if answerer else None, token=self.token).encode()
        self.endpoints = {
            "/api/level": new_level,
            "/api/map": own_level,
            "/api/judge": judge_plan_text,
        }
        if answerer is not None:
            self.endpoints["/api/model"] = _one_at_a_time(lambda request: ask_model(request, answerer))


class EpisodeServer(LocalServer):
    """Episodes of a world of many turns, one at a time."""

    policy = EPISODE_POLICY

    def __init__(self, hand: ByHand, *, port: int) -> None:
        super().__init__(port=port)
        self.page = render_episode_page(hand, token=self.token).encode()
        lock = threading.Lock()
        self.endpoints = {
            "/api/begin": _one_at_a_time(hand.begin, lock),
            "/api/answer": _one_at_a_time(hand.answer, lock),
        }


def _one_at_a_time(endpoint: Endpoint, lock: threading.Lock | None = None) -> Endpoint:
    lock = lock or threading.Lock()

    def ask(request: Mapping[str, Any]) -> dict[str, Any]:
        with lock:
            return endpoint(request)

    return ask


class _Handler(BaseHTTPRequestHandler):
    server: LocalServer  # pyright: ignore[reportIncompatibleVariableOverride]
    server_version = "pilotage"
    sys_version = ""
    timeout = TIMEOUT_S

    def do_GET(self) -> None:
        if not self._is_from_here():
            return
        if self.path.split("?")[0] == "/":
            self._send(HTTPStatus.OK, self.server.page, "text/html; charset=utf-8")
        else:
            self._fail(HTTPStatus.NOT_FOUND, "there is nothing here but the page itself")

    def do_POST(self) -> None:
        if not self._is_from_here():
            return
        endpoint = self.server.endpoints.get(self.path)
        if endpoint is None:
            self._fail(HTTPStatus.NOT_FOUND, "no such question")
            return
        request = self._read()
        if request is None:
            return
        try:
            answer = endpoint(request)
        except PilotageError as error:
            self._fail(HTTPStatus.BAD_REQUEST, " ".join(str(error).split()))
        except Exception as failure:
            logger.exception("%s failed", self.path)
            self._fail(HTTPStatus.INTERNAL_SERVER_ERROR, f"{type(failure).__name__}: see the terminal")
        else:
            self._send_json(HTTPStatus.OK, answer)

    def _is_from_here(self) -> bool:
        hosts = self.headers.get_all("Host") or []
        if len(hosts) == 1 and hosts[0].lower() in self.server.allowed_hosts:
            origin = self.headers.get("Origin")
            if origin is None or origin.removeprefix("http://") in self.server.allowed_hosts:
                return True
        self._fail(HTTPStatus.FORBIDDEN, "this page answers to this machine only")
        return False

    def _read(self) -> dict[str, Any] | None:
        """The request's JSON object, or None after an error was sent."""
        if not secrets.compare_digest(
            self.headers.get("X-Pilotage", "").encode(), self.server.token.encode()
        ):
            self._fail(HTTPStatus.FORBIDDEN, "this page is out of date: load it again")
            return None
        if self.headers.get_content_type() != "application/json":
            self._fail(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "questions are JSON")
            return None
        length = self.headers.get("Content-Length", "")
        if not length.isascii() or not length.isdigit():
            self._fail(HTTPStatus.LENGTH_REQUIRED, "the length of the question is missing")
            return None
        if len(length) > 9 or int(length) > MAX_BODY_BYTES:
            self._fail(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"at most {MAX_BODY_BYTES:,} bytes")
            return None
        try:
            request = json.loads(self.rfile.read(int(length)))
        except (ValueError, RecursionError):
            request = None
        if not isinstance(request, dict):
            self._fail(HTTPStatus.BAD_REQUEST, "the question is no JSON object")
            return None
        return request

    def _fail(self, status: HTTPStatus, problem: str) -> None:
        # What was not read of the request must not be taken for the next one.
        self.close_connection = True
        self._send_json(status, {"error": problem[:2000]})

    def _send_json(self, status: HTTPStatus, data: Mapping[str, Any]) -> None:
        self._send(status, json.dumps(data).encode(), "application/json")

    def _send(self, status: HTTPStatus, body: bytes, content_type: str) -> None:
        self.send_response(status)
        for name, value in (
            ("Content-Type", content_type),
            ("Content-Length", str(len(body))),
            ("Content-Security-Policy", self.server.policy + "; frame-ancestors 'none'"),
            ("X-Content-Type-Options", "nosniff"),
            ("X-Frame-Options", "DENY"),
            ("Referrer-Policy", "no-referrer"),
            ("Cross-Origin-Resource-Policy", "same-origin"),
            ("Cache-Control", "no-store"),
        ):
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        logger.debug(format, *args)

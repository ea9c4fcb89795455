"""A small server for one model with OpenAI's chat schema: what `pilotage eval --endpoint` needs, for any client.

`transformers serve` was looked at first: for Qwen-VL it builds the stock processor, which needs torchvision, and it
fetches pictures from addresses that clients name.
"""

from __future__ import annotations

import asyncio
import hmac
import json
import logging
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from pilotage.errors import PilotageError
from pilotage.rollouts.serve_chat import ChatRequest, RequestError, completion_body, error_body, parse_chat
from pilotage.rollouts.serve_queue import Answered, Batcher

try:
    import anyio
    import anyio.to_thread
    import uvicorn
    from starlette.applications import Starlette
    from starlette.exceptions import HTTPException
    from starlette.middleware import Middleware
    from starlette.middleware.trustedhost import TrustedHostMiddleware
    from starlette.requests import ClientDisconnect, Request
    from starlette.responses import JSONResponse, Response
    from starlette.routing import Route
except ImportError as _missing:
    raise PilotageError(
        f"serving needs starlette and uvicorn ({_missing}): pip install 'pilotage[serve]'"
    ) from _missing

logger = logging.getLogger(__name__)

MAX_BODY_BYTES = 24 * 2**20
MAX_HELD_BYTES = 256 * 2**20
"""Bodies and pictures of all requests together, from their first byte to their answer."""
BODY_LIMIT_S = 60.0
"""A client that takes longer to send its request is not waited for."""
NUM_PARSERS = 2
"""Requests that are parsed at once. JSON of `MAX_BODY_BYTES` may unfold to twenty times its size."""
LOOPBACK = ("127.0.0.1", "localhost", "::1")


def make_app(
    batcher: Batcher,
    *,
    model: str,
    max_new_tokens: int = 4096,
    key: str = "",
    hosts: Sequence[str] = (),
    max_held_bytes: int = MAX_HELD_BYTES,
) -> Starlette:
    """The ASGI application. With a `key`, requests need it as a bearer token; `hosts` are the names under which the
    server may be addressed (any, when empty), so that no web page can reach a loopback server by a name of its own.
    """

    parsers = anyio.CapacityLimiter(NUM_PARSERS)

    def check_key(request: Request) -> None:
        given = request.headers.get("authorization", "").removeprefix("Bearer ")
        if key and not hmac.compare_digest(given.encode("utf-8", "replace"), key.encode()):
            raise RequestError("the key is missing or wrong", status=401, code="invalid_api_key")

    async def health(request: Request) -> Response:
        return JSONResponse({"status": "ok"})

    async def models(request: Request) -> Response:
        check_key(request)
        return JSONResponse({"object": "list", "data": [_model(model)]})

    async def one_model(request: Request) -> Response:
        check_key(request)
        if request.path_params["name"] != model:
            raise RequestError(
                f"no such model; this server has {model!r}", status=404, code="model_not_found"
            )
        return JSONResponse(_model(model))

    room = _Room(max_held_bytes)

    def parse(content: bytes) -> ChatRequest:
        return parse_chat(_as_json(content), model=model, max_new_tokens=max_new_tokens)

    async def chat(request: Request) -> Response:
        check_key(request)
        with room.hold() as hold:
            content = await _read_body(request, hold)
            # Not in the event loop: a large picture takes a while. Not many at once: it takes memory as well.
            chat_request = await anyio.to_thread.run_sync(parse, content, limiter=parsers)
            hold(sum(map(len, chat_request.view.images)))
            job = batcher.submit(chat_request)
            try:
                answered = await _while_connected(request, asyncio.wrap_future(job.future))
            finally:
                batcher.abandon(job)
        return JSONResponse(
            completion_body(model, answered.rollouts, num_prompt_tokens=answered.num_prompt_tokens)
        )

    return Starlette(
        routes=[
            Route("/health", health),
            Route("/v1/models", models),
            Route("/v1/models/{name:path}", one_model),
            Route("/v1/chat/completions", chat, methods=["POST"]),
        ],
        middleware=[Middleware(TrustedHostMiddleware, allowed_hosts=list(hosts))] if hosts else [],
        exception_handlers={
            RequestError: _on_request_error,
            ClientDisconnect: _on_hang_up,
            HTTPException: _on_http,
            Exception: _on_bug,
        },
    )


def _model(name: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": 0, "owned_by": "pilotage"}


class _Room:
    """Counts the bytes that requests hold. Used in the event loop alone."""

    def __init__(self, num_bytes: int) -> None:
        self._num_free = num_bytes

    @contextmanager
    def hold(self) -> Iterator[Callable[[int], None]]:
        """What the block takes through the function that it is given is free again when it ends.

        That function raises RequestError (429) when there is no room for so much more.
        """
        num_held = 0

        def take(num_bytes: int) -> None:
            nonlocal num_held
            if num_bytes > self._num_free:
                raise RequestError(
                    "the requests that are being answered fill the server; try again", status=429, code="busy"
                )
            self._num_free -= num_bytes
            num_held += num_bytes

        try:
            yield take
        finally:
            self._num_free += num_held


async def _read_body(request: Request, hold: Callable[[int], None]) -> bytes:
    """The body, read up to the limits. A web page can only send other content types without being asked first."""
    content_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if content_type != "application/json":
        raise RequestError("the body must be application/json", status=415)
    body = bytearray()
    try:
        async with asyncio.timeout(BODY_LIMIT_S):
            async for chunk in request.stream():
                if len(body) + len(chunk) > MAX_BODY_BYTES:
                    raise RequestError(f"the body has more than {MAX_BODY_BYTES} bytes", status=413)
                hold(len(chunk))
                body += chunk
    except TimeoutError:
        raise RequestError(f"the body did not come within {BODY_LIMIT_S:g} s", status=408) from None
    return bytes(body)


def _as_json(body: bytes) -> Any:
    try:
        return json.loads(body, parse_constant=_reject_constant)
    except (ValueError, RecursionError) as error:
        raise RequestError(f"the body is not JSON: {str(error)[:200]}") from None


async def _while_connected(request: Request, answer: asyncio.Future[Answered]) -> Answered:
    """The answer. Raises ClientDisconnect when the client hangs up before it is there."""
    gone = asyncio.ensure_future(_disconnection(request))
    try:
        await asyncio.wait({answer, gone}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        gone.cancel()
    if not answer.done():
        answer.cancel()
        raise ClientDisconnect
    return answer.result()


async def _disconnection(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _reject_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON number")


async def _on_request_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestError)
    headers = {"Retry-After": "1"} if error.status in (429, 503) else {}
    return JSONResponse(error.as_dict(), status_code=error.status, headers=headers)


async def _on_hang_up(request: Request, error: Exception) -> Response:
    logger.debug("a client hung up")
    return Response(status_code=499)  # nobody reads it


async def _on_http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return JSONResponse(error_body(error.detail, error.status_code), status_code=error.status_code)


async def _on_bug(request: Request, error: Exception) -> Response:
    return JSONResponse(
        error_body("the server failed on this request; its log says why", 500), status_code=500
    )


def open_socket(host: str, port: int) -> socket.socket:
    """A listening socket; port 0 takes any that is free. Raises PilotageError when it is taken or may not be used.

    Clients that come before `serve` wait for it, so a model can be loaded in between.
    """
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        bound = socket.socket(family, socket.SOCK_STREAM)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind((host, port))
        bound.listen(1024)
    except (OSError, OverflowError) as error:
        raise PilotageError(
            f"cannot listen on {host}, port {port}: {error}; give another (--port 0: any)"
        ) from None
    return bound


def serve(app: Starlette, bound: socket.socket) -> None:
    """Answers until the process is told to end."""
    config = uvicorn.Config(app, log_level="warning", access_log=False, timeout_keep_alive=75)
    uvicorn.Server(config).run(sockets=[bound])

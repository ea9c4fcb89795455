"""One request to a chat endpoint, through the `openai` client: a completion, or a trouble that says what to do."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import httpx2
import openai

from pilotage.records import View
from pilotage.rollouts.endpoint_http import (
    BROKEN_OFF,
    PREFILLED,
    Completion,
    UnreadableError,
    chat_messages,
    error_code,
    error_text,
    kind_of_status,
    one_line,
    read_completion,
    read_model_names,
    retry_after_s,
)
from pilotage.rollouts.engine import Decoding
from pilotage.rollouts.keys import Scrubber
from pilotage.rollouts.stream import ErrorKind

MAX_BODY_BYTES = 8 * 2**20
"""Bytes of a body that are read; the largest sensible answer is far below."""
OUT_OF_CREDIT = frozenset({"insufficient_quota", "billing_hard_limit_reached"})
READ_HEADERS = ("retry-after", "retry-after-ms")
"""All that is wanted of an answer's head. No other header comes in: not a place to go to, a charset or a key."""
HTTP_LOGGERS = ("httpx2", "httpcore2.http11")
"""They log status lines and headers as they come."""


class UnwantedBodyError(Exception):
    """The body is not read to its end."""

    def __init__(self, text: str, kind: ErrorKind) -> None:
        super().__init__(text)
        self.kind: ErrorKind = kind


class TroubleError(Exception):
    """A request came to nothing. The text is one line."""

    def __init__(
        self,
        text: str,
        *,
        kind: ErrorKind = "transport",
        again: bool = False,
        status: int | None = None,
        wait_s: float | None = None,
        completion: Completion | None = None,
    ) -> None:
        super().__init__(text)
        self.kind: ErrorKind = kind
        self.again = again
        """Another try may succeed."""
        self.status = status
        self.wait_s = wait_s
        """What the server asked to wait."""
        self.completion = completion
        """What there was of an answer, its text no longer than an answer can be."""
        self.is_final = False
        """No request of this key can succeed any more: it was refused, or its credit is used up."""


@dataclass(frozen=True, kw_only=True)
class Dialect:
    """In what servers differ; the probe finds it out."""

    token_limit: str = "max_tokens"
    """Newer hosted models take `max_completion_tokens` only."""
    takes_seed: bool = True


@dataclass(frozen=True, kw_only=True)
class EndpointConfig:
    """Where a model is asked and how insistently. Nothing of it but `url`, `model` and `extra_body` changes answers."""

    url: str
    """The base, ending in its version, as `pilotage.rollouts.endpoint_http.base_url` gives it."""
    model: str
    key: str = field(default="", repr=False)
    """Sent as a bearer token; never logged, never written, cut out of whatever the server says."""
    extra_body: Mapping[str, Any] = field(default_factory=dict)
    """Added to every request, as in `{"chat_template_kwargs": {"enable_thinking": false}}`."""
    concurrency: int = 8
    """Requests under way at once."""
    requests_per_minute: float | None = None
    timeout_s: float = 180.0
    """For one request, from sending to the last byte."""
    retries: int = 6
    """Further tries after a failure that may pass."""
    first_wait_s: float = 0.5
    """Wait before the first retry; doubled for each further one, up to 30 s."""


class Client:
    """An open connection pool to the endpoint; use it as an async context, within one event loop.

    Whatever the server sends passes `_take_in` or `_of_connection` first, where the key is cut out of it.
    """

    def __init__(self, config: EndpointConfig) -> None:
        self._config = config
        self._scrubber = Scrubber(config.key)
        self._client = openai.AsyncOpenAI(
            base_url=config.url,
            api_key=config.key or "none",
            max_retries=0,  # Retries are ours: they count towards the rate limit and cover broken bodies too.
            timeout=config.timeout_s,
            http_client=httpx2.AsyncClient(
                timeout=config.timeout_s,
                # Reading the certificates takes a tenth of a second; plain HTTP needs none.
                verify=config.url.startswith("https:"),
                limits=httpx2.Limits(max_connections=config.concurrency + 1),
                headers={"Accept-Encoding": "identity"},
                event_hooks={"response": [self._take_in]},
                # An endpoint that moved is named by its new address: keys and pictures go nowhere else.
                follow_redirects=False,
            ),
        )

    async def __aenter__(self) -> Client:
        for name in HTTP_LOGGERS:
            logging.getLogger(name).addFilter(self._scrubber)
        return self

    async def __aexit__(self, *error: object) -> None:
        await self._client.close()
        for name in HTTP_LOGGERS:
            logging.getLogger(name).removeFilter(self._scrubber)

    async def _take_in(self, response: httpx2.Response) -> None:
        """Leaves of a response its status, the headers that are read, and a body of bounded size without the key.

        An encoded body is not unpacked: none was asked for, a few kilobytes can hold gigabytes, and of several
        encodings in one another each step can.
        """
        encoding = response.headers.get("content-encoding", "identity").strip().lower()
        stream = response.stream
        assert isinstance(stream, httpx2.AsyncByteStream)
        response.stream = _ScrubbedStream(stream, self._scrubber)
        response.extensions.pop("reason_phrase", None)
        response.headers = httpx2.Headers(
            {name: response.headers[name] for name in READ_HEADERS if name in response.headers}
        )
        if encoding in ("", "identity"):
            return
        message = self._scrubber.scrub(
            f"the body comes in the content encoding {encoding!r}, though none was asked for"
        )
        if response.is_success:
            raise UnwantedBodyError(
                one_line(f"{message}: turn it off at the server or its proxy"), "transport"
            )
        await stream.aclose()
        response.stream = httpx2.ByteStream(message.encode())

    async def ask(self, view: View, decoding: Decoding, dialect: Dialect, *, seed: int) -> Completion:
        """The answer to `view`. Raises TroubleError for everything that is none."""
        settings: dict[str, Any] = {dialect.token_limit: decoding.max_new_tokens}
        extra: dict[str, Any] = dict(PREFILLED) if view.prefill else {}
        if decoding.top_p < 1:
            settings["top_p"] = decoding.top_p
        if decoding.top_k:
            extra["top_k"] = decoding.top_k  # not of OpenAI's schema; vLLM, SGLang and llama.cpp know it
        if decoding.temperature > 0 and dialect.takes_seed:
            settings["seed"] = seed
        create: Any = self._client.chat.completions.with_raw_response.create
        try:
            async with asyncio.timeout(self._config.timeout_s):
                response = await create(
                    model=self._config.model,
                    messages=chat_messages(view),
                    temperature=decoding.temperature,
                    extra_body={**extra, **self._config.extra_body} or None,
                    **settings,
                )
            completion = read_completion(response.http_response.content)
        except (TimeoutError, openai.APITimeoutError):
            raise TroubleError(f"no answer within {self._config.timeout_s:g} s", again=True) from None
        except openai.APIStatusError as error:
            raise self._of_status(error) from None
        except (openai.APIConnectionError, httpx2.HTTPError, UnwantedBodyError) as error:
            raise self._of_connection(error) from None
        except UnreadableError as error:
            raise TroubleError(str(error), again=True) from None
        except Exception as error:  # noqa: BLE001 - the border to a server: whatever else it made happen is a row, too
            text = one_line(self._scrubber.scrub(str(error)))
            raise TroubleError(f"{type(error).__name__}: {text}", kind="engine") from None
        # The parts of an answer may make up a key together.
        return self._usable(replace(completion, text=self._scrubber.scrub(completion.text)), decoding)

    def _usable(self, completion: Completion, decoding: Decoding) -> Completion:
        limit = max(20_000, 100 * decoding.max_new_tokens)
        kept = replace(completion, text=completion.text[:limit])
        if completion.finish_reason in BROKEN_OFF:
            raise TroubleError(
                f"the server broke off (finish_reason {completion.finish_reason!r})",
                again=True,
                completion=kept,
            )
        if completion.refusal:
            reason = one_line(completion.refusal)
            raise TroubleError(
                f"the model or its server refused: {reason}",
                kind="refused",
                completion=replace(kept, text=""),
            )
        if not completion.text and not completion.is_cut:
            raise TroubleError(
                f"the answer has no text (finish_reason {completion.finish_reason!r})",
                kind="empty",
                completion=kept,
            )
        if len(completion.text) > limit:
            raise TroubleError(
                f"the answer has {len(completion.text)} characters, where at most {decoding.max_new_tokens} "
                "tokens were asked for",
                kind="too_large",
                completion=kept,
            )
        return completion

    async def model_names(self) -> list[str] | None:
        """Names that the server says it serves; None when it does not say."""
        try:
            async with asyncio.timeout(min(30.0, self._config.timeout_s)):
                response = await self._client.models.with_raw_response.list()
            return read_model_names(response.http_response.content)
        except (openai.OpenAIError, httpx2.HTTPError, UnwantedBodyError, TimeoutError, UnreadableError):
            return None

    def _of_status(self, error: openai.APIStatusError) -> TroubleError:
        kind, again = kind_of_status(error.status_code)
        body = error.response.content
        trouble = TroubleError(
            f"HTTP {error.status_code}: {error_text(body)}",
            kind=kind,
            again=again,
            status=error.status_code,
            wait_s=retry_after_s(error.response.headers),
        )
        if error.status_code in (401, 402) or error_code(body) in OUT_OF_CREDIT:
            trouble.is_final, trouble.again = True, False
        return trouble

    def _of_connection(self, error: BaseException) -> TroubleError:
        cause: BaseException | None = error
        while cause is not None:
            if isinstance(cause, UnwantedBodyError):
                return TroubleError(str(cause), kind=cause.kind)
            root, cause = cause, cause.__cause__
        # What is no HTTP is quoted in the client's own exceptions.
        text = one_line(self._scrubber.scrub(str(root))) or "the connection broke"
        return TroubleError(f"{type(root).__name__}: {text}", again=True)


class _ScrubbedStream(httpx2.AsyncByteStream):
    """A body in one piece, so that no key stands across two, and without the key."""

    def __init__(self, stream: httpx2.AsyncByteStream, scrubber: Scrubber) -> None:
        self._stream, self._scrubber = stream, scrubber

    async def __aiter__(self) -> AsyncIterator[bytes]:
        body = bytearray()
        async for chunk in self._stream:
            body += chunk
            if len(body) > MAX_BODY_BYTES:
                raise UnwantedBodyError(f"the body has more than {MAX_BODY_BYTES} bytes", "too_large")
        yield self._scrubber.scrub_bytes(bytes(body))

    async def aclose(self) -> None:
        await self._stream.aclose()

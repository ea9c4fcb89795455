"""One request to a chat endpoint, through the `openai` client: a completion, or a trouble that says what to do."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import httpx2
import openai

from pilotage.records import View
from pilotage.rollouts.endpoint_http import (
    PREFILLED,
    Completion,
    UnreadableError,
    chat_messages,
    error_text,
    kind_of_status,
    one_line,
    read_completion,
    retry_after_s,
)
from pilotage.rollouts.engine import Decoding
from pilotage.rollouts.stream import ErrorKind

MAX_BODY_BYTES = 8 * 2**20
"""Bytes of a body that are read; the largest sensible answer is far below."""
MAX_PACKED_BYTES = 2**18
"""The same for a compressed body, which may hold a thousand times as much."""
OUT_OF_CREDIT = frozenset({"insufficient_quota", "billing_hard_limit_reached"})


class BodyTooLargeError(Exception):
    """The body goes on beyond the limit."""


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
        partial: str = "",
    ) -> None:
        super().__init__(text)
        self.kind: ErrorKind = kind
        self.again = again
        """Another try may succeed."""
        self.status = status
        self.wait_s = wait_s
        """What the server asked to wait."""
        self.partial = partial
        """What there was of an answer."""
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
    """An open connection pool to the endpoint; use it as an async context, within one event loop."""

    def __init__(self, config: EndpointConfig) -> None:
        self._config = config
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
                event_hooks={"response": [_bound]},
                # An endpoint that moved is named by its new address: keys and pictures go nowhere else.
                follow_redirects=False,
            ),
        )

    async def __aenter__(self) -> Client:
        return self

    async def __aexit__(self, *error: object) -> None:
        await self._client.close()

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
        except (openai.APIConnectionError, httpx2.HTTPError) as error:
            raise self._of_connection(error) from None
        except BodyTooLargeError as error:
            raise TroubleError(str(error), kind="too_large") from None
        except UnreadableError as error:
            raise TroubleError(self.scrub(str(error)), again=True) from None
        except Exception as error:
            # The border to a server: whatever else it made happen is a row, too.
            text = self.scrub(one_line(str(error)))
            raise TroubleError(f"{type(error).__name__}: {text}", kind="engine") from error
        return self._usable(completion, decoding)

    def _usable(self, completion: Completion, decoding: Decoding) -> Completion:
        if completion.refusal:
            reason = self.scrub(one_line(completion.refusal))
            raise TroubleError(f"the model or its server refused: {reason}", kind="refused")
        if not completion.text:
            raise TroubleError(
                f"the answer has no text (finish_reason {one_line(completion.finish_reason)!r})", kind="empty"
            )
        limit = max(20_000, 100 * decoding.max_new_tokens)
        if len(completion.text) > limit:
            raise TroubleError(
                f"the answer has {len(completion.text)} characters, where at most {decoding.max_new_tokens} "
                "tokens were asked for",
                kind="too_large",
                partial=self.scrub(completion.text[:limit]),
            )
        return completion

    async def model_names(self) -> list[str] | None:
        """Names that the server says it serves; None when it does not say."""
        try:
            async with asyncio.timeout(min(30.0, self._config.timeout_s)):
                response = await self._client.models.with_raw_response.list()
            data: Any = response.http_response.json()
            return [one_line(str(model["id"])) for model in data["data"]]
        except (
            openai.OpenAIError,
            httpx2.HTTPError,
            TimeoutError,
            ValueError,
            KeyError,
            TypeError,
            RecursionError,
        ):
            return None

    def scrub(self, text: str) -> str:
        """`text` without the key: a server may repeat it."""
        return text.replace(self._config.key, "[key]") if self._config.key else text

    def _of_status(self, error: openai.APIStatusError) -> TroubleError:
        kind, again = kind_of_status(error.status_code)
        reason = self.scrub(error_text(error.body if error.body is not None else error.response.text))
        wait_s = retry_after_s(error.response.headers)
        trouble = TroubleError(
            f"HTTP {error.status_code}: {reason}",
            kind=kind,
            again=again,
            status=error.status_code,
            wait_s=wait_s,
        )
        code = error.body.get("code") if isinstance(error.body, dict) else None
        if error.status_code in (401, 402) or (isinstance(code, str) and code in OUT_OF_CREDIT):
            trouble.is_final, trouble.again = True, False
        return trouble

    def _of_connection(self, error: BaseException) -> TroubleError:
        cause: BaseException | None = error
        while cause is not None:
            if isinstance(cause, BodyTooLargeError):
                return TroubleError(str(cause), kind="too_large")
            root, cause = cause, cause.__cause__
        text = one_line(str(root)) or "the connection broke"
        return TroubleError(self.scrub(f"{type(root).__name__}: {text}"), again=True)


async def _bound(response: httpx2.Response) -> None:
    """Lets no body be read beyond its limit, that of an error neither."""
    packed = response.headers.get("content-encoding", "identity") != "identity"
    assert isinstance(response.stream, httpx2.AsyncByteStream)
    response.stream = _BoundedStream(response.stream, MAX_PACKED_BYTES if packed else MAX_BODY_BYTES)


class _BoundedStream(httpx2.AsyncByteStream):
    def __init__(self, stream: httpx2.AsyncByteStream, limit: int) -> None:
        self._stream, self._limit = stream, limit

    async def __aiter__(self) -> AsyncIterator[bytes]:
        num_bytes = 0
        async for chunk in self._stream:
            num_bytes += len(chunk)
            if num_bytes > self._limit:
                raise BodyTooLargeError(f"the body has more than {self._limit} bytes")
            yield chunk

    async def aclose(self) -> None:
        await self._stream.aclose()

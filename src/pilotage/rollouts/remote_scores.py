"""Log-probabilities of given token ids from an OpenAI-compatible completions endpoint: a teacher on another machine.

The prompt's and the response's ids are sent as one prompt, and the server says how likely each id is behind those
before it. Two ways of asking:

* `prompt_logprobs`: vLLM's extension. The answer names every id, so a server with another tokenizer is noticed.
* `echo`: the older `echo` with `logprobs`. Only the number of tokens can be checked.

Servers refuse to generate nothing, so one token is asked for and not looked at.

Text only. Both ways report at temperature 1. Nothing here needs torch.
"""

from __future__ import annotations

import http.client
import json
import logging
import math
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal, get_args
from urllib.parse import urlsplit

from pilotage.errors import PilotageError
from pilotage.rollouts.endpoint_http import load_json, one_line
from pilotage.rollouts.keys import Scrubber

logger = logging.getLogger(__name__)

Style = Literal["prompt_logprobs", "echo"]
_MAX_ERROR_BYTES = 2**16
_RETRIED_STATUS = frozenset((408, 409, 425, 429, 500, 502, 503, 504))


class RemoteScoresError(PilotageError):
    """The endpoint did not score the tokens; the message names the endpoint and what to do."""


class _TryAgainError(Exception):
    """A fault that may pass."""


@dataclass(frozen=True, kw_only=True)
class RemoteScorer:
    """Scores token ids by asking a server. Requests run side by side and are repeated when a fault may pass."""

    url: str
    """The endpoint, e.g. `http://localhost:8000/v1/completions`."""
    model: str
    """The name under which the server knows the model."""
    style: Style = "prompt_logprobs"
    api_key: str | None = field(default=None, repr=False)
    """Sent as a bearer token; cut out of whatever the server says."""
    timeout_s: float = 120.0
    num_retries: int = 4
    """Attempts after the first, each after twice the pause of the one before."""
    pause_s: float = 0.5
    num_parallel: int = 8
    max_answer_bytes: int = 64 * 2**20
    """A longer answer is refused unread."""

    def __post_init__(self) -> None:
        parts = urlsplit(self.url)
        if parts.scheme not in ("http", "https") or not parts.netloc:
            raise PilotageError(
                f"url {self.url!r} must be an http or https address such as http://localhost:8000/v1/completions"
            )
        if self.style not in get_args(Style):
            raise PilotageError(f"style {self.style!r} must be one of {', '.join(get_args(Style))}")
        if self.num_retries < 0 or self.num_parallel < 1 or not self.timeout_s > 0 or self.pause_s < 0:
            raise PilotageError(
                f"num_retries {self.num_retries} and pause_s {self.pause_s} must be at least 0, num_parallel "
                f"{self.num_parallel} at least 1, timeout_s {self.timeout_s} above 0"
            )

    def score(
        self,
        prompts: Sequence[Sequence[int]],
        responses: Sequence[Sequence[int]],
        *,
        progress: Callable[[int], None] | None = None,
    ) -> list[tuple[float, ...]]:
        """For each row the log-probability, in nats, of each response id behind its prompt and the ids before it.

        Raises RemoteScoresError for the first row, in order, that could not be scored; ValueError for an empty prompt.
        """
        if len(prompts) != len(responses):
            raise ValueError(f"{len(prompts)} prompts but {len(responses)} responses")
        for at, prompt in enumerate(prompts):
            if not prompt:
                raise ValueError(
                    f"row {at}: the prompt is empty, and nothing would predict the first response id"
                )

        def one(row: tuple[Sequence[int], Sequence[int]]) -> tuple[float, ...]:
            scores = self._score_one(*row) if row[1] else ()
            if progress is not None:
                progress(1)
            return scores

        with ThreadPoolExecutor(max_workers=self.num_parallel) as pool:
            return list(pool.map(one, zip(prompts, responses, strict=True)))

    def _score_one(self, prompt: Sequence[int], response: Sequence[int]) -> tuple[float, ...]:
        ids = [int(token) for token in (*prompt, *response)]
        body = json.dumps(self._request(ids)).encode()
        pause_s = self.pause_s
        for attempt in range(self.num_retries + 1):
            try:
                found = self._read(self._post(body), ids)
                break
            except _TryAgainError as fault:
                if attempt == self.num_retries:
                    raise RemoteScoresError(
                        f"{self.url} did not answer in {attempt + 1} attempts: {fault}; is the server up, and does it "
                        f"serve {self.model!r}?"
                    ) from None
                logger.warning("%s: %s; trying again in %.1f s", self.url, fault, pause_s)
                time.sleep(pause_s)
                pause_s *= 2
        return tuple(found[len(prompt) :])

    def _request(self, ids: list[int]) -> dict[str, Any]:
        common = {
            "max_tokens": 1,
            "model": self.model,
            "prompt": ids,
            "temperature": 1.0,
            "stream": False,
            "add_special_tokens": False,
        }
        if self.style == "prompt_logprobs":
            return common | {"prompt_logprobs": 0}
        return common | {"echo": True, "logprobs": 1}

    def _post(self, body: bytes) -> Any:
        headers = {"Content-Type": "application/json", "Accept": "application/json"}
        if self.api_key is not None:
            headers["Authorization"] = f"Bearer {self.api_key}"
        request = urllib.request.Request(self.url, data=body, headers=headers, method="POST")
        try:
            with _OPENER.open(request, timeout=self.timeout_s) as answer:
                data = answer.read(self.max_answer_bytes + 1)
        except urllib.error.HTTPError as error:
            said = self._said(error)
            if error.code in _RETRIED_STATUS:
                raise _TryAgainError(f"status {error.code}: {said!r}") from None
            raise RemoteScoresError(
                f"{self.url} refused the request with status {error.code}: {said!r}; check the address, the "
                f"model {self.model!r}, the key and the server's longest context"
            ) from None
        except (OSError, http.client.HTTPException) as error:
            text = one_line(self._scrubber.scrub(str(error)))
            raise _TryAgainError(f"{type(error).__name__}: {text}") from None
        if len(data) > self.max_answer_bytes:
            raise RemoteScoresError(
                f"{self.url} sent more than {self.max_answer_bytes} bytes for one row; raise max_answer_bytes if that "
                "is right"
            )
        data = self._scrubber.scrub_bytes(data)
        try:
            return load_json(data)
        except (ValueError, RecursionError):
            raise _TryAgainError(f"the answer is no JSON: {data[:100]!r}") from None

    def _said(self, error: urllib.error.HTTPError) -> str:
        """The beginning of an error's body, as far as it came."""
        try:
            with error:
                body = error.read(_MAX_ERROR_BYTES)
        except (OSError, http.client.HTTPException):
            body = b""
        return self._scrubber.scrub_bytes(body).decode(errors="replace")[:200]

    @cached_property
    def _scrubber(self) -> Scrubber:
        return Scrubber(self.api_key or "")

    def _read(self, answer: Any, ids: list[int]) -> list[float]:
        """Log-probabilities of all ids, 0 for the first, which nothing predicts."""
        try:
            choice = answer["choices"][0]
            if self.style == "prompt_logprobs":
                listed = choice["prompt_logprobs"]
                found = [0.0] + [
                    float(entry[str(token)]["logprob"])
                    for entry, token in zip(listed[1:], ids[1:], strict=False)
                ]
                num_tokens = len(listed)
            else:
                listed = choice["logprobs"]["token_logprobs"]
                found = [0.0] + [float(value) for value in listed[1 : len(ids)]]
                # The generated token stands behind the prompt's.
                num_tokens = len(ids) if len(listed) == len(ids) + 1 else len(listed)
        except (KeyError, IndexError, TypeError, ValueError, OverflowError) as error:
            raise RemoteScoresError(
                f"{self.url} gives no log-probabilities of the prompt's own ids ({type(error).__name__}: "
                f"{str(error)[:80]}); it must serve style={self.style!r} and a model with the student's tokenizer"
            ) from error
        if num_tokens != len(ids):
            raise RemoteScoresError(
                f"{self.url} scored {num_tokens} tokens where {len(ids)} ids were sent; it must take ids as they are "
                f"and score the prompt (style={self.style!r})"
            )
        bad = next(
            (at for at, value in enumerate(found) if not (math.isfinite(value) and value < 1e-3)), None
        )
        if bad is not None:
            raise RemoteScoresError(
                f"{self.url}: token {bad} has log-probability {found[bad]}, which is none"
            )
        return found


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A server may not send prompts and key elsewhere."""

    def redirect_request(self, *_: Any) -> None:
        return None


_OPENER = urllib.request.build_opener(_NoRedirect)

"""What goes over the wire to a chat endpoint and what comes back, read with suspicion. No I/O here."""

from __future__ import annotations

import base64
import email.utils
import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from pilotage.errors import PilotageError
from pilotage.records import View
from pilotage.rollouts.stream import ErrorKind

MAX_MESSAGE_CHARACTERS = 300
CUT = frozenset({"length", "max_tokens", "model_length"})
"""Finish reasons of an answer that reached the token limit or the end of the context."""
BROKEN_OFF = frozenset({"error", "abort", "insufficient_system_resource"})
"""Finish reasons of an answer that the server, not the model, ended. Any other ends a whole answer."""


class UnreadableError(Exception):
    """The body is not what was asked for."""


@dataclass(frozen=True, kw_only=True)
class Completion:
    """What a server said, as far as it can be used."""

    text: str
    finish_reason: str
    """`stop`, `length`, …, in lower case and on one line; empty when the server gave none."""
    refusal: str = ""
    """Why there is no answer, when the server says so itself."""
    usage: Mapping[str, int] = field(default_factory=dict)
    """`prompt_tokens` and `completion_tokens`, as far as they were reported."""
    model: str = ""
    """The name under which the server says it answered."""

    @property
    def is_cut(self) -> bool:
        """The answer stopped at a limit. Of a reason that is not known, and of none, that is not said."""
        return self.finish_reason in CUT


def base_url(url: str) -> str:
    """The endpoint's base, ending in its version, from what a user may give for it.

    A bare host gets `/v1`, a trailing `/chat/completions` goes. Raises PilotageError for what is no URL, and for
    one that carries credentials or a query, because URLs are logged and written; neither is repeated in the message.
    """
    try:
        parts = urlsplit(url.strip())
        port = parts.port
    except ValueError:
        raise PilotageError("--endpoint is not a URL; give one such as http://127.0.0.1:8000/v1") from None
    if parts.username is not None or parts.password is not None or parts.query or parts.fragment:
        raise PilotageError(
            "--endpoint holds credentials or a query: give the bare address, and the key in the environment "
            "(OPENAI_API_KEY, or the variable that --key-env names)"
        )
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise PilotageError(f"--endpoint {url!r} is not a URL; give one such as http://127.0.0.1:8000/v1")
    path = parts.path.rstrip("/").removesuffix("/chat/completions").rstrip("/") or "/v1"
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    return f"{parts.scheme}://{host}{f':{port}' if port else ''}{path}"


def chat_messages(view: View) -> list[dict[str, Any]]:
    """The view's messages in the form of the chat API; pictures as data URLs, a prefill as a begun answer."""
    messages: list[dict[str, Any]] = []
    images = iter(view.images)
    for message in view.messages:
        content = message["content"]
        if not isinstance(content, str):
            content = [_part(part, images) for part in content]
        messages.append({"role": message["role"], "content": content})
    if view.prefill:
        messages.append({"role": "assistant", "content": view.prefill})
    return messages


PREFILLED: Mapping[str, Any] = {"add_generation_prompt": False, "continue_final_message": True}
"""What asks vLLM, SGLang and `pilotage serve` to go on with a begun answer."""


def _part(part: Mapping[str, Any], images: Iterator[bytes]) -> dict[str, Any]:
    if part["type"] == "text":
        return {"type": "text", "text": part["text"]}
    assert part["type"] == "image", "views have texts and images"
    encoded = base64.b64encode(next(images)).decode("ascii")
    return {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{encoded}"}}


def read_completion(body: bytes) -> Completion:
    """The first choice of a chat completion. Raises UnreadableError for anything else, whatever it is."""
    try:
        data = load_json(body)
    except (ValueError, RecursionError):
        shown = one_line(body[:80].decode("utf-8", "replace"))
        raise UnreadableError(
            f"the answer is not JSON: {shown!r}" if body else "the answer is empty"
        ) from None
    if not isinstance(data, dict):
        raise UnreadableError("the answer is JSON, but no object")
    if data.get("error"):
        raise UnreadableError(f"the answer is an error: {error_text(body)}")
    choices = data.get("choices")
    choice = choices[0] if isinstance(choices, list) and choices else None
    message = choice.get("message") if isinstance(choice, dict) else None
    if not isinstance(choice, dict) or not isinstance(message, dict):
        raise UnreadableError("the answer is no chat completion: it has no choices[0].message")
    finish_reason = choice.get("finish_reason")
    finish_reason = one_line(finish_reason).lower() if isinstance(finish_reason, str) else ""
    refusal = message.get("refusal")
    refusal = refusal if isinstance(refusal, str) else ""
    if finish_reason == "content_filter":
        refusal = refusal or "stopped by a content filter"
    model = data.get("model")
    return Completion(
        text=_text_of(message.get("content")),
        finish_reason=finish_reason,
        refusal=refusal,
        usage=_usage_of(data.get("usage")),
        model=one_line(model) if isinstance(model, str) else "",
    )


def _text_of(content: Any) -> str:
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    if isinstance(content, list) and all(isinstance(part, dict) for part in content):
        texts = [part.get("text") for part in content if part.get("type") == "text"]
        return "".join(text for text in texts if isinstance(text, str))
    raise UnreadableError("the answer is no chat completion: choices[0].message.content is no text")


def _usage_of(usage: Any) -> dict[str, int]:
    if not isinstance(usage, dict):
        return {}
    counts = {name: usage.get(name) for name in ("prompt_tokens", "completion_tokens")}
    return {
        name: count
        for name, count in counts.items()
        if isinstance(count, int) and not isinstance(count, bool) and 0 <= count < 10**9
    }


def read_model_names(body: bytes) -> list[str]:
    """The names in a list of models. Raises UnreadableError for anything else."""
    try:
        return [one_line(str(model["id"])) for model in load_json(body)["data"]]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise UnreadableError("the answer is no list of models") from None


def error_text(body: bytes) -> str:
    """What a server's error body says, in one short line, whichever of the usual forms it has."""
    error = _error(body)
    if isinstance(error, dict):
        error = error.get("message") or error.get("detail") or error.get("type") or error
    return one_line(error if isinstance(error, str) else json.dumps(error, default=str)) or "no reason given"


def error_code(body: bytes) -> str:
    """The error's `code`, or nothing."""
    error = _error(body)
    code = error.get("code") if isinstance(error, dict) else None
    return code if isinstance(code, str) else ""


def _error(body: bytes) -> Any:
    """The error within an error body: of JSON what stands under `error`, else all of it; text that is no JSON."""
    try:
        data = load_json(body)
    except (ValueError, RecursionError):
        return body.decode("utf-8", "replace")
    return data.get("error", data) if isinstance(data, dict) else data


def load_json(body: bytes) -> Any:
    """JSON in UTF-8, as its standard has it. In UTF-16, which `json` reads too, nothing would find a key."""
    return json.loads(body.decode("utf-8-sig", "surrogatepass"))


def one_line(text: str) -> str:
    """Printable, on one line and short: servers' words end up in logs and terminals."""
    text = " ".join(text[: 4 * MAX_MESSAGE_CHARACTERS].split())
    text = "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)
    return text if len(text) <= MAX_MESSAGE_CHARACTERS else text[: MAX_MESSAGE_CHARACTERS - 1] + "…"


def retry_after_s(headers: Mapping[str, str]) -> float | None:
    """Seconds that the server asks to wait, from `retry-after-ms` or `Retry-After` (seconds or a date)."""
    try:
        if "retry-after-ms" in headers:
            return _sane(float(headers["retry-after-ms"]) / 1000)
        value = headers.get("retry-after")
        if value is None:
            return None
        try:
            return _sane(float(value))
        except ValueError:
            return _sane(email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    except (ValueError, OverflowError, TypeError):
        return None


def _sane(seconds: float) -> float | None:
    return max(0.0, seconds) if seconds == seconds else None


def kind_of_status(status: int) -> tuple[ErrorKind, bool]:
    """(kind of failure, whether it is worth another try) of an answer that is an error.

    A request that the server cannot use as it is (too long, a picture it does not take, against its rules) fails
    the same way each time. Everything else may pass: overload, gateways, a model that is being loaded.
    """
    if status in (400, 413, 415, 422, 451):
        return "refused", False
    return "transport", status in (408, 409, 425, 429) or status >= 500

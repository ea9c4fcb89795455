"""OpenAI's chat schema as `pilotage serve` speaks it: JSON to a view, rollouts to a completion. No torch."""

from __future__ import annotations

import base64
import binascii
import io
import re
import secrets
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pilotage.pictures import BadPictureError, opened
from pilotage.records import Rollout, View
from pilotage.rollouts.engine import MIN_TEMPERATURE, Decoding

MAX_PIXELS = 4096 * 4096
MAX_MESSAGES = 256
MAX_IMAGES = 16
MAX_CHOICES = 64
DEFAULT_NEW_TOKENS = 512

_DATA_URL = re.compile(r"data:image/[a-z0-9.+-]+;base64,", re.IGNORECASE)
_ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}
# Fields that would change the answer and that this server does not know how to honour; `null`, false, zero and
# empty values ask for nothing.
_UNSUPPORTED = (
    "stream",
    "tools",
    "tool_choice",
    "functions",
    "function_call",
    "stop",
    "logprobs",
    "top_logprobs",
    "logit_bias",
    "presence_penalty",
    "frequency_penalty",
    "min_p",
    "audio",
    "prediction",
    "web_search_options",
    "guided_json",
    "guided_regex",
    "guided_choice",
    "chat_template",
    "chat_template_kwargs",
)


class RequestError(Exception):
    """The request cannot be answered as it is; the client is told why."""

    def __init__(self, message: str, *, param: str | None = None, status: int = 400, code: str | None = None):
        super().__init__(message)
        self.status, self.param, self.code = status, param, code

    def as_dict(self) -> dict[str, Any]:
        """OpenAI's form of an error."""
        return error_body(str(self), self.status, param=self.param, code=self.code)


def error_body(
    message: str, status: int, *, param: str | None = None, code: str | None = None
) -> dict[str, Any]:
    kinds = {401: "authentication_error", 429: "rate_limit_error"}
    kind = kinds.get(status, "server_error" if status >= 500 else "invalid_request_error")
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


@dataclass(frozen=True, kw_only=True)
class ChatRequest:
    view: View
    decoding: Decoding
    seed: int
    n: int

    @property
    def group(self) -> tuple[Any, ...]:
        """Requests of one group can be decoded in one batch."""
        return self.decoding, self.n


def parse_chat(body: Any, *, model: str, max_new_tokens: int) -> ChatRequest:
    """The request in `body`. Raises RequestError that names the field.

    `max_new_tokens` is the most that a request may ask for. Pictures come as data URLs; nothing is fetched.
    """
    if not isinstance(body, dict):
        raise RequestError("the body is not a JSON object")
    if body.get("model") != model:
        asked = str(body.get("model"))[:200]
        raise RequestError(
            f"the model {asked!r} does not exist; this server has {model!r}",
            param="model",
            status=404,
            code="model_not_found",
        )
    for name in _UNSUPPORTED:
        if body.get(name):
            raise RequestError(f"{name} is not supported by this server; leave it out", param=name)
    if (body.get("response_format") or {"type": "text"}) != {"type": "text"}:
        raise RequestError("response_format is not supported by this server", param="response_format")
    temperature = _number(body, "temperature", 1.0, low=0.0, high=100.0)
    if 0 < temperature < MIN_TEMPERATURE:
        raise RequestError(
            f"temperature {temperature} must be 0 (greedy) or at least {MIN_TEMPERATURE}", param="temperature"
        )
    n = _whole(body, "n", 1, low=1, high=MAX_CHOICES)
    if temperature == 0 and n > 1:
        raise RequestError(f"n {n} at temperature 0 would repeat the same answer", param="n")
    limit = "max_completion_tokens" if body.get("max_completion_tokens") is not None else "max_tokens"
    seed = body.get("seed")
    top_p = _number(body, "top_p", 1.0, low=0.0, high=1.0)
    if top_p == 0:
        raise RequestError(
            "top_p 0 would leave nothing to sample; it is above 0 and at most 1", param="top_p"
        )
    return ChatRequest(
        view=_view(body),
        decoding=Decoding(
            max_new_tokens=_whole(
                body, limit, min(DEFAULT_NEW_TOKENS, max_new_tokens), low=1, high=max_new_tokens
            ),
            temperature=temperature,
            top_p=top_p,
            top_k=max(0, _whole(body, "top_k", 0, low=-1, high=2**31)),
        ),
        seed=secrets.randbits(62) if seed is None else _whole(body, "seed", 0, low=-(2**63), high=2**63 - 1),
        n=n,
    )


def _number(body: Mapping[str, Any], name: str, default: float, *, low: float, high: float) -> float:
    value = body.get(name)
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        raise RequestError(f"{name} must be a number from {low:g} to {high:g}", param=name)
    return float(value)


def _whole(body: Mapping[str, Any], name: str, default: int, *, low: int, high: int) -> int:
    value = body.get(name)
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise RequestError(f"{name} must be a whole number from {low} to {high}", param=name)
    return value


def _view(body: Mapping[str, Any]) -> View:
    given = body.get("messages")
    if not isinstance(given, list) or not 1 <= len(given) <= MAX_MESSAGES:
        raise RequestError(f"messages must be a list of 1 to {MAX_MESSAGES} messages", param="messages")
    images: list[bytes] = []
    messages = [_message(message, f"messages[{i}]", images) for i, message in enumerate(given)]
    if len(images) > MAX_IMAGES:
        raise RequestError(
            f"{len(images)} images; this server takes {MAX_IMAGES} in a request", param="messages"
        )
    prefill = ""
    if body.get("continue_final_message"):
        last = messages.pop()
        if last["role"] != "assistant" or not isinstance(last["content"], str) or not messages:
            raise RequestError(
                "continue_final_message needs a last message of the assistant, with a text, and one before it",
                param="continue_final_message",
            )
        if body.get("add_generation_prompt"):
            raise RequestError(
                "continue_final_message and add_generation_prompt exclude each other",
                param="add_generation_prompt",
            )
        prefill = last["content"]
    return View(name="chat", messages=messages, images=tuple(images), prefill=prefill)


def _message(message: Any, place: str, images: list[bytes]) -> dict[str, Any]:
    if not isinstance(message, dict):
        raise RequestError(f"{place} is not an object", param=place)
    role = message.get("role")
    if not isinstance(role, str) or role not in _ROLES:
        raise RequestError(f"{place}.role must be one of {', '.join(_ROLES)}", param=f"{place}.role")
    content = message.get("content")
    if isinstance(content, str):
        return {"role": _ROLES[role], "content": _text(content, f"{place}.content")}
    if not isinstance(content, list) or not content:
        raise RequestError(
            f"{place}.content must be a text or a list of parts, not empty", param=f"{place}.content"
        )
    parts = [_part(part, f"{place}.content[{i}]", images) for i, part in enumerate(content)]
    return {"role": _ROLES[role], "content": parts}


def _text(text: str, place: str) -> str:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise RequestError(f"{place} holds half of a surrogate pair, which is no text", param=place) from None
    return text


def _part(part: Any, place: str, images: list[bytes]) -> dict[str, Any]:
    kind = part.get("type") if isinstance(part, dict) else None
    if kind == "text" and isinstance(part.get("text"), str):
        return {"type": "text", "text": _text(part["text"], place)}
    if kind == "image_url":
        url = part.get("image_url")
        url = url.get("url") if isinstance(url, dict) else url
        if isinstance(url, str):
            images.append(read_image(url, f"{place}.image_url"))
            return {"type": "image"}
    raise RequestError(
        f'{place} must be {{"type": "text", "text": …}} or {{"type": "image_url", "image_url": {{"url": …}}}}',
        param=place,
    )


def read_image(url: str, place: str) -> bytes:
    """PNG bytes of a data URL: a PNG's own bytes as they are, another picture's as a new PNG."""
    head = _DATA_URL.match(url)
    if head is None:
        raise RequestError(
            f"{place} must be a data URL (data:image/png;base64,…): this server fetches nothing, "
            f"and was given {url[:40]!r}",
            param=place,
        )
    try:
        data = base64.b64decode(url[head.end() :], validate=True)
    except (binascii.Error, ValueError):
        raise RequestError(f"{place} is not valid base64", param=place) from None
    try:
        with opened(data) as picture:
            width, height = picture.size
            if width * height > MAX_PIXELS:
                raise BadPictureError(f"the picture has {width}x{height} px, more than {MAX_PIXELS}")
            if picture.format == "PNG":
                return data
            buffer = io.BytesIO()
            picture.convert("RGB").save(buffer, "PNG")
            return buffer.getvalue()
    except BadPictureError as error:
        raise RequestError(f"{place}: {error}", param=place) from None


def completion_body(model: str, rollouts: Sequence[Rollout], *, num_prompt_tokens: int) -> dict[str, Any]:
    """The chat completion that holds `rollouts` as its choices."""
    num_completion_tokens = sum(len(rollout.token_ids) for rollout in rollouts)
    return {
        "id": f"chatcmpl-{secrets.token_hex(12)}",
        "object": "chat.completion",
        "created": int(time.time()),
        "model": model,
        "choices": [
            {
                "index": index,
                "message": {"role": "assistant", "content": rollout.text, "refusal": None},
                "logprobs": None,
                "finish_reason": "stop" if rollout.finished else "length",
            }
            for index, rollout in enumerate(rollouts)
        ],
        "usage": {
            "prompt_tokens": num_prompt_tokens,
            "completion_tokens": num_completion_tokens,
            "total_tokens": num_prompt_tokens + num_completion_tokens,
        },
    }

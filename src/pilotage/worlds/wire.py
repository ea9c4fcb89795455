"""What goes between a world's process and the agent's: framed JSON and pictures. Nothing that is read can run anything.

A frame is `magic, bytes of JSON, bytes of pictures`, then the JSON, then the pictures one after the other; their sizes
are the JSON's `sizes`. Whoever reads trusts no length and no type: the other side may be a simulator gone wild.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pilotage.records import Example, Observation, Outcome, Privileged

HEAD = struct.Struct(">4sII")
MAGIC = b"plt1"
MAX_MESSAGE_BYTES = 64 * 2**20
TUPLE, PAIRS = "__tuple__", "__pairs__"
"""Keys of an object that stands for what JSON has not: `{"__tuple__": [1, 2]}` is `(1, 2)`, `{"__pairs__": [[3, "x"]]}`
is `{3: "x"}`."""

_PARTS = ("axes", "data", "hidden")
"""Of an example, that are mappings."""

Message = tuple[dict[str, Any], tuple[bytes, ...]]
"""The JSON object and the pictures that belong to it."""


class WireError(Exception):
    """What came is no message, or none that may be sent; one line."""


def frame(content: Mapping[str, Any], pictures: Sequence[bytes] = (), *, max_bytes: int) -> bytes:
    """The message as it is sent. Raises WireError for one that is too large or cannot be JSON."""
    try:
        text = _to_json({**content, "sizes": [len(picture) for picture in pictures]}).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise WireError(f"it cannot be sent as JSON ({error})") from error
    num_bytes = sum(map(len, pictures))
    if len(text) + num_bytes > max_bytes:
        raise WireError(f"it has {len(text) + num_bytes} bytes, more than the {max_bytes} of a message")
    return b"".join((HEAD.pack(MAGIC, len(text), num_bytes), text, *pictures))


def read(take: Callable[[int], bytes], *, max_bytes: int) -> Message:
    """The next message; `take` gives exactly so many bytes. Raises WireError for anything else."""
    magic, num_text, num_pictures = HEAD.unpack(take(HEAD.size))
    if magic != MAGIC:
        raise WireError("what came is no message: something else writes to the pipe")
    if num_text + num_pictures > max_bytes:
        raise WireError(
            f"a message of {num_text + num_pictures} bytes was announced, more than the {max_bytes} allowed"
        )
    text, rest = take(num_text), take(num_pictures)
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise WireError(f"what came is no JSON ({' '.join(str(error).split())[:120]})") from None
    sizes = content.pop("sizes", None) if isinstance(content, dict) else None
    if (
        not isinstance(sizes, list)
        or not all(type(size) is int and size >= 0 for size in sizes)
        or sum(sizes) != num_pictures
    ):
        raise WireError("a message came whose pictures are not as long as it says")
    pictures, start = [], 0
    for size in sizes:
        pictures.append(rest[start : start + size])
        start += size
    return content, tuple(pictures)


def pack_example(example: Example) -> Message:
    """The whole example, hidden parts too: the world judges by them. Raises WireError for parts nested too deep."""
    content = {name: getattr(example, name) for name in ("id", "world", "split")}
    content |= {name: _marked(getattr(example, name)) for name in _PARTS}
    start, pictures = pack_observation(example.start)
    return content | {"start": start}, pictures


def unpack_example(content: Mapping[str, Any], pictures: tuple[bytes, ...]) -> Example:
    """The inverse of `pack_example`. Raises WireError for a start that is no observation."""
    parts = {name: _unmarked(content[name]) for name in _PARTS}
    start = unpack_observation(content["start"], pictures, privileged=True)
    return Example(**{**content, **parts, "start": start})


def pack_observation(seen: Observation) -> Message:
    """All of it: who withholds something calls `public` first."""
    content: dict[str, Any] = {"text": seen.text}
    if (privileged := seen.privileged) is not None:
        state = None if privileged.state is None else _marked(privileged.state)
        content["privileged"] = {
            "state": state,
            "facts": dict(privileged.facts),
            "plan": list(privileged.plan),
        }
    return content, seen.images


def unpack_observation(content: Any, pictures: tuple[bytes, ...], *, privileged: bool) -> Observation:
    """The observation; without `privileged` that part is dropped, whatever was sent. Raises WireError."""
    part = None
    if privileged and (sent := _object(content).get("privileged")) is not None:
        state, plan = _object(sent).get("state"), sent.get("plan")
        if not isinstance(plan, list) or not all(isinstance(action, str) for action in plan):
            raise WireError("a plan came that is no list of actions")
        part = Privileged(
            state=None if state is None else _object(_unmarked(state)),
            facts=_object_of(str, sent.get("facts")),
            plan=tuple(plan),
        )
    text = _object(content).get("text")
    if not isinstance(text, str):
        raise WireError("an observation came whose text is none")
    return Observation(text=text, images=pictures, privileged=part)


def pack_outcome(outcome: Outcome) -> dict[str, Any]:
    """The whole outcome as JSON; `unpack_outcome` reads it back."""
    content: dict[str, Any] = {"success": outcome.success, "reason": outcome.reason}
    return content | {name: dict(getattr(outcome, name)) for name in ("measures", "fields", "right", "notes")}


def unpack_outcome(content: Any) -> Outcome:
    """Raises WireError for anything that is no outcome."""
    success, reason = _object(content).get("success"), content.get("reason")
    if not isinstance(success, bool) or not isinstance(reason, str):
        raise WireError("an outcome came without its success or its reason")
    return Outcome(
        success=success,
        reason=reason,
        measures=_object_of((int, float), content.get("measures")),
        fields=_object_of(str, content.get("fields")),
        right=_object_of(bool, content.get("right")),
        notes=_object_of(str, content.get("notes")),
    )


def unpack_reward(content: Any) -> float | None:
    """A reward, or None where the world gave none. Raises WireError for anything else, bool among it."""
    if content is not None and (isinstance(content, bool) or not isinstance(content, int | float)):
        raise WireError("a reward came that is no number")
    try:
        return None if content is None else float(content)
    except OverflowError:
        raise WireError("a reward came that is no number") from None


def one_line(failure: BaseException) -> str:
    """What a failure is called and says, in one line."""
    text = f"{type(failure).__name__}: {failure}" if str(failure) else type(failure).__name__
    return " ".join(text.split())[:500]


def _object(content: Any) -> dict[str, Any]:
    if not isinstance(content, dict):
        raise WireError("something came that is no JSON object where one belongs")
    return content


def _object_of(kind: Any, content: Any) -> dict[str, Any]:
    if not all(isinstance(value, kind) for value in _object(content).values()):
        raise WireError("an object came with a value of the wrong type")
    return content


def _marked(value: Any) -> Any:
    """A value of tuples, lists and mappings as JSON that `_unmarked` reads back exactly."""
    try:
        return _with_marks(value)
    except RecursionError:
        raise WireError("it cannot be sent as JSON (it is nested too deep, or holds itself)") from None


def _with_marks(value: Any) -> Any:
    if isinstance(value, Mapping):
        if all(isinstance(key, str) for key in value) and not value.keys() & {TUPLE, PAIRS}:
            return {key: _with_marks(each) for key, each in value.items()}
        return {PAIRS: [[_with_marks(key), _with_marks(each)] for key, each in value.items()]}
    if isinstance(value, list | tuple):
        found = [_with_marks(each) for each in value]
        return found if isinstance(value, list) else {TUPLE: found}
    return value


def _unmarked(value: Any) -> Any:
    """Raises WireError for marks with nothing behind them."""
    try:
        return _without_marks(value)
    except (RecursionError, TypeError, ValueError):
        raise WireError("an object came with marks that stand for nothing") from None


def _without_marks(value: Any) -> Any:
    if isinstance(value, list):
        return [_without_marks(each) for each in value]
    if not isinstance(value, dict):
        return value
    if value.keys() == {TUPLE}:
        return tuple(map(_without_marks, value[TUPLE]))
    if value.keys() == {PAIRS}:
        return {_without_marks(key): _without_marks(each) for key, each in value[PAIRS]}
    return {key: _without_marks(each) for key, each in value.items()}


def _plain(value: Any) -> Any:
    """numpy's numbers, which simulators like to give, as Python's."""
    if hasattr(value, "item") and hasattr(value, "dtype"):
        return value.item()
    raise TypeError(f"a {type(value).__name__} is no JSON")


_to_json = json.JSONEncoder(default=_plain, separators=(",", ":")).encode

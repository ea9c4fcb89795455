"""Lines of files that anyone may have written: bounded in length, and every one an object or a clear error."""

from __future__ import annotations

import codecs
import json
from collections.abc import Iterator
from typing import IO, Any

from pilotage.errors import PilotageError

MAX_LINE_BYTES = 16 * 2**20
"""A longer line is a bad one: reading it whole would let one line take all the memory."""


class BadLineError(PilotageError):
    """A line is no JSON object; the message does not say where, which its reader knows."""


def numbered_lines(rows: IO[bytes], max_bytes: int = MAX_LINE_BYTES) -> Iterator[tuple[int, bytes | None]]:
    """(1-based number, line) of every line that is not blank; None for a line of more than `max_bytes`."""
    number = 0
    while line := rows.readline(max_bytes + 1):
        number += 1
        if len(line) > max_bytes:
            while line and not line.endswith(b"\n"):
                line = rows.readline(max_bytes)
            yield number, None
            continue
        if number == 1:
            line = line.removeprefix(codecs.BOM_UTF8)
        if line and not line.isspace():
            yield number, line


def parse_object(line: bytes | None, max_bytes: int = MAX_LINE_BYTES) -> dict[str, Any]:
    """The JSON object on a line of `numbered_lines`. Raises BadLineError, and nothing else."""
    if line is None:
        raise BadLineError(f"the line is longer than {max_bytes} bytes")
    try:
        row = _DECODE(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise BadLineError(f"not UTF-8: {error.reason} at byte {error.start}") from None
    except RecursionError:
        raise BadLineError("nested too deeply") from None
    except ValueError as error:  # JSONDecodeError, and whole numbers of thousands of digits
        raise BadLineError(f"not JSON: {error}") from None
    if not isinstance(row, dict):
        raise BadLineError(f"a row is a JSON object, not {json_type(row)}")
    return row


def json_type(value: Any) -> str:
    """The JSON name of a value's type."""
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    if isinstance(value, str):
        return "a string"
    if isinstance(value, int | float):
        return "a number"
    return "an array" if isinstance(value, list) else "an object"


def _reject_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON number")


# Made once: json.loads with options would make a decoder for every line.
_DECODE = json.JSONDecoder(parse_constant=_reject_constant).decode

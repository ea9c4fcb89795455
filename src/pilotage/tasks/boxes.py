r"""Where a response says its final answer: the last `\boxed{…}` whose braces balance."""

from __future__ import annotations

import re

BOX_OPEN = "\\boxed{"
_BRACES = re.compile(r"\\boxed\{|\\\\(?!boxed\{)|\\[{}]|[{}]")
"""A box's opening, an escaped backslash, an escaped brace, a brace."""
_THINK_OPEN, _THINK_CLOSE = "<think>", "</think>"


def last_box(text: str, start: int = 0) -> tuple[int, int] | None:
    r"""First character and one past the last of the last balanced `\boxed{…}` from `start` on; None without one.

    Of boxes inside each other the outer one, unless it is never closed. Linear in the text's length.
    """
    opened: list[int | None] = []  # where each open brace's box begins; None for a brace that opens no box
    box: tuple[int, int] | None = None
    for match in _BRACES.finditer(text, start):
        mark = match[0]
        if mark == BOX_OPEN:
            opened.append(match.start())
        elif mark == "{":
            opened.append(None)
        elif mark == "}" and opened:
            began = opened.pop()
            if began is not None:
                box = (began, match.end())
    return box


def boxed_answer(response: str) -> str | None:
    """What stands in the box that answers, or None without one.

    It is the last box behind the thought's end; a thought that is begun and never ended was cut off before it could
    answer, whatever boxes it holds. A response without a thought may have its box anywhere. A box around a box counts
    for the inner one.
    """
    end = response.find(_THINK_CLOSE)
    if end < 0 and _THINK_OPEN in response:
        return None
    found = last_box(response, max(end, 0))
    if found is None:
        return None
    inside = response[found[0] + len(BOX_OPEN) : found[1] - 1]
    for _ in range(8):
        stripped = inside.strip()
        if not stripped.startswith(BOX_OPEN) or last_box(stripped) != (0, len(stripped)):
            break
        inside = stripped[len(BOX_OPEN) : -1]
    return inside

r"""Where a response says its final answer: the last `\boxed{…}` whose braces balance."""

from __future__ import annotations

import re

from pilotage.worlds.thoughts import after_thoughts

BOX_OPEN = "\\boxed{"
_BRACES = re.compile(r"\\boxed\{|\\\\(?!boxed\{)|\\[{}]|[{}]")
"""A box's opening, an escaped backslash, an escaped brace, a brace."""
_SPACED = re.compile(r"\\boxed\s{1,20}\{")


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

    It is the last box behind the last thought's end (`pilotage.worlds.thoughts`). A response without a thought may have
    its box anywhere. A box around a box counts for the inner one.
    """
    answer = after_thoughts(response)
    if answer is None:
        return None
    answer = _SPACED.sub(lambda _: BOX_OPEN, answer)
    found = last_box(answer)
    if found is None:
        return None
    inside = answer[found[0] + len(BOX_OPEN) : found[1] - 1]
    for _ in range(8):
        stripped = inside.strip()
        if not stripped.startswith(BOX_OPEN) or last_box(stripped) != (0, len(stripped)):
            break
        inside = stripped[len(BOX_OPEN) : -1]
    return inside

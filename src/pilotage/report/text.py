"""Foreign text made fit for a page: what models wrote may hold anything."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from functools import lru_cache
from typing import Any

MAX_CHARACTERS = 4_000
# Control, format (right-to-left overrides among them), surrogate, private, unassigned.
_UNSAFE = frozenset({"Cc", "Cf", "Cs", "Co", "Cn"})
_SEPARATORS = frozenset("\u2028\u2029")
# Letters and marks that are drawn as nothing: joiners, fillers, variation selectors (Unicode's
# Default_Ignorable_Code_Point outside the categories above), and the blank Braille pattern.
_BLANK = frozenset([0x34F, 0x115F, 0x1160, 0x17B4, 0x17B5, 0x2800, 0x3164, 0xFFA0]) | frozenset(
    [*range(0x180B, 0x1810), *range(0xFE00, 0xFE10), *range(0xE0000, 0xE1000)]
)
_UNCOMMON = re.compile(r"[^\n\t\x20-\x7e]")


def visible(text: Any, limit: int = MAX_CHARACTERS) -> str:
    """`text` with every invisible or direction-changing character spelt out, and cut visibly at `limit`.

    Escaping for HTML is left to the templates, which do it everywhere.
    """
    whole = str(text)
    shown = _spell_out(whole[:limit])
    rest = len(whole) - limit
    return shown if rest <= 0 else f"{shown} […{rest:,} more characters are not shown]"


def visible_ends(text: Any, limit: int = MAX_CHARACTERS) -> str:
    """The same, cut in the middle: a model's answer is at its end, and how it came there at its beginning."""
    whole = str(text)
    if len(whole) <= limit:
        return _spell_out(whole)
    head = limit // 2
    tail = limit - head
    cut = f"[… {len(whole) - limit:,} more characters are not shown …]"
    return f"{_spell_out(whole[:head])}\n{cut}\n{_spell_out(whole[-tail:] if tail else '')}"


def _spell_out(text: str) -> str:
    return _UNCOMMON.sub(lambda match: _show(match[0]), text)


@lru_cache(maxsize=4096)
def _show(character: str) -> str:
    if unicodedata.category(character) in _UNSAFE or character in _SEPARATORS or ord(character) in _BLANK:
        return f"⟨U+{ord(character):04X}⟩"
    return character


def percent(share: float) -> str:
    """`97`, and `99.7` where rounding would claim all or nothing."""
    if share not in (0.0, 1.0) and (share < 0.005 or share >= 0.995):
        return f"{min(99.9, max(0.1, 100 * share)):.1f}"
    return f"{100 * share:.0f}"


def tenths(share: float) -> str:
    """`97.3`, as the commands print it."""
    return f"{100 * share:.1f}"


def figure(number: float) -> str:
    """`4.25`, `−12.5`, `1,204`: a number that is no share."""
    size = abs(number)
    return f"{number:,.{2 if size < 10 else 1 if size < 100 else 0}f}".replace("-", "−")


def signed_tenths(difference: float) -> str:
    """A difference of shares in percentage points to one decimal, signed: `+2.7`, `−2.0`, `0.0`."""
    text = f"{100 * difference:+.1f}"
    return "0.0" if text in ("+0.0", "-0.0") else text.replace("-", "−")


def fitted(text: str, limit: int) -> str:
    """`text` in at most `limit` characters, cut in the middle: names of runs differ at their ends."""
    if len(text) <= limit:
        return text
    head = (limit - 1) // 2
    return f"{text[:head]}…{text[head + 1 - limit :]}"


def span_text(numbers: Iterable[int]) -> str:
    """`100`, or `20–100` where they differ."""
    ordered = sorted(numbers)
    return str(ordered[0]) if ordered[0] == ordered[-1] else f"{ordered[0]}–{ordered[-1]}"


def points(difference: float) -> str:
    """A difference of shares in percentage points, signed: `+93`, `−2`, `0`."""
    whole = round(100 * difference)
    return f"+{whole}" if whole > 0 else f"−{-whole}" if whole < 0 else "0"


def p_value(p: float) -> str:
    """`0.013`, and `< 0.001` below that."""
    return "< 0.001" if p < 0.001 else f"{p:.3f}" if p < 0.1 else f"{p:.2f}"


def duration(seconds: float) -> str:
    """`41 s`, `2 min 44 s`, `1 h 05 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"

"""Foreign text made fit for a page: what models wrote may hold anything."""

from __future__ import annotations

import unicodedata
from typing import Any

MAX_CHARACTERS = 4_000
_KEPT_CONTROLS = frozenset("\n\t")
# Control, format (right-to-left overrides among them), surrogate, private, unassigned.
_UNSAFE = frozenset({"Cc", "Cf", "Cs", "Co", "Cn"})
_SEPARATORS = frozenset("\u2028\u2029")


def visible(text: Any, limit: int = MAX_CHARACTERS) -> str:
    """`text` with every invisible or direction-changing character spelt out, and cut visibly at `limit`.

    Escaping for HTML is left to the templates, which do it everywhere.
    """
    whole = str(text)
    shown = "".join(map(_show, whole[:limit]))
    rest = len(whole) - limit
    return shown if rest <= 0 else f"{shown} […{rest:,} more characters are not shown]"


def _show(character: str) -> str:
    if character.isascii() and character.isprintable() or character in _KEPT_CONTROLS:
        return character
    if unicodedata.category(character) in _UNSAFE or character in _SEPARATORS:
        return f"⟨U+{ord(character):04X}⟩"
    return character


def percent(share: float) -> str:
    """`97`, and `99.7` where rounding would claim all or nothing."""
    if share not in (0.0, 1.0) and (share < 0.005 or share >= 0.995):
        return f"{min(99.9, max(0.1, 100 * share)):.1f}"
    return f"{100 * share:.0f}"


def points(difference: float) -> str:
    """A difference of shares in percentage points, signed: `+93`, `−2`, `0`."""
    whole = round(100 * difference)
    return f"+{whole}" if whole > 0 else f"−{-whole}" if whole < 0 else "0"


def duration(seconds: float) -> str:
    """`41 s`, `2 min 44 s`, `1 h 05 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"

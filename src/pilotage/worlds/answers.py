"""The one answer grammar, for training rewards, evaluation, `pilotage judge` and the demo.

A response is parsed by its last complete `<answer>…</answer>` block (tags in any case, without spaces or
attributes). A block runs from an opening tag to the next closing one with no opening tag between: of nested
blocks the innermost counts, and a block that is never closed is no block. Inside the block:

* actions are letters (`R`), words (`right`), runs of letters (`RRD`) or arrows (`→ ↓`), in any case;
* they are separated by white space or any of `, ; : | . ! / - – — * -> =>`, brackets, quotes, backticks;
* among written moves, `→` is a separator between two actions (`R → D`) and other arrows are not known;
  without any written move, it is a move (`→ ↓`, `→ PICK`). Where both readings are open (`PICK → DROP`),
  nothing is guessed: unparsed;
* `PICK`, `PICKUP`, `PICK_UP` are one action; `PICK UP` is two (`PICK`, then the move `UP`);
* anything else in the block (numbers, coordinates, prose) makes the whole answer unparsed.

No block means not parsed: moves are never guessed out of prose. What stands in a thought (`pilotage.worlds.thoughts`)
is no answer, and neither is anything while a thought is open.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from pilotage.worlds.thoughts import after_thoughts

_TAG = re.compile(r"</?answer>", re.IGNORECASE | re.ASCII)
_SEPARATORS = re.compile(r"(?:->|=>|[\s,;:|.!/\[\](){}\"'`*\-–—])+")
_WORDS = {
    "LEFT": "L",
    "DOWN": "D",
    "RIGHT": "R",
    "UP": "U",
    "PICKUP": "PICK",
    "PICK_UP": "PICK",
}
_ARROWS = {"←": "L", "↓": "D", "→": "R", "↑": "U", "⬅": "L", "⬇": "D", "➡": "R", "⬆": "U"}
_ARROW = re.compile(f"([{''.join(_ARROWS)}])\ufe0f?")
_SAME: dict[int, str] = {
    # Full-width forms are the characters that they are wide versions of.
    **{code: chr(code - 0xFEE0) for code in range(0xFF01, 0xFF5F)},
    **dict.fromkeys((0x3000, 0x00A0), " "),
    **dict.fromkeys((0x3001, 0x3002), ","),
    # What takes no room says nothing: zero-width spaces and joiners, direction marks, byte-order marks, soft hyphens.
    **dict.fromkeys((*range(0x200B, 0x2010), *range(0x2060, 0x2065), 0xFEFF, 0x00AD), ""),
}
_RIGHT_ARROWS = ("→", "➡")
_MOVES = frozenset("LDRU")

MAX_CACHED_CHARACTERS = 200
"""Longer blocks hardly repeat, and would let hostile text fill the memory."""


@dataclass(frozen=True, kw_only=True)
class ParsedAnswer:
    """What was read out of a text: a plan, or why there is none."""

    plan: tuple[str, ...] | None
    """The actions, or None when the answer could not be parsed."""
    problem: str
    """`""`, or `no_answer_block`, `empty_answer`, `unknown_token`."""


def last_answer_block(text: str) -> str | None:
    """The inside of the last complete block behind the last thought's end, or None.

    Linear in the text's length, whatever it holds.
    """
    answer = after_thoughts(text)
    if answer is None:
        return None
    text = answer
    if text.isascii():
        # Lower case has the same length then, and two searches are several times as fast as the scan below.
        lower = text.lower()
        opened = lower.rfind("<answer>", 0, max(lower.rfind("</answer>"), 0))
        if opened < 0:
            return None
        opened += len("<answer>")
        return text[opened : lower.index("</answer>", opened)]
    opened, block = None, None
    for tag in _TAG.finditer(text):
        if tag.group()[1] != "/":
            opened = tag.end()
        elif opened is not None:
            block = (opened, tag.start())
            opened = None
    return None if block is None else text[block[0] : block[1]]


def parse_answer(text: str, actions: Sequence[str]) -> ParsedAnswer:
    """The plan in `text`, whose actions must be among `actions`. Never raises on any text."""
    block = last_answer_block(text)
    if block is None:
        return ParsedAnswer(plan=None, problem="no_answer_block")
    if len(block) <= MAX_CACHED_CHARACTERS and isinstance(actions, tuple):
        return _parse_cached(block, actions)
    return _parse_block(block, actions)


def _parse_block(block: str, actions: Sequence[str]) -> ParsedAnswer:
    if not block.isascii():
        block = block.translate(_SAME)
    tokens = _tokens(block)
    if not tokens:
        return ParsedAnswer(plan=None, problem="empty_answer")
    plan: list[str] = []
    for token in tokens:
        moves = _actions_of(token, actions)
        if moves is None:
            return ParsedAnswer(plan=None, problem="unknown_token")
        plan.extend(moves)
    return ParsedAnswer(plan=tuple(plan), problem="")


_parse_cached = lru_cache(maxsize=8192)(_parse_block)
"""Short plans come again and again: what one block means does not depend on anything else."""


def _tokens(block: str) -> list[str]:
    """The words of a block, arrows that are moves turned into letters. Unclear arrows are left standing."""
    tokens = [token for token in _SEPARATORS.split(_ARROW.sub(r" \1 ", block)) if token]
    if not any(token in _ARROWS for token in tokens):
        return tokens
    links = [i for i, token in enumerate(tokens) if token in _RIGHT_ARROWS]
    words = [token for token in tokens if token not in _ARROWS]
    is_chain = all(_joins_words(tokens, i) for i in links)
    if any(_is_written_move(word) for word in words):
        return words if is_chain and len(links) + len(words) == len(tokens) else tokens
    if links and is_chain:
        return tokens
    return [_ARROWS.get(token, token) for token in tokens]


def _joins_words(tokens: Sequence[str], i: int) -> bool:
    return 0 < i < len(tokens) - 1 and tokens[i - 1] not in _ARROWS and tokens[i + 1] not in _ARROWS


def _is_written_move(token: str) -> bool:
    upper = token.upper()
    return token.isascii() and (_WORDS.get(upper, "") in _MOVES or set(upper) <= _MOVES)


def _actions_of(token: str, actions: Sequence[str]) -> Sequence[str] | None:
    if not token.isascii():
        return None
    upper = token.upper()
    name = _WORDS.get(upper, upper)
    if name in actions:
        return (name,)
    if all(letter in actions for letter in upper):
        return upper
    return None

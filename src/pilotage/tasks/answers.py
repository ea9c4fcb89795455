"""The one answer grammar, for training rewards, evaluation, `pilotage judge` and the demo.

A response is parsed by its last complete `<answer>…</answer>` block (tags in any case). Inside the block:

* actions are letters (`R`), words (`right`), runs of letters (`RRD`) or arrows (`→`), in any case;
* they are separated by spaces, commas, semicolons, bars, dashes, `->`, brackets, quotes or full stops;
* `→` between written moves (`R → D`) is a separator, since both are seen; alone (`→ ↓`) it is a move;
* `PICK`, `PICKUP`, `PICK_UP` are one action; `PICK UP` is two (`PICK`, then the move `UP`);
* anything else in the block (numbers, coordinates, prose) makes the whole answer unparsed.

No block means not parsed: moves are never guessed out of prose. An unclosed block is no block.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

_TAG = re.compile(r"</?answer>", re.IGNORECASE | re.ASCII)
_SEPARATORS = re.compile(r"(?:->|=>|[\s,;:|.!/\[\](){}\"'`*\-])+")
_WORDS = {
    "LEFT": "L",
    "DOWN": "D",
    "RIGHT": "R",
    "UP": "U",
    "PICKUP": "PICK",
    "PICK_UP": "PICK",
}
_ARROWS = {"←": "L", "↓": "D", "→": "R", "↑": "U", "⬅": "L", "⬇": "D", "➡": "R", "⬆": "U"}
_ARROW_RUN = re.compile("[" + "".join(_ARROWS) + "]")
_RIGHT_ARROWS = re.compile("[→➡]")
_EMOJI_SUFFIX = "\ufe0f"
_DIRECTION_WORDS = frozenset("LDRU") | {"LEFT", "DOWN", "RIGHT", "UP"}


@dataclass(frozen=True, kw_only=True)
class ParsedAnswer:
    plan: tuple[str, ...] | None
    """The actions, or None when the answer could not be parsed."""
    problem: str
    """`""`, or `no_answer_block`, `empty_answer`, `unknown_token`."""


def last_answer_block(text: str) -> str | None:
    """The inside of the last complete block, or None. Linear in the text's length, whatever it holds."""
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
    tokens = [token for token in _SEPARATORS.split(_arrows_to_letters(block)) if token]
    if not tokens:
        return ParsedAnswer(plan=None, problem="empty_answer")
    plan: list[str] = []
    for token in tokens:
        moves = _actions_of(token, actions)
        if moves is None:
            return ParsedAnswer(plan=None, problem="unknown_token")
        plan.extend(moves)
    return ParsedAnswer(plan=tuple(plan), problem="")


def _arrows_to_letters(block: str) -> str:
    if not _ARROW_RUN.search(block):
        return block
    block = block.replace(_EMOJI_SUFFIX, "")
    words = _SEPARATORS.split(_ARROW_RUN.sub(" ", block))
    if any(word.upper() in _DIRECTION_WORDS or _is_letter_run(word) for word in words if word):
        return _RIGHT_ARROWS.sub(" ", block)
    return _ARROW_RUN.sub(lambda match: f" {_ARROWS[match.group()]} ", block)


def _is_letter_run(token: str) -> bool:
    return bool(token) and token.isascii() and set(token.upper()) <= set("LDRU")


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

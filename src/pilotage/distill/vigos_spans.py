r"""ViGOS's format (arXiv 2606.19120) on token ids: who owns each token, and whether the row keeps to the format.

    <description> d </description> <think> r </think> \boxed{a}

The turn, which is the prefill and the response together, is cut at its marks, from left to right: the first
`<description>`, if one stands before the first `</description>`; after that the first `<think>`; after that the first
`</think>`; after that the last `\boxed{` whose braces balance (of boxes inside each other the outer one; `\{` and `\}`
do not count). A mark that does not come leaves the rest of the turn to the part that is open. Whatever lies before the
first mark, between two blocks or behind the box has a part of its own, so that every character is in exactly one:

    before | description_open | description | description_close | gap_before_think | think_open | reasoning |
    think_close | gap_before_box | box_open | answer | box_close | after,    and `end` for tokens without text

`Delimiters` says which span owns each part that is not `description`, `reasoning` or `answer` itself. A token belongs
where its first byte is, as in `pilotage.distill.spans`, whose bytes and characters are used here: nothing is tokenised.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from pilotage.distill.spans import Spans, owners_of
from pilotage.worlds.boxes import BOX_OPEN, last_box

DESCRIPTION, REASONING, ANSWER, UNTAUGHT = "description", "reasoning", "answer", "untaught"
VIGOS_SPANS = (DESCRIPTION, REASONING, ANSWER, UNTAUGHT)

Owner = Literal["description", "reasoning", "answer", "untaught"]
Checker = Literal["paper", "released", "exact"]

_DESCRIPTION_OPEN, _DESCRIPTION_CLOSE = "<description>", "</description>"
_THINK_OPEN, _THINK_CLOSE = "<think>", "</think>"


@dataclass(frozen=True, kw_only=True)
class Delimiters:
    """Which span owns each part of a turn that is not one of the three spans."""

    before: Owner = UNTAUGHT
    """Text before `<description>`."""
    description_open: Owner = UNTAUGHT
    """A `<description>` that the model wrote itself; a prefilled one has no tokens."""
    description_close: Owner = UNTAUGHT
    gap_before_think: Owner = UNTAUGHT
    """Between `</description>` and `<think>`: white space, or what should not be there."""
    think_open: Owner = UNTAUGHT
    think_close: Owner = UNTAUGHT
    gap_before_box: Owner = UNTAUGHT
    box_open: Owner = UNTAUGHT
    box_close: Owner = UNTAUGHT
    after: Owner = UNTAUGHT
    """Text behind the box."""
    end: Owner = UNTAUGHT
    """Tokens without text: the end of the turn."""

    def __post_init__(self) -> None:
        for name, owner in vars(self).items():
            if owner not in VIGOS_SPANS:
                raise ValueError(
                    f"Delimiters({name}={owner!r}): the owner is one of {', '.join(VIGOS_SPANS)}"
                )


PAPER_DELIMITERS = Delimiters()
"""No delimiter is supervised, nor is the end of the turn."""
RELEASED_DELIMITERS = Delimiters(think_close=REASONING, box_open=ANSWER)
"""The released code: `</think>` and the box's opening are supervised, the end of a valid row's turn is not, so nothing
teaches stopping. What it does with the closing brace and with white space is not known; they are left out here."""
OWN_DELIMITERS = Delimiters(
    think_close=REASONING,
    gap_before_box=ANSWER,
    box_open=ANSWER,
    box_close=ANSWER,
    after=ANSWER,
    end=ANSWER,
)
"""Everything behind the thought is the answer's, the end of the turn included: something teaches how to stop."""


@dataclass(frozen=True, kw_only=True)
class VigosLayout:
    r"""ViGOS's format as a `SpanLayout`.

    Valid rows, by `checker`; none asks whether the answer is right:

    * `paper`: `</description>`, `<think>`, `</think>` and a balanced `\boxed{…}` come in this order, and description
      and reasoning hold more than white space.
    * `released`: the last three come in this order; nothing need be in them, nor need there be a description.
    * `exact`: as in the paper; moreover each mark comes once, the turn begins with `<description>`, there is nothing
      but white space between and behind the blocks, and the box is not empty.
    """

    delimiters: Delimiters = OWN_DELIMITERS
    checker: Checker = "paper"

    def __post_init__(self) -> None:
        if self.checker not in get_args(Checker):
            raise ValueError(f"VigosLayout(checker={self.checker!r}): one of {', '.join(get_args(Checker))}")

    @property
    def names(self) -> tuple[str, ...]:
        return VIGOS_SPANS

    def find(self, pieces: Sequence[bytes], text: str, *, prefill: str = "") -> Spans:
        """The owners of a response's tokens; ValueError, when `pieces` do not decode to `text`, is the only error.

        `prefill` is what already began the turn, as `<description>` does in the paper.
        """
        turn = cut_turn(prefill + text, description_required=self.checker != "released")
        shift, borders = len(prefill), []
        for part, start, end in turn.parts:
            if end > shift:
                owner = part if part in VIGOS_SPANS else getattr(self.delimiters, part)
                borders.append((owner, max(start - shift, 0), end - shift))
        problem = self._problem(turn)
        return Spans(
            owners=owners_of(pieces, text, borders, self.delimiters.end),
            names=VIGOS_SPANS,
            valid=not problem,
            problem=problem,
        )

    def answer(self, text: str, *, prefill: str = "") -> str:
        """What is in the box as an answer block; the response as it is when there is no box."""
        turn = cut_turn(prefill + text, description_required=self.checker != "released")
        return text if turn.missing else f"<answer>{turn.part(ANSWER)}</answer>"

    def _problem(self, turn: Turn) -> str:
        if turn.missing or self.checker == "released":
            return turn.missing
        for part in (DESCRIPTION, REASONING):
            if not turn.part(part).strip():
                return f"empty {part}"
        if self.checker == "paper":
            return ""
        if not turn.text.lstrip().startswith(_DESCRIPTION_OPEN):
            return f"no {_DESCRIPTION_OPEN} at the beginning"
        for mark in (_DESCRIPTION_OPEN, _DESCRIPTION_CLOSE, _THINK_OPEN, _THINK_CLOSE, BOX_OPEN):
            if turn.text.count(mark) > 1:
                return f"several {mark}"
        for part in ("gap_before_think", "gap_before_box", "after"):
            if turn.part(part).strip():
                return f"text in {part}"
        return "" if turn.part(ANSWER).strip() else "empty answer"


@dataclass(frozen=True, kw_only=True)
class Turn:
    """A turn cut at its marks."""

    text: str
    parts: tuple[tuple[str, int, int], ...]
    """(part, first character, one past the last): adjacent, in order, covering the text; empty ones left out."""
    missing: str
    """The first mark that did not come, or an empty text."""

    def part(self, name: str) -> str:
        """The text of a part; empty when there is none."""
        return next((self.text[start:end] for part, start, end in self.parts if part == name), "")


def cut_turn(text: str, *, description_required: bool = True) -> Turn:
    """Cuts a turn as the head of this file says; without `description_required` the thought may come at once."""
    turn = _cut(text, has_description=True)
    if turn.missing and not description_required:
        without = _cut(text, has_description=False)
        return turn if without.missing else without
    return turn


def _cut(text: str, *, has_description: bool) -> Turn:
    marks: list[tuple[str, int, int]] = []
    position, missing = 0, ""

    def open_at(name: str, mark: str, before: str) -> bool:
        """Closes the part `before` at the next `mark`; the text's rest is that part's when there is none."""
        nonlocal position, missing
        at = text.find(mark, position)
        if at < 0:
            marks.append((before, position, len(text)))
            position, missing = len(text), f"no {mark}"
            return False
        marks.extend([(before, position, at), (name, at, at + len(mark))])
        position = at + len(mark)
        return True

    opening = text.find(_DESCRIPTION_OPEN)
    closing = text.find(_DESCRIPTION_CLOSE if has_description else _THINK_OPEN)
    if opening >= 0 and (closing < 0 or opening < closing):
        open_at("description_open", _DESCRIPTION_OPEN, "before")
    found = open_at("description_close", _DESCRIPTION_CLOSE, DESCRIPTION) if has_description else True
    found = found and open_at(
        "think_open", _THINK_OPEN, "gap_before_think" if has_description else DESCRIPTION
    )
    found = found and open_at("think_close", _THINK_CLOSE, REASONING)
    if found:
        box = last_box(text, position)
        if box is None:
            marks.append(("gap_before_box", position, len(text)))
            missing = f"no closed {BOX_OPEN}"
        else:
            start, end = box
            inside = start + len(BOX_OPEN)
            marks.extend([("gap_before_box", position, start), ("box_open", start, inside)])
            marks.extend([(ANSWER, inside, end - 1), ("box_close", end - 1, end), ("after", end, len(text))])
    return Turn(text=text, parts=tuple(mark for mark in marks if mark[2] > mark[1]), missing=missing)

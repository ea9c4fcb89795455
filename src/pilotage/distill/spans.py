"""Which part of a response each of its tokens belongs to, from ids and pieces alone: nothing is tokenised again.

Axis letters: M response tokens.

In MGSD's format a response recites the state, says one sentence of route and gives one answer:

    Size: 4. Player: (2,0). Goal: (1,3). Holes: (0,1) (3,2).\\n     <- state
    Route: (2,0) (1,0) (1,1).\\n                                    <- route
    <answer>U R</answer>                                           <- answer

Who owns what, for any text at all:

* The state ends with the first newline (which it owns) or before the first `Route:`, whichever comes first.
* The answer is the block that the judge reads, `pilotage.worlds.answers.last_answer_block`: the last one with both
  tags. Without any, it is whatever follows the last `<answer>`. Earlier blocks belong to the route. The tags belong to
  the answer.
* The route is all between, its label and its newlines included. Only text before the answer is searched for the
  route's beginning, so a newline inside the answer does not start one.
* Text behind the answer's closing tag is `after`.
* A token belongs where its first byte is, also when it straddles a border or holds part of a character.
* Tokens without text (end of turn) belong to `SpanSpec.end_owner`.

So every token has exactly one owner, and a response without newline and tags is all state. It is valid when its state
and its route have text and its answer is closed.
"""

from __future__ import annotations

import os.path
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

STATE, ROUTE, ANSWER, AFTER = "state", "route", "answer", "after"
SPANS = (STATE, ROUTE, ANSWER, AFTER)


@dataclass(frozen=True, kw_only=True)
class SpanSpec:
    """The marks that cut a response into spans. The defaults are MGSD's format."""

    route_label: str = "Route:"
    answer_open: str = "<answer>"
    answer_close: str = "</answer>"
    end_owner: Literal["answer", "last", "after"] = "answer"
    """Who owns tokens without text: the answer even when there is none, so that something always teaches stopping;
    the last span that has text; or `after`."""


@dataclass(frozen=True, kw_only=True)
class Spans:
    """The owner of every token of one response, in order."""

    owners: tuple[str, ...]
    """One of `names` for each of the M tokens."""
    names: tuple[str, ...] = SPANS
    """The spans that the format has."""
    valid: bool = True
    """The response keeps to the format; whether its answer is right is not asked."""
    problem: str = ""
    """What breaks the format, in a word or two; empty for a valid response."""

    def mask(self, *names: str) -> list[bool]:
        """True for the tokens of the named spans [M]; raises ValueError for an unknown name."""
        unknown = set(names) - set(self.names)
        if unknown:
            raise ValueError(f"no span {sorted(unknown)}; the spans are {', '.join(self.names)}")
        return [owner in names for owner in self.owners]

    def count(self, name: str) -> int:
        """Number of tokens of a span."""
        return sum(self.mask(name))


class SpanLayout(Protocol):
    """A format of responses, as what cuts them into spans."""

    @property
    def names(self) -> tuple[str, ...]:
        """The spans that there are."""
        ...

    def find(self, pieces: Sequence[bytes], text: str, *, prefill: str = "") -> Spans:
        """The owners of a response's tokens; `prefill` already began the turn and has no tokens here.

        Never raises on any text, only when `pieces` do not decode to `text` (ValueError).
        """
        ...

    def answer(self, text: str, *, prefill: str = "") -> str:
        """The response in the form that the judge reads (`pilotage.worlds.judge`)."""
        ...


@dataclass(frozen=True, kw_only=True)
class MgsdLayout:
    """State, route, answer: see the head of this file."""

    spec: SpanSpec = field(default_factory=SpanSpec)

    @property
    def names(self) -> tuple[str, ...]:
        return SPANS

    def find(self, pieces: Sequence[bytes], text: str, *, prefill: str = "") -> Spans:
        """The owners of a response's tokens. A prefill is not looked at: what it says is the prompt's."""
        return find_spans(pieces, text, self.spec)

    def answer(self, text: str, *, prefill: str = "") -> str:
        """The response as it is."""
        return text


@dataclass(frozen=True, kw_only=True)
class WholeLayout:
    """No format: the whole response is one span, its end of turn included, and every response is valid."""

    name: str = "response"

    @property
    def names(self) -> tuple[str, ...]:
        return (self.name,)

    def find(self, pieces: Sequence[bytes], text: str, *, prefill: str = "") -> Spans:
        """The owners of a response's tokens; neither text nor prefill is looked at."""
        return Spans(owners=(self.name,) * len(pieces), names=self.names)

    def answer(self, text: str, *, prefill: str = "") -> str:
        """The response as it is."""
        return text


def find_spans(pieces: Sequence[bytes], text: str, spec: SpanSpec | None = None) -> Spans:
    """The owners of a response's tokens.

    `pieces` are the bytes of each token in order, `b""` for special ones (`token_bytes` makes them), and `text` is
    what they decode to (`Rollout.text`). Raises ValueError when they do not, because every border would then be off.
    """
    spec = spec or SpanSpec()
    borders = _borders(text, spec)
    with_text = [name for name, start, end in borders if end > start]
    last = with_text[-1] if with_text else ANSWER
    end_owner = last if spec.end_owner == "last" else spec.end_owner
    problem = _problem(text, borders, spec)
    return Spans(owners=owners_of(pieces, text, borders, end_owner), valid=not problem, problem=problem)


Borders = Sequence[tuple[str, int, int]]
"""(span, first character, one past the last): adjacent, in order, covering the text."""


def owners_of(pieces: Sequence[bytes], text: str, borders: Borders, end_owner: str) -> tuple[str, ...]:
    """The span that holds each token's first byte; `end_owner` for tokens without text.

    Raises ValueError when the pieces do not decode to the text.
    """
    decoded = b"".join(pieces).decode("utf-8", errors="replace")
    if decoded != text:
        at = len(os.path.commonprefix([decoded, text]))
        raise ValueError(
            f"the pieces decode to {decoded[at : at + 20]!r} at character {at}, the text says {text[at : at + 20]!r}; "
            "pass the bytes of exactly the ids that the text was decoded from, without clean-up of spaces"
        )
    owners = []
    for piece, start in zip(pieces, _first_characters(pieces), strict=True):
        owners.append(_owner(borders, start) if piece else end_owner)
    return tuple(owners)


def _problem(text: str, borders: Borders, spec: SpanSpec) -> str:
    for name, start, end in borders:
        if name in (STATE, ROUTE) and not text[start:end].strip():
            return f"empty {name}"
        if name == ANSWER and not text[start:end].lower().endswith(spec.answer_close.lower()):
            return "no closed answer"
    return ""


def _borders(text: str, spec: SpanSpec) -> list[tuple[str, int, int]]:
    opening, closed = _answer_block(text, spec)
    before = text[:opening]
    newline, label = before.find("\n"), before.find(spec.route_label)
    candidates = [at for at in (newline + 1 if newline >= 0 else -1, label) if at >= 0]
    route = min(candidates, default=opening)
    return [(STATE, 0, route), (ROUTE, route, opening), (ANSWER, opening, closed), (AFTER, closed, len(text))]


def _answer_block(text: str, spec: SpanSpec) -> tuple[int, int]:
    """First character of the answer and one past its last; both the text's length when there is none."""
    tags = re.compile(
        f"({re.escape(spec.answer_open)})|{re.escape(spec.answer_close)}", re.IGNORECASE | re.ASCII
    )
    opened: int | None = None
    block: tuple[int, int] | None = None
    for tag in tags.finditer(text):
        if tag[1] is not None:
            opened = tag.start()
        elif opened is not None:
            block, opened = (opened, tag.end()), None
    if block is not None:
        return block
    return (len(text), len(text)) if opened is None else (opened, len(text))


def _owner(borders: Borders, character: int) -> str:
    return next(name for name, start, end in borders if start <= character < end)


def _first_characters(pieces: Sequence[bytes]) -> list[int]:
    """Index, in the decoded text, of the character that holds each piece's first byte."""
    data = b"".join(pieces)
    character_of_byte = _character_of_byte(data)
    starts, position = [], 0
    for piece in pieces:
        starts.append(character_of_byte[position])
        position += len(piece)
    return starts


def _character_of_byte(data: bytes) -> list[int]:
    """The character that each byte decodes into, and, last, the number of characters.

    Bytes that are no UTF-8 decode to one replacement character or several, so the decoder itself is asked.
    """
    owners: list[int] = []
    position = num_characters = 0
    while position < len(data):
        try:
            good = data[position:].decode("utf-8")
            bad = b""
        except UnicodeDecodeError as error:
            good = data[position : position + error.start].decode("utf-8")
            bad = data[position + error.start : position + error.end]
        for character in good:
            owners += [num_characters] * len(character.encode("utf-8"))
            num_characters += 1
        if bad:
            owners += [num_characters] * len(bad)
            num_characters += 1
        position = len(owners)
    return [*owners, num_characters]


def token_bytes(
    tokens: Sequence[str], *, special: Collection[str] = (), added: Collection[str] = ()
) -> list[bytes]:
    """The bytes behind a byte-level BPE tokenizer's tokens (`convert_ids_to_tokens`); `b""` for special ones.

    Such tokenizers write each byte as one printable character, but for `added` words, which may stand as they are.
    Raises ValueError for another character outside that alphabet: the tokenizer is of another kind.
    """
    pieces = []
    for token in tokens:
        if token in special:
            pieces.append(b"")
            continue
        try:
            pieces.append(bytes(_BYTE_OF_CHARACTER[character] for character in token))
        except KeyError as error:
            if token in added:
                pieces.append(token.encode())
                continue
            raise ValueError(
                f"token {token!r} has {error.args[0]!r}, which is not in the byte-level alphabet; if it is a special "
                "token, name it in `special`"
            ) from None
    return pieces


BYTE_TOKEN = re.compile(r"<0x([0-9A-F]{2})>")
"""How SentencePiece's kind of tokenizers writes a byte that is in no other token of theirs."""


def sentence_pieces(tokens: Sequence[str], *, special: Collection[str] = ()) -> list[bytes]:
    """The bytes of one response's tokens, in order, where words are written as they are and a space as `\u2581`.

    Bytes that make no character are one replacement character each, as these tokenizers decode them.
    """
    pieces: list[bytes] = []
    run: list[int] = []
    """Places of the bytes that follow one another up to here."""

    def end_run() -> None:
        try:
            b"".join(pieces[place] for place in run).decode()
        except UnicodeDecodeError:
            for place in run:
                pieces[place] = "\ufffd".encode()
        run.clear()

    for place, token in enumerate(tokens):
        if token in special:
            pieces.append(b"")
        elif byte := BYTE_TOKEN.fullmatch(token):
            run.append(place)
            pieces.append(bytes.fromhex(byte[1]))
        else:
            end_run()
            pieces.append(token.replace("\u2581", " ").encode())
    end_run()
    return pieces


def _byte_alphabet() -> dict[str, int]:
    """Printable Latin-1 characters stand for themselves; the other bytes, in order, for the code points from 256."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {
        chr(256 + rank): byte for rank, byte in enumerate(others)
    }


_BYTE_OF_CHARACTER = _byte_alphabet()

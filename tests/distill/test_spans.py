"""Spans: every token has one owner, whatever the model wrote and however the tokenizer cut it."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pilotage.distill.spans import SPANS, SpanSpec, find_spans, sentence_pieces, token_bytes
from pilotage.worlds.answers import last_answer_block
from sentence_piece import sentence_piece_tokenizer

GOOD = [
    "Size: 4.",
    " Holes: none.",
    "\n",
    "Route:",
    " (2,0) (1,0).",
    "\n",
    "<answer>",
    "U R",
    "</answer>",
    "",
]


def owners(tokens: list[str | bytes], spec: SpanSpec | None = None) -> list[str]:
    pieces = [token if isinstance(token, bytes) else token.encode() for token in tokens]
    return list(find_spans(pieces, b"".join(pieces).decode(errors="replace"), spec).owners)


S, R, A, T = "state", "route", "answer", "after"

TABLE = {
    "as it should be": (GOOD, [S, S, S, R, R, R, A, A, A, A]),
    "nothing at all": ([], []),
    "only the end of turn": ([""], [A]),
    "no answer": (["Size: 4.", "\n", "Route: up.", ""], [S, S, R, A]),
    "only a state, cut": (["Size:", " 4. Hol"], [S, S]),
    "route cut before the answer": (["Size: 4.\n", "Route: (2,", "0)"], [S, R, R]),
    "answer cut before its end": (["Size: 4.\n", "Route: up.\n", "<answer>", "U R"], [S, R, A, A]),
    "answer tag cut in two": (["Size: 4.\n", "up.\n", "<ans", "wer"], [S, R, R, R]),
    "empty answer": (["Size: 4.\n", "Route: up.\n", "<answer>", "</answer>", ""], [S, R, A, A, A]),
    "several answers": (
        ["Size: 4.\n", "<answer>", "U", "</answer>", " no ", "<answer>", "R", "</answer>", ""],
        [S, R, R, R, R, A, A, A, A],
    ),
    "whole answer, then one that is cut": (
        ["Size: 4.\n", "<answer>", "U", "</answer>", " so ", "<answer>", "R"],
        [S, A, A, A, T, T, T],
    ),
    "nested tags": (["Size: 4.\n", "<answer>", "U ", "<answer>", "R", "</answer>"], [S, R, R, A, A, A]),
    "closing tag alone": (["Size: 4.\n", "U", "</answer>"], [S, R, R]),
    "tags in capitals": (["Size: 4.\n", "<ANSWER>", "U", "</Answer>", ""], [S, A, A, A, A]),
    "text behind the answer": (
        ["Size: 4.\n", "Route.\n", "<answer>", "U", "</answer>", "\n", "Done.", ""],
        [S, R, A, A, A, T, T, A],
    ),
    "no newline, but a label": (["Size: 4. ", "Route:", " up. ", "<answer>", "U", "</answer>"], [S, R, R, A, A, A]),
    "label before the newline": (["Size: 4. ", "Route:", " up.", "\n", "<answer>"], [S, R, R, R, A]),
    "neither newline nor label": (["Size: 4. ", "<answer>", "U", "</answer>"], [S, A, A, A]),
    "answer only": (["<answer>", "U", "</answer>", ""], [A, A, A, A]),
    "newline only inside the answer": (["Size: 4. ", "<answer>", "U", "\n", "R", "</answer>"], [S, A, A, A, A, A]),
    "begins with a newline": (["\n", "Route: up.", "<answer>", "U", "</answer>"], [S, R, A, A, A]),
    "two newlines": (["Size: 4.", "\n", "\n", "Route:"], [S, S, R, R]),
    "token over the border of state and route": (["Size: 4", ".\nRoute", ": up.\n"], [S, S, R]),
    "token over the border of route and answer": (["4.\n", "up", ".\n<answer", ">U", "</answer>"], [S, R, R, A, A]),
    "special token in the middle": (["Size: 4.\n", "", "Route:"], [S, A, R]),
    "character cut over tokens": ([b"\xc3", b"\xb6", b"\n", b"\xe2", b"\x86\x92"], [S, S, S, R, R]),
    "character cut at the border": (["a\n", "→".encode()[:2], "→".encode()[2:] + b"<answer>", b"U"], [S, R, R, A]),
    "bytes that are no text": ([b"\xff\xfe", b"\n\xc3", b"<answer>", b"\xe2\x86", b"</answer>"], [S, S, A, A, A]),
    "character never finished": ([b"a\n", b"\xe2\x86"], [S, R]),
}  # fmt: skip


@pytest.mark.parametrize(("tokens", "expected"), TABLE.values(), ids=TABLE.keys())
def test_owner_of_every_token(tokens, expected):
    assert owners(tokens) == expected


@pytest.mark.parametrize(
    ("end_owner", "tokens", "expected"),
    [
        ("answer", ["Size: 4.\n", "up", ""], [S, R, A]),
        ("last", ["Size: 4.\n", "up", ""], [S, R, R]),
        ("after", ["Size: 4.\n", "<answer>", ""], [S, A, T]),
        ("last", ["<answer>", "U", "</answer>", "."], [A, A, A, T]),
        ("last", [""], [A]),
    ],
)
def test_end_of_turn_belongs_where_the_policy_says(end_owner, tokens, expected):
    assert owners(tokens, SpanSpec(end_owner=end_owner)) == expected


FRAGMENTS = st.sampled_from(
    ["Size: 4.", "\n", "Route:", "<answer>", "</answer>", "U R", "<ANSWER>", "→", " ", "é"]
)


@given(st.lists(FRAGMENTS | st.text(max_size=3), max_size=12), st.randoms())
def test_masks_are_disjoint_and_cover_every_token_however_it_is_cut(fragments, random):
    text = "".join(fragments).encode(errors="replace").decode()
    data, pieces = text.encode(), []
    while data:
        size = random.randint(1, 5)
        pieces.append(data[:size])
        data = data[size:]
        if random.random() < 0.1:
            pieces.append(b"")
    spans = find_spans(pieces, text)
    assert [sum(flags) for flags in zip(*(spans.mask(name) for name in SPANS), strict=True)] == [1] * len(
        pieces
    )
    assert sum(spans.count(name) for name in SPANS) == len(pieces)


@given(st.lists(FRAGMENTS, max_size=12))
def test_answer_span_is_the_block_that_the_judge_reads(fragments):
    text = "".join(fragments)
    block = last_answer_block(text)
    pieces = [character.encode() for character in text]
    mask = find_spans(pieces, text).mask("answer")
    answer = "".join(character for character, inside in zip(text, mask, strict=True) if inside)
    if block is None:
        assert "</answer>" not in answer
    else:
        assert answer.lower() == f"<answer>{block}</answer>".lower()


def test_text_of_other_tokens_is_refused():
    with pytest.raises(ValueError, match="at character 3"):
        find_spans([b"abc", b"d"], "abcX")
    with pytest.raises(ValueError, match="clean-up of spaces"):
        find_spans([b"a ."], "a.")


def test_unknown_span_is_refused():
    with pytest.raises(ValueError, match="state, route, answer, after"):
        find_spans([b"a"], "a").mask("plan")


def test_byte_level_tokens_give_back_their_bytes():
    tokenizers = pytest.importorskip("tokenizers")
    text = "Größe 3 → (0,1)\n<answer>U</answer>\x00\x7f\xa0\xad 🧭"
    pre = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokens = [character for piece, _ in pre.pre_tokenize_str(text) for character in piece]
    pieces = token_bytes([*tokens, "<|im_end|>"], special={"<|im_end|>"})
    assert b"".join(pieces) == text.encode()
    assert pieces[-1] == b""
    with pytest.raises(ValueError, match="special"):
        token_bytes(["<|im end|>"])


@pytest.mark.parametrize("cut", [0, 1, 3, 5, 7])
def test_sentence_pieces_are_the_bytes_that_their_tokenizer_decodes(cut):
    """Also where a character of several bytes is cut short."""
    made: Any = sentence_piece_tokenizer(["<end>"])
    ids = made.encode("Größe 3 → (0,1)\n<answer>U</answer> 🧭").ids
    if cut:
        ids = [*ids[:-cut], *made.encode("ok").ids]
    ids.append(made.token_to_id("<end>"))
    pieces = sentence_pieces([made.id_to_token(id_) for id_ in ids], special={"<end>"})
    assert b"".join(pieces).decode() == made.decode(ids) and pieces[-1] == b""
    assert len(pieces) == len(ids)


def test_added_words_of_byte_level_tokenizers_stand_as_they_are():
    assert token_bytes(["two words", "\u0120a"], added={"two words"}) == [b"two words", b" a"]

r"""ViGOS's spans: every token has one owner by the policy that is asked for, and validity is the paper's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pilotage.distill.spans import MgsdLayout, SpanLayout, Spans
from pilotage.distill.vigos_spans import (
    OWN_DELIMITERS,
    PAPER_DELIMITERS,
    RELEASED_DELIMITERS,
    VIGOS_SPANS,
    Delimiters,
    VigosLayout,
    cut_turn,
    last_box,
)

PREFILL = "<description>"
D, R, A, _ = "description", "reasoning", "answer", "untaught"
GOOD = [" a red dot", " </description>", " <think>", " go", " up", "</think>", " ", "\\boxed{", "U", "}", ""]


def find(tokens: Sequence[str | bytes], layout: SpanLayout | None = None, prefill: str = PREFILL) -> Spans:
    pieces = [token if isinstance(token, bytes) else token.encode() for token in tokens]
    text = b"".join(pieces).decode(errors="replace")
    return (layout or VigosLayout()).find(pieces, text, prefill=prefill)


# The blank before a tag is the token's first byte, so ` </description>` belongs to the description.
POLICIES = {
    "paper": (PAPER_DELIMITERS, [D, D, _, R, R, _, _, _, A, _, _]),
    "released": (RELEASED_DELIMITERS, [D, D, _, R, R, R, _, A, A, _, _]),
    "ours": (OWN_DELIMITERS, [D, D, _, R, R, R, A, A, A, A, A]),
    "each its own": (
        Delimiters(description_close=D, gap_before_think=R, think_open=R, box_close=A, end=R),
        [D, D, R, R, R, _, _, _, A, A, R],
    ),
}


@pytest.mark.parametrize(("delimiters", "expected"), POLICIES.values(), ids=POLICIES.keys())
def test_owner_of_delimiters_and_end_of_turn_is_the_policys(delimiters, expected):
    spans = find(GOOD, VigosLayout(delimiters=delimiters))
    assert list(spans.owners) == expected
    assert spans.valid


def test_closing_tag_of_the_description_is_the_policys_where_it_is_a_token_of_its_own():
    tokens = ["a dot", "</description>", "<think>", "go", "</think>", "\\boxed{", "U", "}", " bye", ""]
    assert list(find(tokens).owners) == [D, _, _, R, R, A, A, A, A, A]
    asked = replace(OWN_DELIMITERS, description_close=R, think_open=R, after=_, end=_)
    assert list(find(tokens, VigosLayout(delimiters=asked)).owners) == [D, R, R, R, R, A, A, A, _, _]


# turn behind the prefilled `<description>` -> what breaks it for the paper's, the released and the exact checker
GO = "</description><think>r</think>"
VALIDITY = {
    "as it should be": ("d</description> <think>r</think> \\boxed{U}", "", "", ""),
    "no blank anywhere": (f"d{GO}\\boxed{{U}}", "", "", ""),
    "empty answer": (f"d{GO}\\boxed{{}}", "", "", "empty answer"),
    "empty description": (f" \n{GO}\\boxed{{U}}", "empty description", "", "empty description"),
    "empty reasoning": ("d</description><think> </think>\\boxed{U}", "empty reasoning", "", "empty reasoning"),
    "nothing but tags": ("<think></think>\\boxed{}", "no </description>", "", "no </description>"),
    "nothing at all": ("", "no </description>", "no </description>", "no </description>"),
    "only a description, cut": ("a red d", *["no </description>"] * 3),
    "cut in the thought": ("d</description><think>r", *["no </think>"] * 3),
    "cut before the thought": ("d</description>", *["no <think>"] * 3),
    "cut in the box": (f"d{GO}\\boxed{{U", *["no closed \\boxed{"] * 3),
    "no box": (f"d{GO} U", *["no closed \\boxed{"] * 3),
    "box inside the thought only": ("d</description><think>\\boxed{U}</think>", *["no closed \\boxed{"] * 3),
    "box inside the thought too": (
        "d</description><think>\\boxed{L}</think>\\boxed{U}",
        "",
        "",
        "several \\boxed{",
    ),
    "box before the thought": ("\\boxed{U}</description><think>r</think>", *["no closed \\boxed{"] * 3),
    "thought before the description": (
        "<think>r</think></description>\\boxed{U}",
        "no <think>",
        "",
        "no <think>",
    ),
    "thought closed before it is opened": (
        "d</description></think><think>r\\boxed{U}",
        *["no </think>"] * 3,
    ),
    "junk between the tags": (
        "d</description> so <think>r</think> is \\boxed{U}",
        "",
        "",
        "text in gap_before_think",
    ),
    "junk before the box": (f"d{GO} The answer is \\boxed{{U}}.", "", "", "text in gap_before_box"),
    "junk behind the box": (f"d{GO}\\boxed{{U}} Done.", "", "", "text in after"),
    "description twice": (f"d</description><description>e{GO}\\boxed{{U}}", "", "", "several <description>"),
    "description inside the description": (
        f"<description>d</description>{GO}\\boxed{{U}}",
        "",
        "",
        "several <description>",
    ),
    "thought twice": (f"d{GO}<think>s</think>\\boxed{{U}}", "", "", "several <think>"),
    "thought inside the thought": (
        "d</description><think>r<think>s</think></think>\\boxed{U}",
        "",
        "",
        "several <think>",
    ),
    "box twice": (f"d{GO}\\boxed{{U}} or \\boxed{{L}}", "", "", "several \\boxed{"),
    "whole box, then one that is cut": (f"d{GO}\\boxed{{U}} \\boxed{{L", "", "", "several \\boxed{"),
    "nested box": (f"d{GO}\\boxed{{\\boxed{{U}}}}", "", "", "several \\boxed{"),
    "nested box, the outer one cut": (f"d{GO}\\boxed{{\\boxed{{U}}", "", "", "several \\boxed{"),
    "braces inside the box": (f"d{GO}\\boxed{{\\frac{{1}}{{2}}}}", "", "", ""),
    "braces do not balance": (f"d{GO}\\boxed{{\\frac{{1}}{{2}}", *["no closed \\boxed{"] * 3),
    "escaped brace is no brace": (f"d{GO}\\boxed{{\\{{1, 2\\}}", *["no closed \\boxed{"] * 3),
    "escaped braces inside the box": (f"d{GO}\\boxed{{\\{{1, 2\\}}}}", "", "", ""),
    "escaped backslash, then a brace": (f"d{GO}\\boxed{{a\\\\{{b}}}}", "", "", ""),
    "tags in capitals": ("d</Description><Think>r</Think>\\boxed{U}", *["no </description>"] * 3),
}  # fmt: skip


@pytest.mark.parametrize("case", VALIDITY.values(), ids=VALIDITY.keys())
def test_validity_by_each_checker(case):
    text, *problems = case
    for checker, problem in zip(("paper", "released", "exact"), problems, strict=True):
        spans = find([text], VigosLayout(checker=checker))
        assert (spans.valid, spans.problem) == (not problem, problem), checker


@pytest.mark.parametrize(
    ("prefill", "text", "problem"),
    [
        ("", f"<description>d{GO}\\boxed{{U}}", ""),
        ("", f" \n<description>d{GO}\\boxed{{U}}", ""),
        ("", f"d{GO}\\boxed{{U}}", "no <description> at the beginning"),
        ("", f"Sure! <description>d{GO}\\boxed{{U}}", "no <description> at the beginning"),
        (PREFILL, f"<description>d{GO}\\boxed{{U}}", "several <description>"),
        ("", f"d{GO}\\boxed{{U}}<description>", "no <description> at the beginning"),
        ("<descr", f"iption>d{GO}\\boxed{{U}}", ""),
        ("<description>d</description><think>", "r</think>\\boxed{U}", ""),
    ],
)
def test_prefill_is_part_of_the_turn(prefill, text, problem):
    spans = find([text], VigosLayout(checker="exact"), prefill=prefill)
    assert spans.problem == problem
    assert find([text], prefill=prefill).valid


def test_prefilled_characters_have_no_tokens():
    layout = VigosLayout(delimiters=Delimiters(description_open=A))
    tokens = ["iption>", "d", "</description>", "<think>", "r", "</think>", "\\boxed{", "U", "}"]
    assert find(tokens, layout, prefill="<descr").owners[:2] == (A, D)
    assert find(["<description>", *tokens[1:]], layout, prefill="").owners[:2] == (A, D)
    assert find(["Sure!", "<description>", *tokens[1:]], layout, prefill="").owners[:3] == (_, A, D)
    assert find(tokens[1:], layout).owners[0] == D


OPEN = {
    "cut in the description": (["a red", " dot"], [D, D]),
    "cut behind it": (["d", "</description>", " so"], [D, _, _]),
    "cut in the thought": (["d", "</description>", "<think>", "r", "\\boxed{", "}"], [D, _, _, R, R, R]),
    "cut in the box": (["d", "</description>", "<think>", "r", "</think>", "\\boxed{", "U"], [D, _, _, R, R, A, A]),
    "two boxes": (
        ["d", "</description>", "<think>", "r", "</think>", "\\boxed{", "L", "}", "\\boxed{", "U", "}", "."],
        [D, _, _, R, R, A, A, A, A, A, A, A],
    ),
    "second thought": (
        ["d", "</description>", "<think>", "r", "</think>", "<think>", "s", "</think>", "\\boxed{", "U", "}"],
        [D, _, _, R, R, A, A, A, A, A, A],
    ),
    "token over the border": (["d </", "description>", " <thi", "nk> r", "</think>\\boxed{U", "}"], [D, _, _, _, R, A]),
    "special token in the middle": (["d", "", "</description>", "<think>"], [D, A, _, _]),
    "character cut over tokens": ([b"\xc3", b"\xb6</", b"description>", b"<think>\xe2", b"\x86\x92"], [D, D, _, _, R]),
}  # fmt: skip


@pytest.mark.parametrize(("tokens", "expected"), OPEN.values(), ids=OPEN.keys())
def test_what_is_open_owns_the_rest(tokens, expected):
    assert list(find(tokens).owners) == expected


def test_released_checker_lets_the_thought_come_at_once():
    tokens = ["a dot ", "<think>", "r", "</think>", "\\boxed{", "U", "}"]
    assert list(find(tokens, VigosLayout(checker="released")).owners) == [D, _, R, R, A, A, A]
    assert list(find(tokens).owners) == [D] * 7


@pytest.mark.parametrize(
    ("text", "box"),
    [
        ("\\boxed{U}", (0, 9)),
        ("\\boxed{a} \\boxed{b}", (10, 19)),
        ("\\boxed{\\boxed{b}}", (0, 17)),
        ("{\\boxed{b}", (1, 10)),
        ("}}\\boxed{b}}", (2, 11)),
        ("\\\\boxed{b}", (1, 10)),
        ("\\boxed {b}", None),
        ("\\boxed{", None),
        ("", None),
    ],
)
def test_last_balanced_box(text, box):
    assert last_box(text) == box


MARKS = st.sampled_from(
    ["<description>", "</description>", "<think>", "</think>", "\\boxed{", "}", "{", "\\", "\\{", " ", "é", "d"]
)  # fmt: skip


@given(
    st.lists(MARKS | st.text(max_size=3), max_size=14),
    st.sampled_from(["", PREFILL, "<desc", "\\boxed{"]),
    st.sampled_from(["paper", "released", "exact"]),
    st.randoms(),
)
def test_any_text_however_it_is_cut_has_one_owner_per_token(fragments, prefill, checker, random):
    text = "".join(fragments).encode(errors="replace").decode()
    data, pieces = text.encode(), []
    while data:
        size = random.randint(1, 5)
        pieces.append(data[:size])
        data = data[size:]
        if random.random() < 0.1:
            pieces.append(b"")
    spans = VigosLayout(checker=checker).find(pieces, text, prefill=prefill)
    owned = [sum(flags) for flags in zip(*(spans.mask(name) for name in VIGOS_SPANS), strict=True)]
    assert owned == [1] * len(pieces)
    assert spans.valid == (spans.problem == "")
    turn = cut_turn(prefill + text)
    assert "".join(turn.text[start:end] for _, start, end in turn.parts) == prefill + text


@given(st.lists(MARKS, max_size=14))
def test_what_is_exact_is_valid_for_the_paper_and_what_is_that_is_valid_as_released(fragments):
    text = "".join(fragments)
    exact, paper, released = (
        find([text], VigosLayout(checker=checker)).valid for checker in ("exact", "paper", "released")
    )
    assert exact <= paper <= released


@pytest.mark.parametrize("mark", ["\\boxed{", "{", "\\", "<think>", "</think>"])
def test_thousands_of_marks_are_cut_in_one_pass(mark):
    """Quadratic work on these would take minutes."""
    assert last_box(mark * 100_000) is None
    assert find([f"d{GO}{mark * 3000}"]).problem == "no closed \\boxed{"


def test_text_of_other_tokens_is_refused():
    with pytest.raises(ValueError, match="at character 1"):
        VigosLayout().find([b"ab"], "ax")


def test_unknown_owner_and_checker_are_refused():
    with pytest.raises(ValueError, match="'thought'.*untaught"):
        Delimiters(end="thought")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="paper, released, exact"):
        VigosLayout(checker="strict")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="description, reasoning, answer, untaught"):
        find(GOOD).mask("state")


MGSD = {
    "whole": ("Size: 4.\nRoute: up.\n<answer>U</answer>", ""),
    "answer cut": ("Size: 4.\nRoute: up.\n<answer>U", "no closed answer"),
    "no answer": ("Size: 4.\nRoute: up.", "no closed answer"),
    "no route": ("Size: 4.\n<answer>U</answer>", "empty route"),
    "no state": ("Route: up.\n<answer>U</answer>", "empty state"),
    "nothing": ("", "empty state"),
    "capitals": ("Size: 4.\nRoute: up.\n<ANSWER>U</ANSWER> Done.", ""),
}


@pytest.mark.parametrize(("text", "problem"), MGSD.values(), ids=MGSD.keys())
def test_mgsds_format_is_valid_with_state_route_and_a_closed_answer(text, problem):
    spans = find([text], MgsdLayout(), prefill="")
    assert (spans.valid, spans.problem) == (not problem, problem)

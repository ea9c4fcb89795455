"""The answer grammar: what is read as a plan, and all that is not."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pilotage.worlds import TASKS, Task
from pilotage.worlds.answers import last_answer_block, parse_answer
from pilotage.worlds.boxes import boxed_answer
from pilotage.worlds.judge import REASONS, judge

MOVES = ("L", "D", "R", "U")
FETCH = (*MOVES, "PICK", "DROP")
every_task = pytest.mark.parametrize("task", TASKS, ids=lambda task: task.name)

READ = [
    ("R", "R"),
    ("R D L U", "R D L U"),
    ("R,D,L,U", "R D L U"),
    ("R, D, L, U.", "R D L U"),
    ("r d l u", "R D L U"),
    ("RDLU", "R D L U"),
    ("RRd", "R R D"),
    ("RR.", "R R"),
    ("right down left up", "R D L U"),
    ("Right, Down, LEFT, uP!", "R D L U"),
    ("R -> D -> L", "R D L"),
    ("R->D=>L", "R D L"),
    ("R - D – L — U", "R D L U"),
    ("R|D/L;U:", "R D L U"),
    ("[R, D]", "R D"),
    ("['R', \"D\"]", "R D"),
    ("(R) {D} `L`", "R D L"),
    ("**R D**", "R D"),
    ("\n\tR\r\n D\u00a0L\u3000", "R D L"),
    ("→ ↓ ← ↑", "R D L U"),
    ("→↓←↑", "R D L U"),
    ("➡️⬇️⬅️⬆️", "R D L U"),
    ("→", "R"),
    ("→ → →", "R R R"),
    ("R → D → L", "R D L"),
    ("right → DOWN ➡️ l", "R D L"),
    ("RR → D", "R R D"),
]
UNREAD = [
    ("", "empty_answer"),
    (" \n ", "empty_answer"),
    (" ,.; ", "empty_answer"),
    ("->", "empty_answer"),
    ("(0,1) (1,1)", "unknown_token"),
    ("R (0,1)", "unknown_token"),
    ("R1 D2", "unknown_token"),
    ("1. R 2. D", "unknown_token"),
    ("0 1 2 3", "unknown_token"),
    ("go right", "unknown_token"),
    ("R and D", "unknown_token"),
    ("The plan is R D", "unknown_token"),
    ("rightdown", "unknown_token"),
    ("R > D", "unknown_token"),
    ("R_D", "unknown_token"),
    ("R D?", "unknown_token"),
    ("…", "unknown_token"),
    ("L X", "unknown_token"),
    ("N E S W", "unknown_token"),
    ("PICK", "unknown_token"),
    ("<b>R</b>", "unknown_token"),
    ("\\text{R}", "unknown_token"),
    ("ʟ ᴅ", "unknown_token"),
    ("↗", "unknown_token"),
    ("R ↓", "unknown_token"),
    ("R → ↓", "unknown_token"),
    ("R → → D", "unknown_token"),
    ("→ R → D", "unknown_token"),
    ("R → D →", "unknown_token"),
]


@pytest.mark.parametrize(("block", "plan"), READ, ids=[repr(block) for block, _ in READ])
def test_these_forms_are_read(block: str, plan: str) -> None:
    parsed = parse_answer(f"Route: so.\n<answer>{block}</answer>", MOVES)
    assert parsed.plan == tuple(plan.split())
    assert parsed.problem == ""


@pytest.mark.parametrize(("block", "problem"), UNREAD, ids=[repr(block) for block, _ in UNREAD])
def test_these_forms_are_not_read(block: str, problem: str) -> None:
    parsed = parse_answer(f"R D\n<answer>{block}</answer>", MOVES)
    assert (parsed.plan, parsed.problem) == (None, problem)


@pytest.mark.parametrize(
    ("block", "plan"),
    [
        ("R PICK D DROP", "R PICK D DROP"),
        ("pick, drop.", "PICK DROP"),
        ("PickUp, pick_up", "PICK PICK"),
        ("PICK UP DROP", "PICK U DROP"),
        ("RRD PICK LL DROP", "R R D PICK L L DROP"),
        ("R → PICK → D → DROP", "R PICK D DROP"),
        ("PICK → DROP → U", "PICK DROP U"),
        ("→ PICK ↓ DROP", "R PICK D DROP"),
        ("→ PICK → DROP", "R PICK R DROP"),
        ("PICK → → DROP", "PICK R R DROP"),
        ("PICK ↓ DROP", "PICK D DROP"),
        ("PICK -> DROP", "PICK DROP"),
        ("PICK → DROP", None),
        ("pick → drop.", None),
        ("RPICK", None),
        ("PICKDROP", None),
        ("PICK_DOWN", None),
        ("PI CK", None),
    ],
)
def test_pick_and_drop_are_read_as_documented(block: str, plan: str | None) -> None:
    parsed = parse_answer(f"<answer>{block}</answer>", FETCH)
    assert parsed.plan == (None if plan is None else tuple(plan.split()))


@pytest.mark.parametrize(
    ("text", "block"),
    [
        ("<answer>R</answer>", "R"),
        ("<answer>L</answer> no, <answer>R</answer>", "R"),
        ("<answer>R</answer> and then some, L L", "R"),
        ("<ANSWER>R</Answer>", "R"),
        ("<answer>R</answer><answer>L", "R"),
        ("<answer>L <answer>R</answer>", "R"),
        ("<answer>L<answer>R</answer>U</answer>", "R"),
        ("</answer><answer>R</answer></answer>", "R"),
        ("<answer><answer></answer>", ""),
        ("x<answer>R\nD</answer>x", "R\nD"),
        ("<answer>R", None),
        ("R</answer>", None),
        ("</answer>R<answer>", None),
        ("R D L U", None),
        ("The answer is R.", None),
        ("answer: R", None),
        ("\\boxed{R}", None),
        ("<ans>R</ans>", None),
        ("< answer >R</ answer >", None),
        ("<answer id=1>R</answer>", None),
        ("&lt;answer&gt;R&lt;/answer&gt;", None),
        ("<anſwer>R</anſwer>", None),
        ("", None),
    ],
)
def test_the_last_complete_block_is_the_answer(text: str, block: str | None) -> None:
    assert last_answer_block(text) == block
    if block is None:
        assert parse_answer(text, MOVES).problem == "no_answer_block"


def test_an_action_that_the_task_does_not_have_is_not_read() -> None:
    assert parse_answer("<answer>PICK</answer>", FETCH).plan == ("PICK",)
    assert parse_answer("<answer>PICK</answer>", MOVES).plan is None
    assert parse_answer("<answer>UP</answer>", ("L", "R")).plan is None
    assert parse_answer("<answer>→ ↑</answer>", ("L", "R")).plan is None


@pytest.mark.parametrize(
    "text",
    [
        "<" * 300_000,
        "<answer>" * 40_000,
        "<answer></answer>" * 20_000,
        "</answer>" * 35_000,
        "<answer>" + "R" * 300_000 + "</answer>",
        "<answer>" + "R → " * 60_000 + "D</answer>",
        "<answer>" + "→" * 300_000 + "x</answer>",
        "<answer>" + " " * 300_000 + "?</answer>",
        "<answer>" + "-" * 300_000 + ">?</answer>",
        "<answer>" + "PICK → " * 40_000 + "?</answer>",
        "<answer>" + "[" * 300_000,
        "<answe" * 50_000,
    ],
    ids=lambda text: text[:16],
)
def test_long_trouble_is_read_through(text: str) -> None:
    """A grammar that took quadratic time would not come back from these."""
    parsed = parse_answer(text, FETCH)
    assert (parsed.plan is None) == (parsed.problem != "")


scraps = st.lists(
    st.sampled_from(
        [
            *("<answer>", "</answer>", "<ANSWER>", "</Answer>", "<answer", "answer>", "</", ">"),
            *("L", "R", "u", "Down", "right", "PICK", "pick_up", "DROP", "→", "↓", "➡️", "\ufe0f"),
            *(" ", "\n", ",", ".", "->", "-", "(0,1)", "3", "and", "Route:", "x", "\x00", "🙂"),
        ]
    ),
    max_size=24,
).map("".join)
any_text = (
    st.text(max_size=60) | scraps | st.builds("<answer>{}</answer>".format, st.text(max_size=20) | scraps)
)
ACTION_WORDS = {
    *("L", "LEFT", "←", "⬅", "D", "DOWN", "↓", "⬇", "R", "RIGHT", "→", "➡", "U", "UP", "↑", "⬆"),
    *("PICK", "PICKUP", "PICK_UP", "DROP"),
}


@given(text=any_text)
@example(text="\ud800<answer>\udfff</answer>")
@settings(max_examples=500)
def test_a_parsed_plan_comes_from_a_block_of_nothing_but_actions(text: str) -> None:
    for actions in (MOVES, FETCH):
        parsed = parse_answer(text, actions)
        assert (parsed.plan is None) == (
            parsed.problem in ("no_answer_block", "empty_answer", "unknown_token")
        )
        if parsed.plan is None:
            continue
        assert parsed.plan and set(parsed.plan) <= set(actions)
        block = re.findall(r"(?ia)<answer>((?:(?!</?answer>).)*)</answer>", text.replace("\n", " "))[-1]
        words = re.findall(r"\w+|[←↓→↑⬅⬇➡⬆]", block)
        assert words
        for word in words:
            assert word.upper() in ACTION_WORDS or set(word.upper()) <= set("LDRU")


@given(text=st.text(max_size=200))
@settings(max_examples=300)
def test_text_without_a_closed_block_is_never_parsed(text: str) -> None:
    if "</answer>" not in text.lower():
        assert parse_answer(text, FETCH).problem == "no_answer_block"
        assert parse_answer(f"<answer>R D {text}", FETCH).problem == "no_answer_block"
        assert parse_answer(f"{text} R D</answer>", FETCH).plan is None or "<answer>" in text.lower()


@every_task
@given(text=any_text, seed=st.integers(0, 999))
@settings(max_examples=300)
def test_the_judge_never_raises_and_never_grants_success_by_accident(
    task: Task[Any], text: str, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    state = task.generate(task.levels[0], rng)
    for strict_edges in (False, True):
        verdict = judge(task, state, text, strict_edges=strict_edges)
        assert verdict.reason in REASONS
        if verdict.success:
            plan = parse_answer(text, task.actions).plan
            assert plan is not None and task.execute(state, plan, strict_edges=strict_edges).success
        assert verdict.is_("optimal") <= verdict.success <= (not verdict.is_("illegal"))
    assert verdict.success + verdict.is_("illegal") <= verdict.is_("parsed")


@every_task
@given(before=st.text(max_size=40), after=st.text(max_size=40), seed=st.integers(0, 999))
@settings(max_examples=100)
def test_prose_around_the_block_changes_nothing(task: Task[Any], before: str, after: str, seed: int) -> None:
    state = task.generate(task.levels[0], np.random.default_rng(seed))
    solution = task.solve(state)
    assert solution is not None
    answer = f"<answer>{' '.join(solution.plan)}</answer>"
    verdict = judge(task, state, f"{before} R D {answer} L U {after}")
    assert verdict.is_("optimal") or "answer>" in (before + after).lower()
    unmarked = judge(task, state, f"{before} {' '.join(solution.plan)} {after}")
    assert not unmarked.is_("parsed") or "answer>" in (before + after).lower()


@pytest.mark.parametrize(
    "block",
    [
        "\uff32 \uff24",
        "\uff32\uff0c\uff24",
        "R\u3001D",
        "R\u3002 D",
        "R\u3000D",
        "R\u00a0D",
        "R\u200bD",
        "\ufeffR D\u200d",
        "\u200eR\u200f,\u2060D",
        "\uff32\uff29\uff27\uff28\uff34 down",
        "\uff08\uff32\uff09\u2192\uff08\uff24\uff09",
        "\uff32\uff0d\uff1e\uff24",
    ],
)
def test_wide_characters_are_what_they_are_wide_versions_of_and_those_without_width_are_nothing(
    block: str,
) -> None:
    assert parse_answer(f"<answer>{block}</answer>", MOVES).plan == ("R", "D")


@pytest.mark.parametrize(
    ("response", "block"),
    [
        ("<think>Maybe <answer>R</answer> works? Row 2", None),
        ("Maybe <answer>R</answer>?</think>\nI cannot find a plan.", None),
        ("<think>a</think><think>perhaps <answer>R</answer> but", None),
        ("<think>Try <answer>D</answer>. Hole.</think>\n<answer>R</answer>", "R"),
        ("<answer>D</answer> <think>no:</think> <answer>R</answer>", "R"),
        ("<answer>R</answer><think>", None),
        ("<THINK><answer>D</answer></THINK><answer>R</answer>", "R"),
        ("<think>a <think> b</think><answer>R</answer>", "R"),
        ("<think>a</think>b</think><answer>R</answer>", "R"),
        ("<think>a</think><answer>R</answer></think>", None),
        ("I think> <answer>R</answer>", "R"),
        ("Ich denke: <think>\u00fc <answer>D</answer></think> <answer>R</answer> \u00fc", "R"),
    ],
)
def test_only_what_stands_behind_the_last_closed_thought_answers(response: str, block: str | None) -> None:
    assert last_answer_block(response) == block
    assert boxed_answer(response.replace("<answer>", "\\boxed{").replace("</answer>", "}")) == block


def test_a_response_of_tags_is_read_in_one_pass() -> None:
    for tags in ("<think>" * 100_000, "</think>" * 100_000, "<think></think>" * 50_000):
        assert last_answer_block(tags) is None
        assert last_answer_block(tags + "</think><answer>R</answer>") == "R"

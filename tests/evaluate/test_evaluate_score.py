"""Reading a state out of a response, and what counts as right."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pilotage.views import reference_of_view
from pilotage.worlds import TASKS, get_task
from pilotage.worlds.grids.views import VIEWS
from pilotage.worlds.score import DESCRIBE, read_fields, read_recital, same_text, score, split_items
from pilotage.worlds.task import Task
from synthetic_run import make_examples, state_of

LAKE = get_task("frozenlake")
LAKE_STATE = LAKE.parse_state({"map": ["SFF", "FHF", "FFG"]})
LAKE_NAMES = ("Size", "Player", "Goal", "Holes")
ROOM_NAMES = ("Size", "Agent", "Printer", "Table", "Beside printer", "Beside table", "Legal")


DESCRIBING_VIEWS = ("perception", "description")


def role_of(view: str) -> str:
    return DESCRIBE if view in DESCRIBING_VIEWS else "plan"


@pytest.mark.parametrize("view", sorted(VIEWS))
@pytest.mark.parametrize("example", make_examples(3), ids=lambda example: example.id)
def test_the_reference_answer_is_right_in_every_field(example: Any, view: str) -> None:
    task = get_task(example.task)
    role = role_of(view)
    scored = score(task, state_of(example), reference_of_view(example, view), role=role)
    assert scored.success and scored.all_right
    assert list(scored.right) == list(
        task.facts(state_of(example)) if view in DESCRIBING_VIEWS else task.recital(state_of(example))
    )
    assert ("optimal" in scored.measures) == (role == "plan")


def test_fields_are_read_by_name_and_the_last_one_counts() -> None:
    text = "1. Size: 4.\n2. Player: (2,0).\n3. Goal: (1,3).\n4. Holes: (0,1) (3,2).\nNo, Player: (2,1)."
    assert read_fields(text, LAKE_NAMES) == {
        "Size": "4",
        "Player": "(2,1)",
        "Goal": "(1,3)",
        "Holes": "(0,1) (3,2)",
    }


def test_a_longer_name_is_not_read_as_the_shorter_one_inside_it() -> None:
    fields = read_fields("Beside printer: (0,1). beside TABLE: none.", ROOM_NAMES)
    assert fields == {"Beside printer": "(0,1)", "Beside table": "none"}


def test_numbered_lines_without_names_are_read_by_their_number() -> None:
    assert read_fields("1. 4.\n2) (2,0)\n9. (7,7)\n4. Holes: none", LAKE_NAMES) == {
        "Size": "4",
        "Player": "(2,0)",
        "Holes": "none",
    }


def test_markdown_is_ignored() -> None:
    assert read_fields("1. **Size**: 4\n2. **Player:** `(2,0)`", LAKE_NAMES)["Player"] == "(2,0)"


def test_the_recital_ends_where_the_answer_begins() -> None:
    text = "Size: 3. Player: (0,0).\n<ANSWER>Player: (9,9)</ANSWER>"
    assert read_recital(text, LAKE_NAMES) == {"Size": "3", "Player": "(0,0)"}


@pytest.mark.parametrize(
    ("read", "truth", "same"),
    [
        ("(3,2) (0,1)", "(0,1) (3,2)", True),
        ("( 0, 1 ),(3,2)", "(0,1) (3,2)", True),
        ("(0,1)", "(0,1) (3,2)", False),
        ("(0,1) (3,2) (3,2)", "(0,1) (3,2)", False),
        ("(0,0) DR (0,1) L", "(0,0) RD (0,1) L", True),
        ("(0,0) R D (0,1) L", "(0,0) RD (0,1) L", True),
        ("(0,0) L (0,1) RD", "(0,0) RD (0,1) L", False),
        ("NONE", "none", True),
        ("", "none", False),
        ("14", "4", False),
        ("R L", "L R", True),
        ("LR", "L R", False),
    ],
)
def test_a_text_is_right_when_it_holds_the_same_items(read: str, truth: str, same: bool) -> None:
    assert same_text(read, truth) is same


def test_items_keep_their_order_and_what_is_said_of_each() -> None:
    assert split_items("(0,1) (0,0) L R") == [("(0,1)", ""), ("(0,0)", "LR")]
    assert split_items("none") == [("", "NONE")]


def test_one_wrong_field_fails_perception_and_is_named() -> None:
    answer = "1. Size: 3.\n2. Player: (0,0).\n3. Goal: (2,1).\n4. Holes: (1,1)."
    scored = score(LAKE, LAKE_STATE, answer, role=DESCRIBE)
    assert not scored.success
    assert scored.right == {"Size": True, "Player": True, "Goal": False, "Holes": True}
    assert scored.fields["Goal"] == "(2,1)"


def test_a_plan_can_succeed_beside_a_wrong_recital() -> None:
    scored = score(LAKE, LAKE_STATE, "Size: 3. Player: (1,0).\nRoute.\n<answer>R R D D</answer>")
    assert scored.is_("optimal") and scored.success
    assert scored.right == {"Size": True, "Player": False, "Goal": False, "Holes": False}


def test_strict_edges_reach_the_judge() -> None:
    answer = "<answer>U R R D D</answer>"
    assert score(LAKE, LAKE_STATE, answer).success
    assert not score(LAKE, LAKE_STATE, answer, strict_edges=True).success


FRAGMENTS = st.sampled_from(
    [
        "Size: 3.",
        "Player",
        ":",
        "(0,0)",
        "(",
        ",",
        "1.",
        "\n",
        "<answer>",
        "</answer>",
        "R",
        "ſize:",
        "İ",
        "\ud800",
    ]
)


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.name)
@given(text=st.text() | st.lists(FRAGMENTS).map(" ".join) | st.lists(FRAGMENTS).map("".join))
def test_no_text_raises_or_is_right_by_accident(task: Task[Any], text: str) -> None:
    state = state_of(next(e for e in EXAMPLES if e.task == task.name))
    for view in ("student", "perception"):
        assert not score(task, state, text, role=role_of(view)).all_right


EXAMPLES = make_examples(1, seed=1)


@pytest.mark.parametrize(
    "unit",
    ["Size:", "(0,0) L ", "( ", "Size ", " ", "<answer>", "1.", "*_`", "Beside ", "9" * 50, "Open: (0,0) "],
)
def test_endless_answers_are_read_in_linear_time(unit: str) -> None:
    text = unit * (400_000 // len(unit))  # minutes, were any step quadratic
    for view in ("student", "perception"):
        assert not score(LAKE, LAKE_STATE, text, role=role_of(view)).success

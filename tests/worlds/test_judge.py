"""One verdict for each way an answer can end, worked out by hand."""

from __future__ import annotations

from typing import Any

import pytest

from pilotage.worlds import get_task
from pilotage.worlds.judge import REASONS, judge, judge_plan, plan_outcome

LAKE = {"map": ["SFF", "FHF", "FFG"]}
# (0,0) (0,1)-(0,2)     every cell but (1,1) is on a ring that is cut above (0,1)'s left side
#   |           |
# (1,0)-(1,1) (1,2)
#   |           |
# (2,0)-(2,1)-(2,2)
MAZE = {"start": [0, 0], "target": [2, 2], "walls": [[13, 7, 9], [4, 11, 12], [6, 3, 10]]}
# agent at (0,0), printer at (0,2), table below:   A . P . .
#                                                  . . . . .
#                                                  T T T . .
#                                                  T T T . .
ROOM = {
    "level": 5,
    "agent": [0, 0],
    "printer": [0, 2],
    "table": [[2, 0], [2, 1], [2, 2], [3, 0], [3, 1], [3, 2]],
}
STATES: dict[str, Any] = {"frozenlake": LAKE, "maze": MAZE, "minibehaviour": ROOM}

# task, answer block (None: no block), legal, success, optimal, num_executed, reason
TABLE = [
    ("frozenlake", None, False, False, False, 0, "no_answer_block"),
    ("frozenlake", "", False, False, False, 0, "empty_answer"),
    ("frozenlake", "R (0,1)", False, False, False, 0, "unknown_token"),
    ("frozenlake", "R R D D", True, True, True, 4, "success"),
    ("frozenlake", "D D R R", True, True, True, 4, "success"),
    ("frozenlake", "R R D D L L L", True, True, True, 4, "success"),
    ("frozenlake", "U R R D D", True, True, False, 5, "success"),
    ("frozenlake", "R L R R D D", True, True, False, 6, "success"),
    ("frozenlake", "R D D D", False, False, False, 2, "hole"),
    ("frozenlake", "R R D", True, False, False, 3, "not_reached"),
    ("frozenlake", "U U U U", True, False, False, 4, "not_reached"),
    ("maze", "D D R R", True, True, True, 4, "success"),
    ("maze", "D R L D R R", True, True, False, 6, "success"),
    ("maze", "R", False, False, False, 1, "wall"),
    ("maze", "D R R", False, False, False, 3, "wall"),
    ("maze", "U", False, False, False, 1, "wall"),
    ("maze", "D D R", True, False, False, 3, "not_reached"),
    ("minibehaviour", "R PICK D DROP", True, True, True, 4, "success"),
    ("minibehaviour", "R PICK D DROP DROP", True, True, True, 4, "success"),
    ("minibehaviour", "R PICK R D DROP", True, True, False, 5, "success"),
    ("minibehaviour", "L", False, False, False, 1, "off_board"),
    ("minibehaviour", "D D", False, False, False, 2, "object"),
    ("minibehaviour", "R R", False, False, False, 2, "object"),
    ("minibehaviour", "PICK", False, False, False, 1, "bad_pick"),
    ("minibehaviour", "R PICK PICK", False, False, False, 3, "bad_pick"),
    ("minibehaviour", "D DROP", False, False, False, 2, "bad_drop"),
    ("minibehaviour", "R PICK DROP", False, False, False, 3, "bad_drop"),
    ("minibehaviour", "R PICK D", True, False, False, 3, "not_reached"),
]


@pytest.mark.parametrize(
    ("name", "block", "legal", "success", "optimal", "num_executed", "reason"),
    TABLE,
    ids=[f"{name}-{block}" for name, block, *_ in TABLE],
)
def test_an_answer_gets_the_verdict_worked_out_by_hand(
    name: str, block: str | None, legal: bool, success: bool, optimal: bool, num_executed: int, reason: str
) -> None:
    task = get_task(name)
    text = "R R D D" if block is None else f"The state.\nRoute: so.\n<answer>{block}</answer>"
    assert judge(task, task.parse_state(STATES[name]), text) == plan_outcome(
        parsed=reason not in ("no_answer_block", "empty_answer", "unknown_token"),
        legal=legal,
        success=success,
        optimal=optimal,
        num_executed=num_executed,
        reason=reason,
    )


def test_the_table_covers_every_reason() -> None:
    assert {reason for *_, reason in TABLE} == set(REASONS)


def test_a_step_off_the_lake_is_wasted_or_with_strict_edges_fails() -> None:
    task = get_task("frozenlake")
    state = task.parse_state(LAKE)
    answer = "<answer>U R R D D</answer>"
    lenient = judge(task, state, answer)
    assert (lenient.success, lenient.is_("optimal"), lenient.measures["num_executed"]) == (True, False, 5)
    strict = judge(task, state, answer, strict_edges=True)
    assert (strict.success, strict.is_("illegal"), strict.measures["num_executed"], strict.reason) == (
        False,
        True,
        1,
        "off_board",
    )
    inside = judge(task, state, "<answer>R R D D R</answer>", strict_edges=True)
    assert (inside.success, inside.is_("optimal")) == (True, True)


@pytest.mark.parametrize("name", ["maze", "minibehaviour"])
def test_strict_edges_change_nothing_where_an_edge_always_fails(name: str) -> None:
    task = get_task(name)
    state = task.parse_state(STATES[name])
    for row_name, block, *_ in TABLE:
        if row_name == name:
            text = f"<answer>{block}</answer>"
            assert judge(task, state, text) == judge(task, state, text, strict_edges=True)


def test_a_plan_is_judged_as_its_answer_is() -> None:
    task = get_task("minibehaviour")
    state = task.parse_state(ROOM)
    for plan in (["R", "PICK", "D", "DROP"], ["R", "R"], []):
        answered = judge(task, state, f"<answer>{' '.join(plan)}</answer>")
        if plan:
            assert judge_plan(task, state, plan) == answered
        else:
            assert judge_plan(task, state, plan).reason == "not_reached"


def test_an_unsolvable_state_is_judged_too() -> None:
    task = get_task("frozenlake")
    state = task.parse_state({"map": ["SH", "HG"]})
    verdict = judge(task, state, "<answer>R D</answer>")
    assert (verdict.success, verdict.reason) == (False, "hole")


def test_a_verdict_is_written_with_all_its_fields() -> None:
    task = get_task("frozenlake")
    verdict = judge(task, task.parse_state(LAKE), "<answer>R D</answer>")
    assert verdict.as_dict() == {
        "parsed": True,
        "illegal": True,
        "success": False,
        "optimal": False,
        "num_executed": 2,
        "reason": "hole",
    }

"""Whose fault a failed answer is: by hand, and recovered from answerers whose faults are planted."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pilotage.errors import PilotageError
from pilotage.evaluate import evaluate, rows_path
from pilotage.evaluate.attribution import FAULTS, Attribution, attribute, attribute_all, count_faults
from pilotage.evaluate.bootstrap import bootstrap_mean
from pilotage.worlds import TASKS
from planted import PlantedEngine, misreadable
from synthetic_run import make_examples

EXAMPLES = misreadable(make_examples(80, seed=5))

# S F F
# F H F
# F F G
LAKE = {"map": ["SFF", "FHF", "FFG"]}
TRUE = "Size: 3. Player: (0,0). Goal: (2,2). Holes: (1,1)."
NO_HOLE = "Size: 3. Player: (0,0). Goal: (2,2). Holes: none."
NEAR_GOAL = "Size: 3. Player: (0,0). Goal: (0,2). Holes: (1,1)."
WALLED_IN = "Size: 3. Player: (0,0). Goal: (2,2). Holes: (0,1) (1,0)."


def row(response: str, **more: Any) -> dict[str, Any]:
    return {"id": "a", "task": "frozenlake", "state": LAKE, "response": response, "finished": True} | more


def answer(recited: str, plan: str) -> str:
    return f"{recited}\nRoute: (0,0).\n<answer>{plan}</answer>"


@pytest.mark.parametrize(
    ("response", "fault", "detail", "misread", "as_read"),
    [
        (answer(TRUE, "R R D D"), "none", "", (), "success"),
        # The hole that it did not see lies elsewhere on its way: through (0,1), not (1,1).
        (answer(NO_HOLE, "R R D D"), "none", "lucky", ("Holes",), "success"),
        (answer("", "R R D D"), "none", "unread", (), ""),
        (answer(NO_HOLE, "R D D R"), "misread", "", ("Holes",), "success"),
        (answer(NEAR_GOAL, "R R"), "misread", "", ("Goal",), "success"),
        (answer(TRUE, "R D"), "misplanned", "hole", (), "hole"),
        (answer(TRUE, "R R"), "misplanned", "not_reached", (), "not_reached"),
        (answer(NEAR_GOAL, "R"), "both", "not_reached", ("Goal",), "not_reached"),
        (answer(NEAR_GOAL, "R D"), "both", "hole", ("Goal",), "hole"),
        (answer(WALLED_IN, "R R"), "both", "no_way", ("Holes",), "hole"),
        (answer("Goal: (7,7).", "R R"), "both", "no_state", ("Goal",), ""),
        (answer("", "R R"), "format", "nothing_recited", (), ""),
        (f"{TRUE} I go right.", "format", "no_answer_block", (), ""),
        (f"{NO_HOLE} I go right.", "format", "no_answer_block", ("Holes",), ""),
        (answer(TRUE, "(0,1)"), "format", "unknown_token", (), ""),
        (answer(TRUE, ""), "format", "empty_answer", (), ""),
        ("", "format", "no_answer_block", (), ""),
    ],
)
def test_faults_by_hand(
    response: str, fault: str, detail: str, misread: tuple[str, ...], as_read: str
) -> None:
    found = attribute(row(response))
    assert (found.fault, found.detail, found.misread_fields) == (fault, detail, misread)
    assert found.reason_as_read == as_read
    assert found.lucky == (detail == "lucky")


def test_a_field_that_is_left_out_is_missing_and_not_misread() -> None:
    found = attribute(row(answer("Size: 3. Player: (0,0). Holes: none.", "R R")))
    assert (found.misread_fields, found.missing_fields) == (("Holes",), ("Goal",))
    assert found.unseen_fields == ("Holes", "Goal")
    assert (found.fault, found.detail) == ("both", "no_state")


def test_an_answer_cut_at_the_token_limit_is_told_apart() -> None:
    assert attribute(row(TRUE, finished=False)).detail == "cut_short"
    assert attribute(row(answer(TRUE, "R"), finished=False)).fault == "misplanned"


def test_a_row_that_the_engine_failed_on_is_an_error_whatever_it_holds() -> None:
    assert attribute(row(answer(TRUE, "R R D D"), error="TimeoutError")) == Attribution(fault="error")


def test_a_bump_is_a_fault_only_under_strict_edges() -> None:
    bump = answer(TRUE, "U R R D D")
    assert attribute(row(bump)).fault == "none"
    strict = attribute(row(bump, settings={"strict_edges": True}))
    assert (strict.fault, strict.detail) == ("misplanned", "off_board")


def test_a_perception_row_has_no_plan_to_be_at_fault() -> None:
    with pytest.raises(PilotageError, match="'perception', which asks for no plan"):
        attribute(row(TRUE, condition="perception"))
    with pytest.raises(PilotageError, match="has no 'state'"):
        attribute({"task": "maze", "response": ""})


@pytest.mark.parametrize("known", [{}, {"outcome": None}, {"outcome": {"success": True}}, {"fields": [1]}])
def test_scores_that_a_file_holds_in_another_form_are_made_again(known: dict[str, Any]) -> None:
    assert attribute(row(answer(NO_HOLE, "R D D R"), **known)).fault == "misread"


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.name)
@given(text=st.text(max_size=80) | st.text("SizePlayergoHntb:0123456789(), .\n<answer>/LDRU", max_size=200))
@settings(max_examples=60)
def test_any_response_has_one_fault(task: Any, text: str) -> None:
    state = next(example.state for example in EXAMPLES if example.task == task.name)
    found = attribute({"task": task.name, "state": state, "response": text})
    assert found.fault in FAULTS and found.fault != "error"
    json.dumps(found.as_dict())


PLANTED = [(0.3, 0.0, 0.0), (0.0, 0.25, 0.0), (0.2, 0.3, 0.1), (0.6, 0.5, 0.05)]


def expected_shares(p: float, q: float, r: float) -> dict[str, float]:
    whole = 1 - r
    return {
        "none": whole * (1 - p) * (1 - q),
        "misread": whole * p * (1 - q),
        "misplanned": whole * (1 - p) * q,
        "both": whole * p * q,
        "format": r,
        "error": 0.0,
    }


def measured(rates: tuple[float, float, float], out: Path) -> tuple[PlantedEngine, list[dict[str, Any]]]:
    p, q, r = rates
    engine = PlantedEngine(EXAMPLES, misread=p, misplan=q, garble=r, seed=round(1000 * (p + 7 * q)))
    evaluate(
        engine,  # pyright: ignore[reportArgumentType]
        EXAMPLES,
        stage="planted",
        prompts="brief",
        max_new_tokens=500,
        out=out,
        conditions=("image",),
    )
    lines = rows_path(out, "planted", "image").read_text().splitlines()
    return engine, [json.loads(line) for line in lines]


@pytest.mark.parametrize("rates", PLANTED, ids=str)
def test_planted_faults_are_recovered_one_by_one(rates: tuple[float, float, float], tmp_path: Path) -> None:
    engine, rows = measured(rates, tmp_path)
    assert len(rows) == len(EXAMPLES)
    for each in rows:
        assert attribute(each).fault == engine.planted[each["id"], "student"], each["response"]


def test_planted_rates_lie_within_their_intervals(tmp_path: Path) -> None:
    """95 % intervals, over tasks, rates and faults: at least nine in ten hold the rate that was planted."""
    held: Counter[bool] = Counter()
    for i, rates in enumerate(PLANTED):
        _, rows = measured(rates, tmp_path / str(i))
        attributed = attribute_all(rows)
        for task in TASKS:
            counts = count_faults([each for each in attributed if each[0]["task"] == task.name])
            assert sum(counts.counts.values()) == counts.num_answers
            for fault, expected in expected_shares(*rates).items():
                share = counts.shares[fault]
                assert share.mean == counts.counts[fault] / counts.num_answers
                held[share.low <= expected <= share.high] += 1
            goal = counts.fields["Printer" if "Printer" in counts.fields else "Goal"]
            # A garbled answer recites too, so the misread share is the planted p itself.
            assert goal.unseen is not None
            held[goal.unseen.low <= rates[0] <= goal.unseen.high] += 1
            assert goal.num_in_faults == counts.counts["misread"] + counts.counts["both"]
            others = [field for name, field in counts.fields.items() if field is not goal]
            assert all(field.num_in_faults == 0 for field in others)
    assert sum(held.values()) == len(PLANTED) * len(TASKS) * 7
    assert held[True] / sum(held.values()) >= 0.9, held


def test_nothing_is_said_of_fields_that_no_answer_recites() -> None:
    counts = count_faults(attribute_all([row("I see a lake."), row("<answer>R R D D</answer>")]))
    assert counts.num_recited == 0
    assert {field.unseen for field in counts.fields.values()} == {None}
    assert counts.as_dict()["fields"]["Goal"] == {"unseen": None, "num_in_faults": 0}


def test_counts_by_hand() -> None:
    rows = [
        row(answer(TRUE, "R R D D"), id="a"),
        row(answer(NO_HOLE, "R R D D"), id="b"),
        row(answer(NEAR_GOAL, "R R"), id="c"),
        row(answer(WALLED_IN, "R R"), id="d"),
        row("", id="e", error="down"),
    ]
    counts = count_faults(attribute_all(rows))
    assert counts.counts == {"none": 2, "misread": 1, "misplanned": 0, "both": 1, "format": 0, "error": 1}
    assert (counts.num_answers, counts.num_lucky) == (5, 1)
    assert counts.details == {"none": {"lucky": 1}, "both": {"no_way": 1}}
    assert counts.shares["none"] == bootstrap_mean([1, 1, 0, 0, 0])
    # Misread in b and d, at fault in d alone; e recites nothing.
    assert counts.num_recited == 4
    assert counts.fields["Holes"].unseen is not None
    assert counts.fields["Holes"].unseen.mean == pytest.approx(0.5)
    assert counts.fields["Holes"].num_in_faults == 1
    assert counts.fields["Goal"].num_in_faults == 1
    assert json.loads(json.dumps(counts.as_dict()))["counts"]["both"] == 1


def test_several_answers_to_an_example_are_resampled_together() -> None:
    rows = [row(answer(TRUE, "R R D D" if i % 2 else "R"), id=f"e{i // 4}", sample=i % 4) for i in range(40)]
    counts = count_faults(attribute_all(rows))
    assert (counts.num_answers, counts.counts["misplanned"]) == (40, 20)
    share = counts.shares["misplanned"]
    # Every example has two of each: nothing varies between examples.
    assert (share.n, share.low, share.mean, share.high) == (10, 0.5, 0.5, 0.5)

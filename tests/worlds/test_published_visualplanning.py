"""VisualPlanning's lines: states, reference paths, and what is wrong with them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pilotage.data.source import Level, Malformed
from pilotage.errors import PilotageError
from pilotage.worlds import get_task
from pilotage.worlds.grids.data import VisualPlanning
from published_forms import VISUALPLANNING, visualplanning_row, write_lines

LAKE: dict[str, Any] = {
    "input_tokens": [1],
    "output_tokens": [2],
    "input_state": [8, 7, 4],
    "meta": {
        "start_pos": 8,
        "target_pos": 4,
        "layout": [["F", "H", "F"], ["F", "G", "H"], ["F", "F", "S"]],
        "distance_map": {"8": 2, "3": 1, "6": 2, "7": 1},
        "level": 3,
    },
}
# A U-shaped corridor: (0,0) opens down, (1,0) up and right, (1,1) left and up, (0,1) down.
MAZE: dict[str, Any] = {
    "input_state": [0, 2, 3, 1],
    "meta": {
        "start_pos": 0,
        "target_pos": 1,
        "layout": [[13, 13], [6, 10]],
        "distance_map": {"0": 3, "2": 2, "3": 1},
        "level": 2,
    },
}
SPELT = [
    [{"north": True, "south": False, "west": True, "east": True}] * 2,
    [
        {"north": False, "south": True, "west": True, "east": False},
        {"north": False, "south": True, "west": False, "east": True},
    ],
]
ROOM: dict[str, Any] = {
    "input_state": [
        [[0, 1], False],
        [[1, 1], False],
        [[2, 1], False],
        [[2, 1], True],
        [[2, 1], False],
    ],
    "meta": {
        "level": 5,
        "start_pos": [0, 1],
        "start_dir": 3,
        "printer_pos": [2, 2],
        "table_pos": [[3, 0], [4, 0], [3, 1], [4, 1], [3, 2], [4, 2]],
        "printer_neighbors": [[1, 2], [2, 1], [2, 3]],
        "table_neighbors": [[2, 0], [2, 1]],
        "distance_map_to_printer": {"(1, 2)": {"(0, 0)": 3}},
        "best_paths": [[[2, 1], [2, 1]]],
        "idx": 504,
    },
}
STATES: dict[str, Any] = {
    "frozenlake": {"map": ["FHF", "FGH", "FFS"]},
    "maze": {"start": [0, 0], "target": [0, 1], "walls": [[13, 13], [6, 10]]},
    "minibehaviour": {
        "level": 5,
        "agent": [0, 1],
        "printer": [2, 2],
        "table": [[3, 0], [3, 1], [3, 2], [4, 0], [4, 1], [4, 2]],
    },
}
CASES = [
    ("frozenlake", LAKE, "L U", 2),
    ("maze", MAZE, "D R U", 3),
    ("minibehaviour", ROOM, "D D PICK DROP", None),
]


def read_one(tmp_path: Path, row: Any) -> Level | Malformed:
    [piece] = VisualPlanning().read(write_lines(tmp_path / "levels.jsonl", [row]))
    return piece


def changed(row: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """The row with other values in `meta`; `input_state` is the row's own."""
    path = {"input_state": changes.pop("input_state")} if "input_state" in changes else {}
    meta = {name: value for name, value in (row["meta"] | changes).items() if value is not KeyError}
    return row | path | {"meta": meta}


@pytest.mark.parametrize(("name", "row", "plan", "claimed"), CASES, ids=[case[0] for case in CASES])
def test_a_line_written_by_hand_is_its_state_and_its_path_a_plan(
    tmp_path: Path, name: str, row: dict[str, Any], plan: str, claimed: int | None
) -> None:
    level = read_one(tmp_path, row)
    assert isinstance(level, Level)
    assert (level.task.name, level.task.to_json(level.state)) == (name, STATES[name])
    assert (level.plan, level.plan_problem) == (tuple(plan.split()), "")
    assert (level.claimed_length, level.picture) == (claimed, None)
    assert str(level.place) == "levels.jsonl line 1"


@pytest.mark.parametrize(
    "layout", [SPELT, [13, 13, 6, 10], [*SPELT[0], *SPELT[1]]], ids=["spelt", "flat", "both"]
)
def test_walls_may_be_spelt_or_flat(tmp_path: Path, layout: Any) -> None:
    level = read_one(tmp_path, changed(MAZE, layout=layout))
    assert isinstance(level, Level) and level.task.to_json(level.state) == STATES["maze"]


SPOILT: list[tuple[Any, str]] = [
    ("nonsense", "not JSON"),
    ('{"input_state": [8, 7', "not JSON"),
    ("[" * 100_000, "nested too deeply"),
    ([1], "a row is a JSON object, not an array"),
    ({"task": "maze"}, "the row has no meta; it has ['task']"),
    ({"meta": {"level": 3}}, "the row has no input_state"),
    (LAKE | {"meta": [1]}, "meta is [1], not an object"),
    (LAKE | {"input_state": 8}, "input_state is 8, not a list"),
    (changed(LAKE, level=KeyError), "meta has no level"),
    (changed(LAKE, level=True), "meta.level is True"),
    (changed(LAKE, level=10**9), "meta.level is 1000000000"),
    (changed(LAKE, level=4), "meta.layout is 3 rows, not 4 rows"),
    (changed(LAKE, layout="SFG"), "meta.layout is 'SFG', not 3 rows"),
    (
        changed(LAKE, layout=[["S", "F", "G"], ["F"], ["F", "F", "F"]]),
        "meta.layout row 1 is ['F'], not 3 cells",
    ),
    (changed(LAKE, layout=[["S", "F", "G"], ["F", 1, "F"], ["F", "F", "F"]]), "not one letter each"),
    (changed(LAKE, layout=[["S", "F", "G"], ["F", "SF", "F"], ["F", "F", "F"]]), "not one letter each"),
    (changed(LAKE, layout=[["F", "H", "F"], ["F", "G", "X"], ["F", "F", "S"]]), "row 1 column 2 is 'X'"),
    (changed(LAKE, start_pos=6), "meta.start_pos is row 2, column 0, but meta.layout has it at (2, 2)"),
    (changed(LAKE, target_pos=0), "meta.target_pos is row 0, column 0, but"),
    (changed(LAKE, start_pos=9), "start_pos is 9, not a cell index from 0 to 8"),
    (changed(LAKE, start_pos=[2, 2]), "start_pos is [2, 2], not a cell index"),
    (changed(LAKE, layout=KeyError), "meta has no layout"),
    (changed(MAZE, layout=[[13, 13], [6, 16]]), "walls[1][1] is 16, not a mask"),
    (changed(MAZE, layout=[[13, 13], [6, 8]]), "leaves the border open"),
    (changed(MAZE, layout=[[13, 13], [14, 10]]), "disagree about the wall between"),
    (changed(MAZE, layout=[SPELT[0], [{"north": True}] * 2]), "walls[1][0] is {'north': True}, not a mask"),
    (changed(MAZE, target_pos=0), "start and target are both"),
    (changed(ROOM, printer_pos=[2, 9]), "printer [2, 9] lies outside the 5x5 grid"),
    (changed(ROOM, printer_pos=[3, 1]), "must not share a cell"),
    (changed(ROOM, table_pos=[[3, 0], [4, 0]]), "is not a block of 2 rows"),
    (changed(ROOM, table_pos=KeyError), "meta has no table_pos"),
]


@pytest.mark.parametrize(("row", "complaint"), SPOILT)
def test_a_line_that_is_no_level_is_malformed(tmp_path: Path, row: Any, complaint: str) -> None:
    found = read_one(tmp_path, row)
    assert isinstance(found, Malformed), found
    assert complaint in found.problem
    assert str(found.place) == "levels.jsonl line 1"


@pytest.mark.parametrize(
    ("row", "path", "complaint"),
    [
        (LAKE, [], "input_state begins with None"),
        (LAKE, [7, 4], "input_state begins with ((2, 1), False), not with the start"),
        (LAKE, [8, 4], "no action leads from input_state[0] (2, 2) to input_state[1] (1, 1)"),
        (LAKE, [8, 8], "no action leads from"),
        (LAKE, [8, 9], "input_state[1] is 9"),
        (LAKE, [8, True], "input_state[1] is True"),
        (ROOM, [[0, 1]], "input_state[0] is [0, 1], not [[row, column], carrying]"),
        (ROOM, [[[0, 1], False], [[1, 1], True]], "no action leads from"),
        (ROOM, [[[0, 1], 0]], "not [[row, column], carrying]"),
    ],
)
def test_a_path_that_cannot_be_walked_is_told_and_the_level_kept(
    tmp_path: Path, row: dict[str, Any], path: list[Any], complaint: str
) -> None:
    level = read_one(tmp_path, row | {"input_state": path})
    assert isinstance(level, Level)
    assert level.plan is None
    assert complaint in level.plan_problem


def test_every_line_has_its_number_and_blank_ones_count(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "x.jsonl", [LAKE, "", "nonsense", MAZE, ROOM])
    found = list(VisualPlanning().read(path))
    assert [piece.place.line for piece in found] == [1, 3, 4, 5]
    assert [isinstance(piece, Level) for piece in found] == [True, False, True, True]


def test_a_clone_s_test_levels_are_read_and_its_training_levels_left_alone(tmp_path: Path) -> None:
    for name, row, *_ in CASES:
        path = write_lines(tmp_path / VISUALPLANNING.format(name), [row])
        write_lines(path.with_name("train_dataset.jsonl"), [row, row])
    training = tmp_path / VISUALPLANNING.format("maze").replace("test_", "train_")
    assert VisualPlanning().finds(tmp_path)
    names = [piece.task.name for piece in VisualPlanning().read(tmp_path) if isinstance(piece, Level)]
    assert names == ["frozenlake", "maze", "minibehaviour"]
    assert len(list(VisualPlanning().read(training))) == 2


def test_a_folder_without_lines_is_one_clear_error(tmp_path: Path) -> None:
    write_lines(tmp_path / "train_dataset.jsonl", [LAKE])
    assert not VisualPlanning().finds(tmp_path)
    with pytest.raises(PilotageError, match="holds no VisualPlanning levels"):
        list(VisualPlanning().read(tmp_path))


Anything = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 20) | st.floats() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=10,
)


@given(case=st.sampled_from(CASES), data=st.data())
def test_anything_in_any_field_is_a_level_or_malformed(
    tmp_path: Path, case: Any, data: st.DataObject
) -> None:
    row, value = case[1], data.draw(Anything)
    name = data.draw(st.sampled_from(["input_state", *row["meta"]]))
    spoilt = row | {"input_state": value} if name == "input_state" else changed(row, **{name: value})
    found = read_one(tmp_path, spoilt)
    assert isinstance(found, Level | Malformed)


def test_the_helper_writes_the_set_s_form() -> None:
    for name, row, *_ in CASES:
        task = get_task(name)
        written = visualplanning_row(name, task.parse_state(STATES[name]))
        assert written["input_state"] == json.loads(json.dumps(row["input_state"]))
        for field in ("level", "start_pos", "target_pos", "layout", "printer_pos", "table_pos"):
            assert written["meta"].get(field) == row["meta"].get(field)

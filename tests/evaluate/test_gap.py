"""The diagnosis of a model whose faults are known, and its parts by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from judged_rows import row
from pilotage.cli.main import main
from pilotage.errors import PilotageError
from pilotage.evaluate import evaluate, rows_path
from pilotage.evaluate.confusion import confusions, single_cell, single_cell_fields
from pilotage.evaluate.gap import GAP_CONDITIONS, gap
from pilotage.evaluate.jsonl import read_jsonl
from pilotage.evaluate.strata import success_curves
from pilotage.worlds import TASKS, get_task
from planted import PlantedEngine, misreadable
from synthetic_run import make_examples

EXAMPLES = misreadable(make_examples(70, seed=11))
MISREAD, MISPLAN = 0.4, 0.2


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of a model that misreads four in ten goals and plans badly one time in five."""
    out = tmp_path_factory.mktemp("planted")
    evaluate(
        PlantedEngine(EXAMPLES, misread=MISREAD, misplan=MISPLAN, seed=2),  # pyright: ignore[reportArgumentType]
        EXAMPLES,
        stage="base",
        prompts="brief",
        max_new_tokens=500,
        out=out,
        conditions=GAP_CONDITIONS,
    )
    return out


@pytest.fixture(scope="module")
def rows(folder: Path) -> list[dict[str, Any]]:
    return [
        row for condition in GAP_CONDITIONS for row in read_jsonl(rows_path(folder, "base", condition)).rows
    ]


def test_what_is_lost_where_is_what_was_planted(rows: list[dict[str, Any]]) -> None:
    found = gap(rows)
    assert list(found.tasks) == [task.name for task in TASKS]
    planted = {
        "text": 1 - MISPLAN,
        "image": (1 - MISREAD) * (1 - MISPLAN),
        "corrected": 1 - MISPLAN,
        "perception": 1 - MISREAD,
    }
    for condition, expected in planted.items():
        assert found.macro.success[condition].low <= expected <= found.macro.success[condition].high, (
            condition
        )
    assert found.macro.state_read.low <= 1 - MISREAD <= found.macro.state_read.high
    lost = found.macro.differences
    assert lost["lost_in_seeing"].low <= MISREAD * (1 - MISPLAN) <= lost["lost_in_seeing"].high
    assert lost["lost_beside_picture"].low <= 0 <= lost["lost_beside_picture"].high
    total = lost["lost_in_seeing"].mean + lost["lost_beside_picture"].mean
    assert total == pytest.approx(lost["modality_gap"].mean)
    assert found.notes == ()
    shares = found.macro.fault_shares
    assert sum(share.mean for share in shares.values()) == pytest.approx(1.0)
    assert shares["both"].low <= MISREAD * MISPLAN <= shares["both"].high


def test_levels_add_up_to_their_task(rows: list[dict[str, Any]]) -> None:
    found = gap(rows)
    for task, levels in found.levels.items():
        whole = found.tasks[task].faults
        assert whole is not None
        parts = [cell.faults for cell in levels.values()]
        for fault, num in whole.counts.items():
            assert num == sum(part.counts[fault] for part in parts if part is not None)
        assert (
            sum(cell.success["image"].n for cell in levels.values()) == found.tasks[task].success["image"].n
        )


def test_the_macro_is_the_mean_of_the_tasks(rows: list[dict[str, Any]]) -> None:
    found = gap(rows)
    for condition in GAP_CONDITIONS:
        means = [cell.success[condition].mean for cell in found.tasks.values()]
        assert found.macro.success[condition].mean == pytest.approx(sum(means) / 3)


def test_the_corrected_view_cannot_misread(rows: list[dict[str, Any]]) -> None:
    corrected = [row for row in rows if row["condition"] == "corrected"]
    assert len(corrected) == len(EXAMPLES)
    assert all(all(row["right"].values()) for row in corrected)
    assert all(
        row["response"].startswith("Size: ") and row["view"] == "student_with_state" for row in corrected
    )


def test_the_plane_has_a_bubble_for_every_task(rows: list[dict[str, Any]]) -> None:
    found = gap(rows)
    for point in found.plane:
        cell = found.tasks[point.task]
        assert (point.perception, point.perception_from) == (cell.success["perception"], "perception")
        assert (point.planning, point.success) == (cell.success["text"], cell.success["image"])
    without = gap([row for row in rows if row["condition"] != "perception"])
    assert without.plane[0].perception == without.tasks[without.plane[0].task].state_read
    assert {point.perception_from for point in without.plane} == {"recital"}
    assert without.notes == ("perception was not measured",)


def test_rows_of_other_examples_and_failed_rows_are_told_of(rows: list[dict[str, Any]]) -> None:
    kept = [row for row in rows if row["condition"] == "image"]
    text = [
        row | {"id": f"{row['id']}x"} if i < 2 else row
        for i, row in enumerate(rows)
        if row["condition"] == "text"
    ]
    kept[0] = kept[0] | {"error": "TimeoutError"}
    found = gap([*kept, *text])
    assert any("text lacks 2 of the image examples and has 2 others" in note for note in found.notes)
    assert "1 rows of image got no answer from the engine and count as failures" in found.notes
    assert found.macro.differences["modality_gap"].n == len(kept) - 2


def test_without_image_rows_there_is_nothing_to_explain(rows: list[dict[str, Any]]) -> None:
    with pytest.raises(PilotageError, match="no rows of the condition image"):
        gap([row for row in rows if row["condition"] == "text"])


def lake(recited: str, *, goal: tuple[int, int] = (2, 2), level: int = 3, id_: str = "a") -> dict[str, Any]:
    cells = [["F"] * level for _ in range(level)]
    cells[0][0], cells[goal[0]][goal[1]] = "S", "G"
    fields = {"Player": "(0,0)", "Goal": recited}
    state = {"map": ["".join(line) for line in cells]}
    return row(id_, True, level=level, state=state, fields=fields)


def test_confusion_by_hand() -> None:
    recited = ["(2,2)", "(2,2)", "( 2 , 1 )", "(3,2)", "(1,1) (2,2)", "none"]
    found = confusions([lake(text) for text in recited] + [lake("(1,0)", goal=(1, 0), level=2)])
    by_place = {(each.field, each.level): each for each in found}
    assert set(by_place) == {("Goal", 2), ("Goal", 3), ("Player", 2), ("Player", 3)}
    goal = by_place["Goal", 3]
    assert goal.counts == {((2, 2), (2, 2)): 2, ((2, 2), (2, 1)): 1}
    assert (goal.outside, goal.unread, goal.num_answers) == ({(2, 2): 1}, {(2, 2): 2}, 6)
    assert goal.shares((2, 2)) == pytest.approx({(2, 2): 1 / 3, (2, 1): 1 / 6})
    assert goal.right_by_cell() == [[None] * 3, [None] * 3, [None, None, pytest.approx(1 / 3)]]
    assert goal.offsets() == pytest.approx({(0, -1): 1 / 6, (0, 0): 1 / 3})
    assert by_place["Player", 3].shares((0, 0)) == {(0, 0): 1.0}
    content = json.loads(json.dumps(goal.as_dict()))
    assert content["counts"] == [[2, 2, 2, 1, 1], [2, 2, 2, 2, 2]]


def test_every_task_s_single_cells_are_found_by_what_they_hold() -> None:
    found = {task.name: single_cell_fields(task) for task in TASKS}
    assert found["frozenlake"] == ("Player", "Goal")
    assert found["maze"] == ("Player", "Goal")
    assert found["minibehaviour"] == ("Agent", "Printer")


@pytest.mark.parametrize(
    ("text", "cell"),
    [
        ("(1,2)", (1, 2)),
        (" ( 01 , 2 ) ", (1, 2)),
        ("(1,2) R", None),
        ("(1,2) (1,2)", None),
        ("1,2", None),
        ("", None),
    ],
)
def test_a_single_cell_is_one_cell_and_nothing_else(text: str, cell: Any) -> None:
    assert single_cell(text) == cell


def test_curves_by_hand() -> None:
    rows = [
        row("a", True, level=3, difficulty="hard", optimal_length=10),
        row("b", False, level=3, difficulty="easy", optimal_length=2),
        row("c", True, level=4, difficulty="easy", optimal_length=2),
        row("d", True, level=4, condition="text"),
    ]
    curves = {(curve.condition, curve.axis): curve for curve in success_curves(rows)}
    assert set(curves) == {
        *(("image", axis) for axis in ("level", "difficulty", "optimal_length")),
        ("text", "level"),
    }

    def means(axis: str) -> list[tuple[Any, float, int]]:
        return [(value, interval.mean, interval.n) for value, interval in curves["image", axis].points]

    assert means("level") == [(3, 0.5, 2), (4, 1.0, 1)]
    assert means("difficulty") == [("easy", 0.5, 2), ("hard", 1.0, 1)]
    assert means("optimal_length") == [(2, 0.5, 2), (10, 1.0, 1)]


def test_the_command_explains_rows_that_are_there(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["diagnose", str(folder), "gap", "--rows-only", "--by-level"]) == 0
    printed = capsys.readouterr().out
    for text in ("lost in seeing", "misplanned", "Printer", "  level 5", "macro"):
        assert text in printed
    figures = json.loads((folder / "eval" / "base.gap.json").read_text())
    assert set(figures["tasks"]) == {task.name for task in TASKS}
    assert (
        figures
        == gap([r for k in GAP_CONDITIONS for r in read_jsonl(rows_path(folder, "base", k)).rows]).as_dict()
    )


def test_the_diagnosis_of_rows_goes_where_out_says(folder: Path, tmp_path: Path) -> None:
    before = sorted(path.name for path in (folder / "eval").iterdir())
    assert main(["diagnose", str(folder), "gap", "--rows-only", "--out", str(tmp_path / "out")]) == 0
    assert [path.name for path in (tmp_path / "out" / "eval").iterdir()] == ["base.gap.json"]
    assert sorted(path.name for path in (folder / "eval").iterdir()) == before


def test_the_command_wants_the_image_and_rows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["diagnose", str(tmp_path), "gap", "--rows-only"]) == 2
    assert "holds no rows" in capsys.readouterr().err
    assert main(["diagnose", "nano", "gap", "--world", "frozenlake_steps", "--num", "1"]) == 2
    message = capsys.readouterr().err
    assert "the gap is measured on planning tasks (frozenlake, maze, minibehaviour)" in message
    assert "frozenlake_steps is none" in message
    assert main(["diagnose", "nano", "gap", "--conditions", "text"]) == 2
    assert "lack image" in capsys.readouterr().err


def test_the_command_measures_a_model_in_all_four_ways(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["diagnose", "nano", "gap", "--out", str(tmp_path), "--num", "3", "--threads", "1"]
    assert main(command) == 0
    assert "state told" in capsys.readouterr().out
    for condition in GAP_CONDITIONS:
        assert len(read_jsonl(rows_path(tmp_path, "base", condition)).rows) == 9
    for each in read_jsonl(rows_path(tmp_path, "base", "corrected")).rows:
        task = get_task(each["task"])
        recital = task.recital(task.parse_state(each["state"]))
        assert each["response"].startswith(f"Size: {recital['Size']}. ")
        assert each["response"].index("\n") < len(each["response"]) - 1, "the model goes on after the state"
    figures = (tmp_path / "eval" / "base.gap.json").read_bytes()
    before = rows_path(tmp_path, "base", "image").read_bytes()
    assert main(command) == 0
    assert rows_path(tmp_path, "base", "image").read_bytes() == before, "nothing is asked twice"
    assert (tmp_path / "eval" / "base.gap.json").read_bytes() == figures

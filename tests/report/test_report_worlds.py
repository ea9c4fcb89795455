"""Pages of worlds other than plans: what they show is what the worlds declare, and nothing is told of them wrongly."""

from __future__ import annotations

import csv
import io
import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest

from pilotage.evaluate.jsonl import read_jsonl
from pilotage.evaluate.summary import summarise
from pilotage.records import Condition, Measure
from pilotage.report import write_report, write_tables
from pilotage.report.conditions import condition_class, condition_titles, task_title
from pilotage.report.folder import read_run
from pilotage.report.numbers import by_axis, by_number, columns_of
from pilotage.report.overview import headline
from pilotage.report.sources import make_sources
from pilotage.report.text import figure, percent
from pilotage.report.verdicts import verdict_class, verdict_text
from pilotage.worlds.registry import forget_world, register_world
from report_parts import chunks_of, page_cell, page_rows
from report_parts import row as lake_row
from synthetic_run import write_question_run, write_step_run


@pytest.fixture(scope="module")
def steps(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "steps"
    write_step_run(folder, num_per_level=4)
    return folder


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "asked"
    write_question_run(folder, num_each=1)
    return folder


@dataclass(frozen=True, kw_only=True)
class Ferry:
    """A world of somebody's own, as far as a page looks at it."""

    name: str = "ferry"
    title: str = "The ferry"
    roles: tuple[str, ...] = ("steer",)
    reasons: tuple[str, ...] = ("success", "aground")
    measures: tuple[Measure, ...] = (
        Measure(name="dry", title="stayed dry"),
        Measure(name="num_turns", title="strokes", unit="strokes", bounds=None, is_flag=False),
        Measure(name="fuel", title="fuel left", unit="litres", bounds=None, is_flag=False),
    )
    conditions: tuple[Condition, ...] = (
        Condition(name="image", title="from the bridge", views={"steer": "student"}),
        Condition(name="radar", title="by radar", views={"steer": "student"}),
    )
    usual: tuple[str, ...] = ("image", "radar")


@pytest.fixture
def ferry() -> Any:
    world = Ferry()
    register_world(world)
    yield world
    forget_world(world.name)


def ferry_row(number: int, condition: str, *, success: bool, fuel: float) -> dict[str, Any]:
    return {
        "id": f"ferry-{number}",
        "condition": condition,
        "world": "ferry",
        "task": "ferry",
        "level": 0,
        "state": {},
        "role": "steer",
        "response": "ahead",
        "outcome": {
            "success": success,
            "reason": "success" if success else "aground",
            "dry": True,
            "num_turns": 2 + number,
            "fuel": fuel,
        },
        "error": None,
    }


def write_rows(folder: Path, stage: str, condition: str, rows: list[dict[str, Any]]) -> None:
    (folder / "eval").mkdir(parents=True, exist_ok=True)
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (folder / "eval" / f"{stage}.{condition}.jsonl").write_text(lines)


def rows_of(folder: Path, stage: str, condition: str) -> list[dict[str, Any]]:
    return read_jsonl(folder / "eval" / f"{stage}.{condition}.jsonl").rows


def test_what_a_world_declares_is_what_its_page_shows(tmp_path: Path, ferry: Any) -> None:
    rows = [ferry_row(i, "image", success=i < 3, fuel=10.0 * i) for i in range(4)]
    write_rows(tmp_path, "base", "image", rows)
    write_rows(tmp_path, "base", "radar", [row | {"condition": "radar"} for row in rows[:2]])
    page = write_report(tmp_path).read_text()
    assert "The ferry. Base: from the bridge 75 %, by radar 100 %" in page
    assert "From the bridge: success on 75 % of examples of one task; by radar 100 %." in page
    (head, base) = page_rows(page, "table")
    assert head == ["Task", "Stage", "n", "from the bridge", "by radar", "stayed dry"]
    assert base[:3] == ["The ferry", "Base", "image 4, radar 2"] and page_cell(base[3])[0] == 75.0
    table_rows = page_rows(page, "table", 1)
    # 2 + 0 … 2 + 3 strokes, 0 … 30 litres; of the radar's two rows 2 and 3, 0 and 10.
    assert table_rows[0] == ["Task", "Condition", "Stage", "n", "strokes", "fuel left, litres"]
    assert [[*row[1:4], *(cell.split()[0] for cell in row[4:])] for row in table_rows[1:]] == [
        ["from the bridge", "Base", "4", "3.50", "15.0"],
        ["by radar", "Base", "2", "2.50", "5.00"],
    ]
    assert "0×0" not in page and "modality" not in page.partition("<main")[2].partition("<script")[0]


def test_a_condition_is_called_as_the_pages_worlds_call_it_and_unknown_ones_by_name(ferry: Any) -> None:
    assert condition_titles(["image", "radar", "sonar"], ["ferry"]) == {
        "image": "from the bridge",
        "radar": "by radar",
        "sonar": "sonar",
    }
    assert condition_titles(["image"]) == {"image": "from the picture"}
    assert task_title("ferry") == "The ferry" and task_title("raft") == "raft"
    assert condition_class("image") != condition_class("text") and condition_class("sonar") == "k-unknown"


def test_turns_are_told_for_every_stage_and_condition(steps: Path, tmp_path: Path) -> None:
    page = write_report(steps, out=tmp_path / "page.html").read_text()
    rows_of_page = {tuple(row[:3]): row for row in page_rows(page, "table", 1)[1:]}
    assert len(rows_of_page) == 2 * 2 * 2
    for condition, shown_as in (("image", "from the picture"), ("text", "from words")):
        for stage, title in (("base", "Base"), ("stage1", "Stage 1")):
            rows = [row for row in rows_of(steps, stage, condition) if row["task"] == "frozenlake_steps"]
            shown = rows_of_page["FrozenLake, step by step", shown_as, title]
            assert shown[4].split()[0] == figure(fmean(row["num_turns"] for row in rows))
    write_tables([steps], tmp_path)
    lines = list(csv.DictReader(io.StringIO((tmp_path / "numbers.csv").read_text())))
    turns = [line for line in lines if line["measure"] == "turns"]
    assert len(turns) == 8
    for line in turns:
        stage = {"Base": "base", "Stage 1": "stage1"}[line["source"]]
        rows = [
            row for row in rows_of(steps, stage, line["condition"]) if task_title(row["task"]) == line["task"]
        ]
        assert float(line["mean"]) == pytest.approx(fmean(row["num_turns"] for row in rows), abs=1e-6)
    assert "states seen again, moves" in {line["measure"] for line in lines}


def test_episodes_of_one_turn_count_among_those_of_many() -> None:
    def row(number: int, turns: int) -> dict[str, Any]:
        of = {"turns": [{}] * turns} if turns > 1 else {}
        outcome = {"success": True, "reason": "success", "num_turns": turns}
        return {"id": str(number), "condition": "image", "task": "t", "level": 3, "outcome": outcome} | of

    rows = [row(0, 1), row(1, 1), row(2, 4), {**row(3, 9), "outcome": None, "error": "down"}]
    numbers = summarise(rows).conditions["image"].tasks["t"].numbers
    assert (numbers["num_turns"].mean, numbers["num_turns"].n) == (2.0, 3)


def test_several_episodes_of_an_example_are_one_in_the_mean_of_turns() -> None:
    def row(id_: str, sample: int, turns: int) -> dict[str, Any]:
        outcome = {"success": True, "reason": "success", "num_turns": turns}
        return {
            "id": id_,
            "sample": sample,
            "condition": "image",
            "task": "t",
            "level": 3,
            "outcome": outcome,
        }

    numbers = (
        summarise([row("a", 0, 2), row("a", 1, 4), row("b", 0, 7)]).conditions["image"].tasks["t"].numbers
    )
    assert (numbers["num_turns"].mean, numbers["num_turns"].n) == (5.0, 2)


def test_plans_have_no_table_of_counts() -> None:
    assert summarise([lake_row("none", 0)]).conditions["image"].tasks["frozenlake"].numbers == {}


def test_nothing_is_missed_that_a_world_is_not_measured_by(steps: Path, asked: Path, tmp_path: Path) -> None:
    assert not [
        problem for run in (steps, asked) for problem in read_run(run).problems if "evaluated" in problem
    ]
    shutil.copytree(steps, tmp_path / "run")
    (tmp_path / "run" / "eval" / "stage1.text.jsonl").unlink()
    problems = [problem for problem in read_run(tmp_path / "run").problems if "evaluated" in problem]
    assert problems == ["Stage 1 was not evaluated on: text"]
    path = tmp_path / "run" / "eval" / "stage1.text.jsonl"
    rows = rows_of(steps, "stage1", "text")
    path.write_text("".join(json.dumps(row) + "\n" for row in rows if row["world"] == "frozenlake_steps"))
    problems = [problem for problem in read_run(tmp_path / "run").problems if "evaluated" in problem]
    assert problems == ["Stage 1 was not evaluated on: text (MiniBehaviour, step by step)"]


def test_charts_are_titled_as_their_worlds_are(steps: Path, tmp_path: Path) -> None:
    page = write_report(steps, out=tmp_path / "page.html").read_text()
    assert "<figcaption>FrozenLake, step by step <small>" in page
    assert 'aria-label="FrozenLake, step by step. Base: ' in page
    assert "frozenlake_steps <small>" not in page and 'id="strata"' in page


def test_questions_have_rates_with_intervals_and_charts_as_other_worlds_have(
    asked: Path, tmp_path: Path
) -> None:
    assert [
        problem for problem in read_run(asked).problems if ".jsonl" in problem and "metrics" not in problem
    ] == []
    page = write_report(asked, out=tmp_path / "page.html").read_text()
    head, *rows = page_rows(page, "table")
    assert head == ["Task", "Stage", "n", "from the picture and the question", "parsed"]
    for task, title in (("frozenlake", "FrozenLake"), ("maze", "Maze"), ("vqa", "vqa")):
        for stage, stage_title in (("base", "Base"), ("stage1", "Stage 1")):
            own = [row for row in rows_of(asked, stage, "question") if row["task"] == task]
            (shown,) = [row for row in rows if row[:2] == [title, stage_title]]
            for cell, name in ((shown[3], "success"), (shown[4], "parsed")):
                share = fmean(row["outcome"][name] for row in own)
                mean, low, high = page_cell(cell)
                assert mean == pytest.approx(100 * share, abs=0.05) and low <= mean <= high
    assert 'aria-label="Maze. Base: from the picture and the question' in page
    assert 'id="pairs"' in page and 'id="gallery"' in page


def test_a_question_stands_above_its_answers_and_the_truth_beside_a_wrong_one(
    asked: Path, tmp_path: Path
) -> None:
    page = write_report(asked, out=tmp_path / "page.html").read_text()
    levels = [level for chunk in chunks_of(page) for level in chunk["levels"]]
    assert all(level["t"] for level in levels)
    (elsewhere,) = [level for level in levels if level["t"].startswith("How many ships")]
    assert elsewhere["o"] == ["one", "two"] and elsewhere["k"] is None
    assert all(level["k"] for level in levels if level is not elsewhere)
    rows = {row["id"]: row for row in rows_of(asked, "base", "question")}
    index = json.loads(page.partition('id="gallery-index">')[2].partition("</script>")[0])
    wrong = 0
    for id_, level in zip(index["ids"], levels, strict=True):
        (field,) = level["a"][0]["f"]
        row = rows[id_]
        assert field[1] == row["outcome"]["success"]
        if row["outcome"]["reason"] == "wrong":
            wrong += 1
            assert field[2:4] == [[["(0,1)", 0]], row["asked"]["answer"]]
    assert wrong > 0


@pytest.mark.parametrize(
    ("outcome", "expected", "message"),
    [
        ({"success": True, "reason": "success", "parsed": True}, "solved", "success"),
        ({"success": False, "reason": "wrong", "parsed": True}, "failed", "failure: wrong"),
        ({"success": False, "reason": "no_box", "parsed": False}, "unparsed", "no readable answer: no box"),
    ],
)
def test_answers_without_a_way_are_right_or_wrong(
    outcome: dict[str, Any], expected: str, message: str
) -> None:
    row = {"id": "q", "condition": "question", "role": "answer", "outcome": outcome, "error": None}
    assert (verdict_class(row), verdict_text(row)) == (expected, message)


def test_a_world_that_failed_is_not_taken_for_the_engine() -> None:
    row = {
        "id": "e",
        "condition": "image",
        "role": "act",
        "outcome": None,
        "error": "it hung",
        "end": "timeout",
    }
    assert verdict_text(row) == "world failed: it hung"
    assert verdict_text(row | {"end": "engine_failed"}) == "engine failed: it hung"


def test_success_is_told_by_the_other_axes_of_examples(asked: Path) -> None:
    sources = make_sources([read_run(asked)])
    ((axis, conditions, groups),) = by_axis(sources)
    assert (axis, conditions) == ("kind", ["from the picture and the question"])
    for title, value, of_sources in groups:
        for (stage, (cell,)), name in zip(of_sources, ("base", "stage1"), strict=True):
            own = [
                row
                for row in rows_of(asked, name, "question")
                if task_title(row["task"]) == title and row["axes"]["kind"] == value
            ]
            assert cell is not None and cell.n == len(own), stage
            assert cell.mean == pytest.approx(fmean(row["outcome"]["success"] for row in own))


def test_descriptions_alone_tell_of_no_recited_state() -> None:
    from report_parts import run_of

    rows = [lake_row("none", 0, condition="perception", view="perception", outcome=None)]
    columns = columns_of(make_sources([run_of({"base": {"perception": rows}})]))
    assert [(column.condition, column.rate) for column in columns] == [("perception", "success")]
    assert by_number(make_sources([run_of({"base": {"perception": rows}})])) == ([], [])


def test_a_tile_goes_from_the_first_to_the_last_stage_that_was_measured_so(
    asked: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    shutil.copytree(asked, run)
    write_rows(run, "stage2", "image", [lake_row("none", 0)])
    shares = {name: summarise(rows_of(run, name, "question")) for name in ("base", "stage1")}
    first, last = (summary.conditions["question"].macro["success"].mean for summary in shares.values())
    page = write_report(run).read_text()
    assert f"<strong>{percent(first)} % → {percent(last)} %</strong>" in page
    assert "From the picture: success on 100 % of examples of one task." in page


def test_there_is_nothing_to_say_before_anything_is_measured() -> None:
    assert headline({}, {}, 0, "levels") == ""

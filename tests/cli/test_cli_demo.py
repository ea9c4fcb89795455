"""The demo's table fills as the run goes on, and ends with the run's own numbers."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from pilotage.cli.demo import LiveTable, minutes
from pilotage.cli.main import main
from pilotage.evaluate import Progress


def answer(task: str, success: bool | None, right: bool = False, error: str | None = None) -> dict[str, Any]:
    verdict = None if success is None else {"success": success}
    return {"task": task, "outcome": verdict, "right": {"Size": True, "Goal": right}, "error": error}


def rendered(table: LiveTable) -> str:
    console = Console(file=io.StringIO(), width=100)
    console.print(table.table())
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def line_of(text: str, title: str) -> list[str]:
    (line,) = [line for line in text.splitlines() if title in line]
    return line.replace("│", " ").split()


@pytest.fixture
def table() -> LiveTable:
    return LiveTable(["frozenlake", "maze"], Console(file=io.StringIO(), width=100))


def test_shares_fill_while_a_stage_is_measured(table):
    with table:
        table.stage_begins("base", 0)
        assert line_of(rendered(table), "Base") == ["Base", *["·"] * 6]
        rows = [answer("frozenlake", True), answer("frozenlake", False), answer("maze", True)]
        table.measured("base", Progress(condition="image", num_done=3, num_total=8, rows=rows))
        assert line_of(rendered(table), "Base") == ["Base", "50.0", "·", "·", "100.0", "·", "·"]
        rows = [answer("frozenlake", False), answer("frozenlake", None, error="no memory")]
        table.measured("base", Progress(condition="image", num_done=5, num_total=8, rows=rows))
        assert line_of(rendered(table), "Base")[1] == "25.0"


def test_perception_counts_only_answers_that_are_right_in_every_field(table):
    with table:
        table.stage_begins("stage1", 10)
        rows = [answer("maze", None, right=right) for right in (True, True, False, True)]
        table.measured("stage1", Progress(condition="perception", num_done=4, num_total=4, rows=rows))
        assert line_of(rendered(table), "Stage 1")[-1] == "75.0"


def test_a_finished_stage_shows_the_summarys_numbers_and_its_time(table):
    with table:
        table.stage_begins("stage2", 10)
        table.trained("stage2", 3, 10, {"loss": 0.25})
        conditions = {"image": {"success": 0.9}, "text": {"success": 1.0}, "perception": {"success": 0.5}}
        table.stage_ends("stage2", {"seconds": 187.0, "tasks": {"maze": conditions}})
    assert line_of(rendered(table), "Stage 2") == [
        "Stage",
        "2",
        "·",
        "·",
        "·",
        "90.0",
        "100.0",
        "50.0",
        "3:07",
    ]


def test_minutes_are_cut_to_seconds():
    assert [minutes(59.9), minutes(60), minutes(3601)] == ["0:59", "1:00", "60:01"]


def test_the_demo_ends_by_naming_its_page_and_its_numbers(tmp_path, monkeypatch, capsys):

    asked = []

    def run_recipe(recipe: Any, run_dir: Path, watcher: Any) -> dict[str, Any]:
        asked.append(recipe)
        watcher.stage_begins("base", 0)
        watcher.stage_ends("base", {"seconds": 61.0, "tasks": {}})
        return {"stages": {"base": {"seconds": 61.0}, "stage1": {"seconds": 60.0}}}

    import pilotage.runs as runs

    monkeypatch.setattr(runs, "run_recipe", run_recipe, raising=False)
    assert main(["demo", str(tmp_path), "--seed", "3", "--threads", "1"]) == 0
    assert (asked[0].seed, asked[0].num_threads, asked[0].backbone) == (3, 1, "nano")
    out = capsys.readouterr().out
    assert "took 2:01" in out
    assert f"page     {tmp_path / 'report.html'}" in out
    assert f"numbers  {tmp_path / 'summary.json'}" in out

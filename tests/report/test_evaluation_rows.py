"""Rows that were measured before, from files that anybody may have written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pilotage.cli.evaluation_rows import find_rows
from pilotage.cli.main import main
from pilotage.report.folder import read_run
from synthetic_run import write_run

HOSTILE = (
    {"level": 10**6},
    {"level": "5"},
    {"id": ["a"]},
    {"sample": {}},
    {"difficulty": ["easy"]},
    {"optimal_length": {"a": 1}},
    {"state": {}},
    {"task": "tea"},
    {"response": None},
    {"right": [True]},
    {"outcome": {"success": "yes"}},
)


@pytest.fixture(scope="module")
def rows(tmp_path_factory) -> list[dict[str, Any]]:
    run = tmp_path_factory.mktemp("run")
    write_run(run)
    return [json.loads(line) for line in (run / "eval" / "stage2.image.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("damage", HOSTILE, ids=lambda damage: next(iter(damage)))
def test_a_hostile_row_costs_only_itself(rows, damage, tmp_path: Path, capsys):
    path = tmp_path / "answers.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in [rows[0] | damage, *rows[1:]]))
    assert main(["diagnose", str(path), "gap", "--rows-only"]) == 0
    assert "misplanned" in capsys.readouterr().out
    assert main(["compare", str(path), str(path)]) == 0


@pytest.mark.parametrize(
    ("recorded", "last"),
    [
        (["warm", "main"], "main"),
        (["main", "warm"], "warm"),
        ([], "warm"),
        (3, "warm"),
        ([3, [], {}, {"stage": []}], "warm"),
    ],
)
def test_the_last_stage_with_rows_is_the_last_of_the_runs_recipe(rows, recorded, last, tmp_path: Path):
    (tmp_path / "eval").mkdir()
    stages = [{"stage": name} if isinstance(name, str) else name for name in recorded] if recorded != 3 else 3
    (tmp_path / "config.json").write_text(json.dumps({"recipe": {"stages": stages}}))
    for stage in ("base", "main", "warm"):
        (tmp_path / "eval" / f"{stage}.image.jsonl").write_text(json.dumps(rows[0]) + "\n")
    assert find_rows(str(tmp_path)).name == f"{tmp_path} {last}"
    assert read_run(tmp_path).stages[-1] == last

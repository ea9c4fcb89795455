"""The page and the commands tell the same numbers of the same run."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from pilotage.cli.evaluate import print_summary
from pilotage.cli.main import main
from pilotage.evaluate import rows_path, summarise
from pilotage.evaluate.jsonl import read_jsonl
from pilotage.report import write_report
from report_parts import Cell, page_cell, page_rows
from synthetic_run import write_run

CONDITIONS = ("image", "text", "perception")
STAGES = {"base": "Base", "stage1": "Stage 1", "stage2": "Stage 2"}
TASKS = {"frozenlake": "FrozenLake", "maze": "Maze", "minibehaviour": "MiniBehaviour"}


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "demo"
    write_run(folder, num_per_task=13)
    return folder


@pytest.fixture(scope="module")
def page(run_dir: Path) -> str:
    return write_report(run_dir).read_text()


def printed_cells(line: str) -> list[Cell]:
    """`97.0 [93, 100]`, as often as it stands in a printed line."""
    found = re.findall(r"([+-]?[\d.]+) \[([+-]?\d+), ([+-]?\d+)\]", line)
    return [(float(mean), int(low), int(high)) for mean, low, high in found]


def printed_rows(printed: str, name: str) -> list[str]:
    return [line for line in printed.splitlines() if line.split()[:1] == [name]]


@pytest.mark.parametrize("stage", STAGES)
def test_success_gap_and_faults_are_those_of_gap(
    page: str, run_dir: Path, stage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["diagnose", str(run_dir), "gap", "--rows-only", "--stage", stage]) == 0
    printed = capsys.readouterr().out
    numbers = {(row[0], row[1]): row for row in page_rows(page, "table")}
    faults = {(row[0], row[1]): row for row in page_rows(page, "faults")}
    for task, title in [*TASKS.items(), ("macro", "All tasks (plain mean)")]:
        success, lost, *rest = [printed_cells(line) for line in printed_rows(printed, task)][:3]
        row = numbers[title, STAGES[stage]]
        # Of the page: success from the picture, from words and in describing, …, gap. Of gap: text, image, perception.
        assert [page_cell(cell) for cell in (row[4], row[3], row[5])] == success
        assert page_cell(row[-1]) == lost[0]
        if task in TASKS:
            counts = faults[title, STAGES[stage]]
            shares = [100 * int(cell.split()[0]) / int(counts[2]) for cell in counts[3:9]]
            assert shares == pytest.approx([mean for mean, *_ in rest[0]], abs=0.05)


@pytest.mark.parametrize("stage", STAGES)
def test_fields_not_read_right_are_those_of_gap(
    page: str, run_dir: Path, stage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["diagnose", str(run_dir), "gap", "--rows-only", "--stage", stage]) == 0
    printed = capsys.readouterr().out
    heat = page.partition('<section id="heat"')[2].partition("</section>")[0]
    of_stage = heat.partition(f"<summary>{STAGES[stage]}")[2].partition("</details>")[0]
    for number, (task, title) in enumerate(TASKS.items(), start=1):
        head, *rows = page_rows(page, "faults", number)
        (shown,) = [row[1:] for row in rows if row[0] == STAGES[stage]]
        lines = [line.split() for line in printed_rows(printed, task)]
        printed_of = {line[1]: " ".join(line) for line in lines if line[1] in head}
        assert [printed_cells(printed_of[field]) for field in head[1:]] == [
            [page_cell(cell)] for cell in shown
        ]
        for field in ("Holes", "Open", "Table"):
            # A list of cells has no map; what is wrong with it stands in words.
            if field in printed_of and (share := printed_cells(printed_of[field])[0][0]):
                assert f"{title}, {field}: {share} %" in of_stage


def test_rates_are_those_of_eval(page: str, run_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    numbers = {(row[0], row[1]): row for row in page_rows(page, "table")}
    for stage, title in STAGES.items():
        rows = [
            row for condition in CONDITIONS for row in read_jsonl(rows_path(run_dir, stage, condition)).rows
        ]
        print_summary(summarise(rows), by_level=False)
        printed = [line.split() for line in capsys.readouterr().out.splitlines()]
        for task, name in TASKS.items():
            row = numbers[name, title]
            cells = {words[0]: printed_cells(" ".join(words)) for words in printed if words[1:2] == [task]}
            success, optimal, illegal, parsed = cells["image"]
            assert [page_cell(row[i]) for i in (3, 6, 7, 8)] == [success, optimal, illegal, parsed]
            assert page_cell(row[4]) == cells["text"][0] and page_cell(row[5]) == cells["perception"][0]


@pytest.mark.parametrize(("first", "second"), [("base", "stage1"), ("base", "stage2"), ("stage1", "stage2")])
def test_differences_are_those_of_compare(
    page: str, run_dir: Path, first: str, second: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["compare", f"{run_dir}/{first}", f"{run_dir}/{second}", "--conditions", "image"]) == 0
    printed = capsys.readouterr().out
    group = f"{STAGES[second]} against {STAGES[first]} from the picture"
    shown = {row[1]: row for row in page_rows(page, "pairs") if row[0] == group}
    for task, title in [*TASKS.items(), ("macro", "All tasks")]:
        (line,) = [line for line in printed.splitlines() if line.split()[:2] == ["image", task]]
        words = line.split()
        row = shown[title]
        assert row[2] == words[2]
        assert [page_cell(cell)[0] for cell in row[3:5]] == [float(word) for word in words[3:5]]
        assert [page_cell(row[7])] == printed_cells(line)
        assert row[5:7] == words[-3:-1]
        # The page rounds p to two decimals from 0.1 on.
        p, printed_p = row[8].replace(" ", ""), words[-1]
        assert p == printed_p or abs(float(p) - float(printed_p)) < 0.006
        (verdict,) = [line for line in printed.splitlines() if line.startswith(f"image, {task}: ")]
        assert ("not distinguishable" in verdict) == ("not distinguishable" in row[9])
        assert ("B is better" in verdict) == (row[9] == "second is better")

"""The numbers as files: CSV that computes, Markdown and LaTeX that render, and no text that does anything."""

from __future__ import annotations

import csv
import io
import json
import re
from pathlib import Path
from typing import Any

import pytest

from pilotage.cli.main import main
from pilotage.errors import PilotageError
from pilotage.evaluate.bootstrap import Interval
from pilotage.report import write_tables
from pilotage.report.tables import FORMS, Cell, Table, as_csv, as_latex, as_markdown, guard_formula
from report_parts import row

HOSTILE = (
    '=HYPERLINK("http://x.invalid")|<script>alert(1)</script>\\input{/etc/passwd}%_&$#{}~^\n**b** \u202e'
)


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    """Two stages: 1 of 4 and 3 of 4 solved from the image, 4 of 4 from text in the first."""
    (tmp_path / "eval").mkdir()
    stages = {"base": ["none", "misread", "misplanned", "format"], "stage2": ["none", "none", "none", "both"]}
    for stage, faults in stages.items():
        write(tmp_path, stage, "image", [row(fault, i) for i, fault in enumerate(faults)])
    text = [row("none", i, condition="text", view="symbolic") for i in range(4)]
    write(tmp_path, "base", "text", text)
    return tmp_path


def write(folder: Path, stage: str, condition: str, rows: list[dict[str, Any]]) -> None:
    lines = "".join(json.dumps(each) + "\n" for each in rows)
    (folder / "eval" / f"{stage}.{condition}.jsonl").write_text(lines)


def read(folder: Path, name: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO((folder / f"{name}.csv").read_text())))


def table(*rows: tuple[Cell, ...], columns: tuple[str, ...] = ("who", "success")) -> Table:
    return Table(name="t", caption="Rates, 95 %", columns=columns, rows=rows)


def test_every_table_comes_in_three_forms(run_dir: Path, tmp_path: Path) -> None:
    paths, _ = write_tables([run_dir], tmp_path / "tables")
    names = ["rates", "levels", "fields", "gaps", "faults", "pairs"]
    assert [path.name for path in paths] == [f"{name}.{ending}" for name in names for ending in FORMS]
    assert sorted(path.name for path in (tmp_path / "tables").iterdir()) == sorted(
        path.name for path in paths
    )


def test_the_csv_holds_the_rates_and_their_intervals(run_dir: Path, tmp_path: Path) -> None:
    write_tables([run_dir], tmp_path)
    rates = {(r["source"], r["condition"]): r for r in read(tmp_path, "rates")}
    assert [rates[key]["success"] for key in (("Base", "image"), ("Base", "text"), ("Stage 2", "image"))] == [
        "0.250000",
        "1.000000",
        "0.750000",
    ]
    # Of four that agree the exact bound is 1 - 0.025^(1/4) away.
    assert rates["Base", "text"]["success_low"] == f"{0.025**0.25:.6f}"
    (gap,) = read(tmp_path, "gaps")
    assert (gap["source"], gap["task"], gap["n"], gap["gap"]) == ("Base", "FrozenLake", "4", "0.750000")
    faults = {(r["source"], r["fault"]): r["answers"] for r in read(tmp_path, "faults")}
    assert faults["Base", "misread"] == "1" and faults["Stage 2", "both"] == "1"
    (pair,) = read(tmp_path, "pairs")
    assert (pair["only_first"], pair["only_second"], pair["p"]) == ("0", "2", "0.5")
    assert pair["meaning"] == "not distinguishable from zero"


@pytest.mark.parametrize(
    "text", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", " =1", "|calc", "%0A", "＝1"]
)
def test_a_formula_is_text_in_a_spreadsheet(text: str) -> None:
    assert guard_formula(text) == f"'{text}"
    (line,) = csv.reader(io.StringIO(as_csv(table((text, 3))).partition("\n")[2], newline=""))
    assert line[0].startswith("'")


def test_words_and_numbers_are_left_as_they_are() -> None:
    assert guard_formula("seed0/mgsd · Stage 2") == "seed0/mgsd · Stage 2"
    minus = Interval(mean=-0.25, low=-0.5, high=0.0, n=4)
    assert (
        as_csv(table(("a, b", minus)))
        == 'who,success,success_low,success_high\n"a, b",-0.250000,-0.500000,0.000000\n'
    )


def test_hostile_text_does_nothing_in_markdown() -> None:
    text = as_markdown(table((HOSTILE, 3)))
    lines = text.splitlines()
    assert len(lines) == 5
    # One row has as many cells as the header: every other bar is escaped.
    assert len(re.findall(r"(?<!\\)\|", lines[4])) == 3
    assert "<script>" not in text and "&lt;script&gt;" in text
    assert r"\*\*b\*\*" in text


def test_hostile_text_does_nothing_in_latex() -> None:
    text = as_latex(table((HOSTILE, 3)))
    assert "\\input" not in text and "\\textbackslash{}input\\{" in text
    body = text.partition("\\midrule\n")[2].partition("\\bottomrule")[0]
    assert body.count("\n") == 1 and body.endswith("3 \\\\\n")
    # No special character stands unescaped.
    assert not re.search(r"(?<!\\)[%$#_&~^](?!\s3 \\\\)", body.replace(" & 3", ""))


def test_numbers_read_well_in_words() -> None:
    share = Interval(mean=0.973, low=0.95, high=0.985, n=300)
    assert "| Base | 97.3 [95.0, 98.5] |" in as_markdown(table(("Base", share)))
    assert "Base & 97.3 {[}95.0, 98.5{]} \\\\" in as_latex(table(("Base", share), ("None", None)))
    difference = Table(
        name="d", caption="", columns=("gap", "p"), rows=((share, 0.0002),), is_difference=frozenset({"gap"})
    )
    assert "| +97 [+95, +98] | < 0.001 |" in as_markdown(difference)


def test_foreign_names_go_through_every_form(tmp_path: Path) -> None:
    (tmp_path / "eval").mkdir()
    write(tmp_path, "base", "image", [row("none", 0, fields={HOSTILE: "x"}, right={HOSTILE: False})])
    write_tables([tmp_path], tmp_path / "out")
    for path in (tmp_path / "out").iterdir():
        assert "\u202e" not in path.read_text()
    (line,) = read(tmp_path / "out", "fields")
    assert line["field"].startswith("'=HYPERLINK")


def test_no_rows_no_tables(tmp_path: Path) -> None:
    with pytest.raises(PilotageError, match="no evaluation rows"):
        write_tables([tmp_path], tmp_path / "out")


def test_the_command_writes_tables_beside_the_page(
    run_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "numbers"
    assert main(["report", str(run_dir), "--tables", str(out)]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert str(out / "rates.tex") in printed and printed[-1] == str(run_dir / "report.html")


def test_several_runs_need_a_file_for_their_page(
    run_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "other"
    (other / "eval").mkdir(parents=True)
    write(other, "base", "image", [row("none", i) for i in range(4)])
    assert main(["report", str(run_dir), str(other)]) == 2
    assert "give --out FILE" in capsys.readouterr().err
    assert (
        main(["report", str(run_dir), str(other), "--stage", "base", "--out", str(tmp_path / "both.html")])
        == 0
    )
    assert "2 runs side by side" in (tmp_path / "both.html").read_text()

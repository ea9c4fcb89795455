"""What the pages tell a reader to type is there, their links lead somewhere, and their tables are tables."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from string import Template
from typing import Any

import pytest

from pilotage.cli.main import main
from pilotage.studies.catalogue import STUDIES

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "docs" / "results.md"
COMMAND = re.compile(r"^ *(pilotage train .+)$|`(pilotage train [^`]+)`", re.MULTILINE)
FENCE = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_training_command_of_a_page_is_accepted(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trained: dict[str, Any]
) -> None:
    """In their order; a RUN with a recipe is a new one. Data sets are left out, nothing is loaded or trained."""
    monkeypatch.chdir(tmp_path)
    run, text = "", page.read_text(encoding="utf-8")
    exported = re.search(r"^export (.+)$", text, re.MULTILINE)
    values = dict(part.split("=", 1) for part in shlex.split(exported[1])) if exported else {}
    for number, match in enumerate(COMMAND.finditer(text)):
        written = Template(match[1] or match[2]).safe_substitute(values)
        _, command, name, *options = shlex.split(written, comments=True)
        if "--dry-run" in options:
            continue
        if name == "RUN":
            run = f"run{number}" if "--recipe" in options or not run else run
            name = run
        if "--data" in options:
            at = options.index("--data")
            del options[at : at + 2]
        assert main([command, name, *options]) == 0, match[0]


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_link_of_a_page_leads_to_a_file_and_a_heading(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", FENCE.sub("", page.read_text(encoding="utf-8"))):
        if not re.match(r"https?://", target):
            place, _, heading = target.partition("#")
            file = page.parent / place if place else page
            assert file.exists(), target
            assert not heading or heading in anchors(file), target


def anchors(page: Path) -> set[str]:
    """What links to the page's headings are called, as GitHub makes it of their words."""
    headings = re.findall(r"^#+ (.+)$", FENCE.sub("", page.read_text(encoding="utf-8")), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_row_of_a_table_has_as_many_cells_as_its_head(page: Path) -> None:
    text = FENCE.sub("", page.read_text(encoding="utf-8"))
    for table in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE):
        assert len({len(cells(line)) for line in table.splitlines()}) == 1, table


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in re.split(r"(?<!\\)\|", line.strip())[1:-1]]


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_study_and_script_of_a_page_exists(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert set(re.findall(r"`pilotage study ([a-z]\w*)", text)) <= set(STUDIES)
    for script in re.findall(r"\bbenchmarks/\w+\.py\b", text):
        assert (ROOT / script).is_file(), script


def verdicts() -> list[list[str]]:
    rows = [cells(line) for line in RESULTS.read_text(encoding="utf-8").splitlines() if line.startswith("|")]
    return [row for row in rows if row[0] != "claim" and not set(row[0]) <= set("-")]


def test_every_claim_has_its_source_verdict_figure_command_and_file() -> None:
    for claim, source, verdict, figure, command, file in verdicts():
        assert claim and source
        assert re.search(r"\*\*(holds|does not hold|cannot be told)\*\*", verdict), claim
        assert re.search(r"\d", figure), claim
        assert re.fullmatch(r"`[^`]+`", command), claim
        assert re.search(r"\]\((\.\./benchmarks/)?results/\w+\.md\)", file), claim


@pytest.mark.parametrize("command", sorted({row[4].strip("`") for row in verdicts()}))
def test_the_command_of_a_verdict_and_its_options_exist(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    program, name, *options = shlex.split(command)
    if program == "make":
        assert re.search(rf"^{name}:", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
        return
    if program == "python":
        known = (ROOT / name).read_text(encoding="utf-8")
    else:
        assert program == "pilotage"
        with pytest.raises(SystemExit) as left:
            main([name, "--help"])
        assert left.value.code == 0
        known = capsys.readouterr().out
    for option in (option for option in options if option.startswith("--")):
        assert re.search(rf"{option}(?![\w-])", known), option

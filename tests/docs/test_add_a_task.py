"""`docs/add-a-task.md` does what it says: its code, in the files it names, is a task like any other."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from pilotage.worlds.grids.views import VIEWS

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "add-a-task.md"
FENCE = re.compile(r'^```(\w+)(?: title="([^"]+)")?\n(.*?)^```$', re.MULTILINE | re.DOTALL)
NEW_FILE = "src/pilotage/worlds/grids/sokoban.py"
REGISTER = "src/pilotage/worlds/registry.py"


@dataclass(frozen=True, kw_only=True)
class Block:
    language: str
    file: str
    text: str


def blocks() -> list[Block]:
    found = FENCE.findall(PAGE.read_text(encoding="utf-8"))
    return [Block(language=language, file=file, text=text) for language, file, text in found]


def block(language: str, containing: str = "") -> str:
    [text] = [b.text for b in blocks() if (b.language, b.file) == (language, "") and containing in b.text]
    return text


def apply_diff(text: str, diff: str) -> str:
    """`text` with the lines that `diff` marks with `+` put between the unmarked ones."""
    lines = diff.splitlines(keepends=True)
    assert all(line[0] in " +" for line in lines)
    before = "".join(line[1:] for line in lines if line[0] == " ")
    assert text.count(before) == 1, f"the page's context is not in the file:\n{before}"
    return text.replace(before, "".join(line[1:] for line in lines))


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the repository's code and tests with the page's task in it."""
    root = tmp_path_factory.mktemp("newcomer")
    ignored = shutil.ignore_patterns("__pycache__", "*.safetensors")
    for folder in ("src", "tests"):
        shutil.copytree(ROOT / folder, root / folder, ignore=ignored)
    shutil.copy(ROOT / "pyproject.toml", root)
    new_file = root / NEW_FILE
    assert not new_file.exists()
    for each in blocks():
        if each.file and each.language == "python":
            path = root / each.file
            path.write_text((path.read_text() if path.exists() else "") + each.text, encoding="utf-8")
        elif each.file:
            path = root / each.file
            path.write_text(apply_diff(path.read_text(encoding="utf-8"), each.text), encoding="utf-8")
    return root


def run(copy: Path, *command: str) -> str:
    """What the command prints in the copy, whose package comes before the installed one."""
    environment = os.environ | {
        "PYTHONPATH": str(copy / "src"),
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]),
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    done = subprocess.run(command, cwd=copy, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command}:\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}"
    return done.stdout


def test_the_page_touches_one_new_file_and_the_register() -> None:
    assert {each.file for each in blocks()} == {"", NEW_FILE, REGISTER}
    added = [line for each in blocks() if each.file == REGISTER for line in each.text.splitlines()]
    assert [line for line in added if line.startswith("+")] == [
        '+    "sokoban": "pilotage.worlds.grids.sokoban:Sokoban",',
    ]


def test_the_page_s_code_follows_the_house_style(copy: Path) -> None:
    run(copy, sys.executable, "-m", "ruff", "check", NEW_FILE, REGISTER)
    run(copy, sys.executable, "-m", "ruff", "format", "--check", NEW_FILE, REGISTER)


def test_the_new_task_passes_the_contract(copy: Path) -> None:
    printed = run(copy, "bash", "-ec", block("bash", "pytest"))
    passed = re.search(r"(\d+) passed", printed)
    assert passed and int(passed[1]) > 60, printed
    assert "failed" not in printed and "skipped" not in printed


def test_the_new_task_goes_through_data_and_views(copy: Path) -> None:
    printed = run(copy, "bash", "-ec", block("bash", "data build"))
    assert re.search(r"sokoban +level +5: train 30, val 4, test 4", printed), printed
    seen = run(copy, sys.executable, "-c", block("python"))
    assert seen.count("sees the picture") == sum(spec.shows_picture for spec in VIEWS.values())
    assert "symbolic sees no picture" in seen and "teacher sees no picture" in seen
    assert "and would best answer 1. Size: " in seen
    assert seen.count("</answer>") >= 5
    assert "Push the box onto the target" in seen


def test_the_new_task_is_judged_as_the_page_shows(copy: Path) -> None:
    printed = run(copy, "bash", "-ec", block("bash", "judge"))
    assert printed.strip() == block("json").strip()
    assert json.loads(printed)["optimal"] is True

"""The training commands that the pages tell a reader to type are not refused."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest

from pilotage.cli.main import main

ROOT = Path(__file__).parent.parent
COMMAND = re.compile(r"^ *(pilotage train .+)$|`(pilotage train [^`]+)`", re.MULTILINE)


@pytest.mark.parametrize(
    "page", [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))], ids=lambda page: page.name
)
def test_every_training_command_of_a_page_is_accepted(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trained: dict[str, Any]
) -> None:
    """In their order; a RUN with a recipe is a new one. Data sets are left out, nothing is loaded or trained."""
    monkeypatch.chdir(tmp_path)
    run = ""
    for number, match in enumerate(COMMAND.finditer(page.read_text(encoding="utf-8"))):
        _, command, name, *options = shlex.split(match[1] or match[2], comments=True)
        if "--dry-run" in options:
            continue
        if name == "RUN":
            run = f"run{number}" if "--recipe" in options or not run else run
            name = run
        if "--data" in options:
            at = options.index("--data")
            del options[at : at + 2]
        assert main([command, name, *options]) == 0, match[0]

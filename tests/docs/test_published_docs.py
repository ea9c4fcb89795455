"""`docs/published-levels.md`: its maps and its line are levels, its options exist."""

from __future__ import annotations

import re
from pathlib import Path

from pilotage.cli.data import Import
from pilotage.worlds.grids.data import Json, Text
from pilotage.worlds.grids.data.importing import import_levels

PAGE = (Path(__file__).parents[2] / "docs" / "published-levels.md").read_text(encoding="utf-8")


def fences(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


def test_the_page_s_maps_and_lines_are_levels(tmp_path: Path) -> None:
    for name, drawn in zip(("frozenlake", "maze", "minibehaviour"), fences("text"), strict=True):
        (tmp_path / name).mkdir()
        (tmp_path / name / "page.txt").write_text(drawn)
    maps = import_levels(Text(), tmp_path)
    assert maps.report.counts == {"frozenlake": {"3": 1}, "maze": {"3": 1}, "minibehaviour": {"5": 1}}
    assert maps.report.is_clean
    (tmp_path / "page.jsonl").write_text("".join(fences("json")))
    lines = import_levels(Json(), tmp_path / "page.jsonl")
    assert lines.report.is_clean and lines.report.num_imported == 1


def test_the_page_s_options_are_the_command_s() -> None:
    known = {"--" + name.replace("_", "-") for name in Import.__dataclass_fields__} | {"--data", "--prompts"}
    assert set(re.findall(r"--[a-z][a-z-]+", PAGE)) - known == {"--exclude", "--help"}

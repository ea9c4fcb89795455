"""Rows, runs and variants that several tests of the page report on."""

from __future__ import annotations

import base64
import json
import re
import zlib
from html import unescape
from pathlib import Path
from typing import Any

from pilotage.evaluate.bootstrap import Interval
from pilotage.report.folder import RunFolder
from pilotage.report.gallery import Gallery
from pilotage.report.study_page import ShownVariant
from pilotage.worlds import get_task
from pilotage.worlds.score import score

STATE = {"map": ["SFF", "FHF", "FFG"]}
RIGHT = "Size: 3. Player: (0,0). Goal: (2,2). Holes: (1,1).\n"
GOAL_MISREAD = "Size: 3. Player: (0,0). Goal: (0,2). Holes: (1,1).\n"
Cell = tuple[float, int, int]
"""Mean to a tenth, and both ends of the interval, as the commands round them."""


ANSWERS = {
    "none": RIGHT + "<answer>R R D D</answer>",
    "misread": GOAL_MISREAD + "<answer>R R</answer>",
    "misplanned": RIGHT + "<answer>R D</answer>",
    "both": GOAL_MISREAD + "<answer>L</answer>",
    "format": RIGHT + "no plan",
}


def row(fault: str, number: int, **more: Any) -> dict[str, Any]:
    return scored_row(ANSWERS.get(fault, ""), number, failed=fault == "error", **more)


def scored_row(response: str, number: int, *, failed: bool = False, **more: Any) -> dict[str, Any]:
    task = get_task("frozenlake")
    scored = score(task, task.parse_state(more.get("state", STATE)), response)
    return {
        "id": f"lake-{number}",
        "condition": "image",
        "view": "student",
        "task": "frozenlake",
        "level": 3,
        "difficulty": "hard",
        "optimal_length": 4,
        "state": STATE,
        "response": response,
        "outcome": None if failed else scored.as_dict(),
        "fields": dict(scored.fields),
        "right": dict(scored.right),
        "finished": True,
        "error": "down" if failed else None,
    } | more


def run_of(stages: dict[str, dict[str, list[dict[str, Any]]]], path: str = "runs/one") -> RunFolder:
    return RunFolder(path=Path(path), config={}, summary={}, metrics={}, rows=stages, problems=())


def share(mean: float) -> Interval:
    return Interval(mean=mean, low=mean - 0.05, high=mean + 0.05, n=100)


def variant(title: str, *ends: float, reference: bool = False) -> ShownVariant:
    return ShownVariant(
        title=title,
        shares={"image": share(0.5), "text": share(0.9)},
        curves=[[(0, 0.1), (100, 0.2), (200, end)] for end in ends],
        is_reference=reference,
    )


def page_rows(page: str, section: str, table: int = 0) -> list[list[str]]:
    """Text of every cell of a section's table; cells that span rows stand in each of them."""
    content = page.partition(f'<section id="{section}"')[2].partition("</section>")[0]
    body = re.findall(r"<table.*?</table>", content, re.DOTALL)[table]
    rows: list[list[str]] = []
    spanning: list[str] = []
    for line in re.findall(r"<tr>(.*?)</tr>", body, re.DOTALL):
        cells = re.findall(r"<(t[hd])([^>]*)>(.*?)</t[hd]>", line, re.DOTALL)
        texts = [" ".join(unescape(re.sub(r"<[^>]+>", " ", text)).split()) for _, _, text in cells]
        if cells[0][0] == "th" and 'scope="rowgroup"' in cells[0][1]:
            spanning = texts[:1]
            texts = texts[1:]
        rows.append([*spanning, *texts])
    return rows


def page_cell(text: str) -> Cell:
    """`97.0 93–99.7` and `+2.0 −1 to +5`."""
    numbers = [
        float(number) for number in re.findall(r"[+-]?[\d.]+", text.replace("−", "-").replace("–", " "))
    ]
    return numbers[0], round(numbers[1]), round(numbers[2])


def chunks_of(page: str) -> list[dict[str, Any]]:
    """The page's levels, as the browser would unpack them."""
    packed = re.findall(r'<script type="text/plain" id="chunk-\d+">([^<]*)</script>', page)
    return [json.loads(zlib.decompress(base64.b64decode(text))) for text in packed]


def levels_of(gallery: Gallery) -> list[dict[str, Any]]:
    unpacked = [json.loads(zlib.decompress(base64.b64decode(chunk))) for chunk in gallery.chunks]
    return [level for chunk in unpacked for level in chunk["levels"]]

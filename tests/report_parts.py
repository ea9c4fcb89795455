"""Rows, runs and variants that several tests of the page report on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pilotage.evaluate.bootstrap import Interval
from pilotage.report.folder import RunFolder
from pilotage.report.study_page import ShownVariant
from pilotage.worlds import get_task
from pilotage.worlds.score import score

STATE = {"map": ["SFF", "FHF", "FFG"]}
RIGHT = "Size: 3. Player: (0,0). Goal: (2,2). Holes: (1,1).\n"
GOAL_MISREAD = "Size: 3. Player: (0,0). Goal: (0,2). Holes: (1,1).\n"
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
    scored = score(task, task.parse_state(STATE), response)
    return {
        "id": f"lake-{number}",
        "kind": "image",
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

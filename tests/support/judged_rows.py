"""Rows of an evaluation whose verdict is given."""

from __future__ import annotations

from typing import Any

LAKE = {"map": ["SF", "FG"]}


def row(id_: str, success: bool, *, task: str = "frozenlake", condition: str = "image", **more: Any) -> Any:
    verdict = {
        "parsed": True,
        "illegal": False,
        "success": success,
        "optimal": success,
        "num_executed": 2,
        "reason": "success" if success else "not_reached",
    }
    return {
        "id": id_,
        "condition": condition,
        "task": task,
        "level": 2,
        "state": LAKE,
        "response": "",
        "outcome": verdict,
        "right": {"Size": success},
        "error": None,
    } | more

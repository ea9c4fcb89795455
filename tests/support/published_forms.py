"""Writes small folders in the forms of the published sets, from maps of our own."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from pilotage.worlds import get_task
from pilotage.worlds.grid import MOVES

MAPS = Path("VSP-main", "maze", "task-main", "maps")
MARKS = {"S": "@", "G": "*", "H": "#", "F": "_"}
VISUALPLANNING = "dataset/{}/tokenized_dataset/SFT/test_dataset.jsonl"


def table(rows: Sequence[str], marks: dict[str, str] = MARKS) -> str:
    head = "| | " + " | ".join(f"Col {c + 1}" for c in range(len(rows))) + " |\n"
    lines = [f"| Row {r + 1} | {' | '.join(marks[x] for x in row)} |\n" for r, row in enumerate(rows)]
    return head + "".join(lines)


def words(rows: Sequence[str]) -> str:
    cells = {
        x: [(r + 1, c + 1) for r, row in enumerate(rows) for c, y in enumerate(row) if x == y] for x in "SGH"
    }
    [(pr, pc)], [(gr, gc)] = cells["S"], cells["G"]
    holes = " ".join(f"Row {r}, Column {c};" for r, c in cells["H"])
    return (
        f"This is a {len(rows)}x{len(rows)} map.\nThe player is at: row {pr}, column {pc};\n"
        + (f"The hole(s) are at: {holes}\n" if holes else "There is no holes in this map;\n")
        + f"The goal is at: Row {gr}, Column {gc}."
    )


def png(side_px: int, shade: int = 200) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (side_px, side_px), (shade, shade, 255)).save(buffer, "PNG")
    return buffer.getvalue()


def write_vsp_map(root: Path, number: int, rows: Sequence[str]) -> Path:
    """One map in its three forms, its picture a plain one of its own; the folder of its level."""
    folder = root / MAPS / f"level{len(rows)}"
    for form in ("table", "pure_text", "img"):
        (folder / form).mkdir(parents=True, exist_ok=True)
    (folder / "table" / f"{number}.txt").write_text(table(rows))
    (folder / "pure_text" / f"{number}.txt").write_text(words(rows))
    (folder / "img" / f"{number}.png").write_bytes(png(64 * len(rows), number))
    return folder


def visualplanning_row(name: str, state: Any) -> dict[str, Any]:
    """A line of the set for a state of ours, with our reference plan as its path."""
    task = get_task(name)
    data, level = task.to_json(state), task.level_of(state)
    solution = task.solve(state)
    plan = solution.plan if solution else ()
    tokens = {"input_tokens": [27, 1204], "output_tokens": [30, 7946]}
    cell, carrying = task.trace(state, ())[0], False
    path: list[Any] = [(cell, carrying)]
    for action in plan:
        if action in MOVES:
            cell = (cell[0] + MOVES[action][0], cell[1] + MOVES[action][1])
        else:
            carrying = action == "PICK"
        path.append((cell, carrying))
    if "printer" in data:
        meta = {
            "level": level,
            "start_pos": data["agent"],
            "start_dir": 3,
            "printer_pos": data["printer"],
            "table_pos": [[r, c] for c, r in sorted((c, r) for r, c in data["table"])],
            "idx": 7,
        }
        return tokens | {"input_state": [[list(cell), carries] for cell, carries in path], "meta": meta}
    indices = [r * level + c for (r, c), _ in path]
    goal = state.goal[0] * level + state.goal[1]
    layout = [list(row) for row in data["map"]] if "map" in data else data["walls"]
    meta = {
        "start_pos": indices[0],
        "target_pos": goal,
        "layout": layout,
        "distance_map": {str(indices[0]): len(plan)},
        "level": level,
    }
    return tokens | {"input_state": indices, "meta": meta}


def write_lines(path: Path, rows: Sequence[Any]) -> Path:
    """JSON lines; a row that is a text is written as it is."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path

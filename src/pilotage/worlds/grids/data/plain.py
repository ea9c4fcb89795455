"""Plain files: our own JSON lines, and maps of characters.

JSON: a line is `{"task": ..., "state": {...}}` with the state in the task's form, and where there is one `plan` (a
list of actions), `image` (a PNG file in base64) and `source` (the published set that it came from). Other fields are
ignored.

Text: a `.txt` file holds maps in the form of its task (`text_form`), one after the other with empty lines between.
The folder that a file lies in, or one above it, is named after the task, unless a task is given.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pilotage.data.source import (
    BadLevelError,
    Level,
    Malformed,
    Place,
    Source,
    find_files,
    picture_problem,
    read_bytes,
    read_lines,
)
from pilotage.errors import PilotageError
from pilotage.records import Example
from pilotage.worlds.capabilities import able
from pilotage.worlds.grid import shorten
from pilotage.worlds.registry import planning_world, planning_worlds
from pilotage.worlds.task import Plans, TextMaps

MAX_MAPS_BYTES = 16 * 2**20


@dataclass(frozen=True)
class Json:
    """States in our own JSON form, one a line."""

    name = "json"
    source: Source | None = None

    def finds(self, root: Path) -> bool:
        return bool(find_files(root, ".jsonl"))

    def read(self, root: Path) -> Iterator[Level | Malformed]:
        files = find_files(root, ".jsonl")
        if not files:
            raise PilotageError(f"{root} holds no .jsonl file; give a folder of such files, or one file")
        for path in files:
            for place, row in read_lines(path, root):
                yield row if isinstance(row, Malformed) else _read_row(place, row)


def _read_row(place: Place, row: dict[str, Any]) -> Level | Malformed:
    try:
        if not isinstance(row.get("task"), str) or "state" not in row:
            raise BadLevelError('expected an object with "task" (a name) and "state" (an object)')
        task = planning_world(row["task"], Plans)
        state = task.parse_state(row["state"])
        source = row.get("source", "")
        if not isinstance(source, str) or len(source) > 100:
            raise BadLevelError(f"source is {shorten(source)}, not the name of a set")
        plan, plan_problem = _plan(row.get("plan"), task)
        picture, wrong_picture = _picture(row.get("image"))
    except PilotageError as error:
        return Malformed(place=place, problem=str(error))
    return Level(
        place=place,
        task=task,
        state=state,
        plan=plan,
        plan_problem=plan_problem,
        picture=picture,
        picture_problem=wrong_picture,
        source=source,
    )


def _plan(value: Any, task: Plans[Any]) -> tuple[tuple[str, ...] | None, str]:
    """The plan, or None, and why it cannot be read."""
    if value is None:
        return None, ""
    if not isinstance(value, list) or not all(isinstance(action, str) for action in value):
        return None, f"plan is {shorten(value)}, not a list of actions"
    unknown = [action for action in value if action not in task.actions]
    if unknown:
        return None, f"plan has {shorten(unknown[0])}, no action of {task.name}: {' '.join(task.actions)}"
    return tuple(value), ""


def _picture(value: Any) -> tuple[bytes | None, str]:
    """PNG bytes, or None, and why they cannot be used."""
    if value is None:
        return None, ""
    if not isinstance(value, str):
        return None, f"image is {shorten(value)}, not a PNG file in base64"
    try:
        png = base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError):
        return None, f"image is {shorten(value)}, not base64"
    problem = picture_problem(png)
    return (None, f"image: {problem}") if problem else (png, "")


def level_row(example: Example, source: str = "") -> dict[str, Any]:
    """The line that `Json` reads back as the same level, picture and all."""
    row: dict[str, Any] = {
        "task": example.task,
        "state": dict(example.state),
        "plan": list(example.plan),
    }
    if example.image:
        row["image"] = base64.b64encode(example.image).decode("ascii")
    return row | ({"source": source} if source else {})


@dataclass(frozen=True)
class Text:
    """Levels drawn as maps of characters."""

    task: Plans[Any] | None = None
    """What the maps are of; by None, the folders tell."""

    name = "text"
    source: Source | None = None

    def finds(self, root: Path) -> bool:
        return bool(find_files(root, ".txt"))

    def read(self, root: Path) -> Iterator[Level | Malformed]:
        files = find_files(root, ".txt")
        if not files:
            raise PilotageError(f"{root} holds no .txt file; give a folder of maps, or one file")
        for path in files:
            yield from self._read_file(path, root)

    def _read_file(self, path: Path, root: Path) -> Iterator[Level | Malformed]:
        file = path.name if path == root else path.relative_to(root).as_posix()
        try:
            task = self.task or _task_of(path)
            maps = able(task, TextMaps)
            if maps is None:
                raise BadLevelError(f"{task.name} has no form for maps of characters; use JSON")
            text = read_bytes(path, MAX_MAPS_BYTES).decode("utf-8-sig")
        except PilotageError as error:
            yield Malformed(place=Place(file=file), problem=str(error))
            return
        except UnicodeDecodeError as error:
            yield Malformed(
                place=Place(file=file), problem=f"not UTF-8: {error.reason} at byte {error.start}"
            )
            return
        for line, drawn in _blocks(text):
            place = Place(file=file, line=line)
            try:
                yield Level(place=place, task=task, state=maps.parse_text(drawn))
            except PilotageError as error:
                yield Malformed(place=place, problem=str(error))


def _task_of(path: Path) -> Plans[Any]:
    folders = [folder.name for folder in path.resolve().parents]
    for folder in folders:
        for task in planning_worlds():
            if task.name == folder:
                return task
    names = ", ".join(task.name for task in planning_worlds())
    raise BadLevelError(f"no folder above it is named after a task ({names}): give the task")


def _blocks(text: str) -> Iterator[tuple[int, str]]:
    """(1-based line, map) of each stretch of lines that are not empty."""
    begun, lines = 0, list[str]()
    for number, line in enumerate((*text.split("\n"), ""), start=1):
        if line.strip():
            begun = begun or number
            lines.append(line)
        elif lines:
            yield begun, "\n".join(lines)
            begun, lines = 0, []

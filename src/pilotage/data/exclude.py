"""States that no data set may hold: those of published levels, read from JSONL files.

A line is `{"task": "maze", "state": {...}}` with the state in the task's JSON form; other fields are ignored.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pilotage.errors import PilotageError
from pilotage.tasks import get_task
from pilotage.tasks.task import state_hash


@dataclass(frozen=True, kw_only=True)
class ExcludedFile:
    name: str
    """Without its folder, so that a manifest does not depend on where the file lay."""
    sha256: str
    num_rows: int


@dataclass(frozen=True, kw_only=True)
class Exclusions:
    hashes: frozenset[str] = frozenset()
    """Hashes of the excluded states, of all tasks and levels together."""
    counts: tuple[tuple[str, int, int], ...] = ()
    """(task, level, number of distinct excluded states), sorted."""
    files: tuple[ExcludedFile, ...] = ()

    @property
    def digest(self) -> str:
        """The same for the same set of states, whatever the files and the order they came in."""
        return hashlib.sha256("\n".join(sorted(self.hashes)).encode()).hexdigest()


def load_exclusions(paths: Iterable[Path | str]) -> Exclusions:
    """Raises PilotageError that names the file and the line for whatever cannot be read as a state."""
    levels: dict[str, tuple[str, int]] = {}
    files = []
    for path in map(Path, paths):
        try:
            raw = path.read_bytes()
        except OSError as error:
            raise PilotageError(f"cannot read exclusion file {path}: {error.strerror or error}") from error
        num_rows = 0
        for number, line in enumerate(raw.splitlines(), start=1):
            if line.strip():
                try:
                    hash_, task, level = _identify(line)
                except PilotageError as error:
                    raise PilotageError(f"{path} line {number}: {error}") from error
                levels[hash_] = (task, level)
                num_rows += 1
        files.append(ExcludedFile(name=path.name, sha256=hashlib.sha256(raw).hexdigest(), num_rows=num_rows))
    counts = tuple((task, level, n) for (task, level), n in sorted(Counter(levels.values()).items()))
    return Exclusions(hashes=frozenset(levels), counts=counts, files=tuple(files))


def _identify(line: bytes) -> tuple[str, str, int]:
    """Hash, task and level of the state on one line."""
    try:
        row: Any = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise PilotageError(f"not JSON ({error}); expected " + '{"task": ..., "state": {...}}') from error
    if not isinstance(row, dict) or not isinstance(row.get("task"), str) or "state" not in row:
        raise PilotageError('expected an object with "task" (a name) and "state" (an object)')
    task = get_task(row["task"])
    state = task.parse_state(row["state"])
    return state_hash(task, state), task.name, task.level_of(state)

"""States that no data set may hold: those of published levels, in any of the forms they come in.

* a `.jsonl` file of `{"task": "maze", "state": {...}}`, the state in the task's JSON form, other fields ignored; or of
  VisualPlanning's lines;
* the folder of a data set or of an import: all its splits;
* a folder of a published set as it was downloaded, or of such `.jsonl` files.

What cannot be read as a state is an error: a level that is only almost excluded is not excluded.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pilotage.data.source import Loader, Malformed
from pilotage.data.store import MANIFEST, read_manifest, read_shard
from pilotage.errors import PilotageError
from pilotage.files import file_hash
from pilotage.worlds.registry import beside_worlds, planning_world
from pilotage.worlds.task import Plans, state_hash


@dataclass(frozen=True, kw_only=True)
class ExcludedFile:
    """One file or folder of excluded states."""

    name: str
    """Without its folder, so that a manifest does not depend on where the file lay."""
    kind: str
    """`json`, `vsp`, `visualplanning`, `data set`, or `import` and what was imported."""
    sha256: str
    """Of a file's bytes; of a folder, over the sorted hashes of its states."""
    num_rows: int
    num_states: int
    """Distinct ones."""


@dataclass(frozen=True, kw_only=True)
class Exclusions:
    """States that a data set must not hold, and the files that they come from."""

    hashes: frozenset[str] = frozenset()
    """Hashes of the excluded states, of all tasks and levels together."""
    counts: tuple[tuple[str, int, int], ...] = ()
    """(task, level, number of distinct excluded states), sorted."""
    files: tuple[ExcludedFile, ...] = ()

    @property
    def digest(self) -> str:
        """The same for the same set of states, whatever the files and the order they came in."""
        return _digest(self.hashes)


def load_exclusions(paths: Iterable[Path | str]) -> Exclusions:
    """Raises PilotageError that names the file and the line for whatever cannot be read as a state."""
    levels: dict[str, tuple[str, int]] = {}
    files = []
    for path in map(Path, paths):
        kind, states = _states(path)
        num_rows, hashes = 0, set[str]()
        for task, state in states:
            hash_ = state_hash(task, state)
            hashes.add(hash_)
            levels[hash_] = (task.name, task.level_of(state))
            num_rows += 1
        sha256 = file_hash(path) if path.is_file() else _digest(hashes)
        files.append(
            ExcludedFile(name=path.name, kind=kind, sha256=sha256, num_rows=num_rows, num_states=len(hashes))
        )
    counts = tuple((task, level, n) for (task, level), n in sorted(Counter(levels.values()).items()))
    return Exclusions(hashes=frozenset(levels), counts=counts, files=tuple(files))


def excluded_states(paths: Iterable[Path | str]) -> Iterator[tuple[Plans[Any], Any]]:
    """The states themselves, with their tasks; raises as `load_exclusions` does."""
    for path in map(Path, paths):
        yield from _states(path)[1]


def _states(path: Path) -> tuple[str, Iterator[tuple[Plans[Any], Any]]]:
    """What kind of file or folder it is, and its states."""
    if not path.exists():
        raise PilotageError(f"cannot read exclusion file {path}: there is no such file or folder")
    if (path / MANIFEST).exists():
        return _data_set(path)
    loader = _loader_of(path)
    return loader.name, _published(loader, path)


def _loader_of(path: Path) -> Loader:
    """The first that finds its files there, of all worlds' loaders of published sets, or else of plain lines."""
    modules = list(beside_worlds("data"))
    published = [loader for module in modules for loader in getattr(module, "PUBLISHED", ())]
    plain = [loader for module in modules for loader in getattr(module, "PLAIN", ())]
    return next((loader for loader in published if loader.finds(path)), plain[0])


def _data_set(root: Path) -> tuple[str, Iterator[tuple[Plans[Any], Any]]]:
    """What kind it is, and its states, one shard in memory at a time."""
    manifest = read_manifest(root)
    loader = manifest["arguments"].get("import")

    def states() -> Iterator[tuple[Plans[Any], Any]]:
        for shard in manifest["shards"]:
            for example in read_shard(root, shard):
                task = planning_world(example.task, Plans)
                yield task, task.parse_state(example.state)

    return (f"import {loader}" if loader else "data set"), states()


def _published(loader: Loader, path: Path) -> Iterator[tuple[Plans[Any], Any]]:
    for piece in loader.read(path):
        if isinstance(piece, Malformed):
            line = "" if piece.place.line is None else f" line {piece.place.line}"
            file = path if path.is_file() else path / piece.place.file
            raise PilotageError(
                f"{file}{line}: {piece.problem}; nothing is excluded by halves: mend it, or import the set "
                "(`pilotage data import` lists what is malformed) and exclude the folder of the import"
            )
        yield piece.task, piece.state


def _digest(hashes: Iterable[str]) -> str:
    return hashlib.sha256("\n".join(sorted(hashes)).encode()).hexdigest()

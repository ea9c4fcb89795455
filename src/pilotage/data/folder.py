"""The folder of a data set while it is being built: who may write, what is finished, what must be redone."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pilotage.data.store import BUILD_FOLDER, MANIFEST, Shard, read_manifest, read_shard
from pilotage.errors import PilotageError
from pilotage.files import append, locked, read_json, write_json, write_whole
from pilotage.records import SPLITS


class Folder:
    """A data set in the making. Shards count as finished once `record` has noted them in the journal."""

    def __init__(self, root: Path, arguments: Mapping[str, Any], files: Sequence[str]) -> None:
        self.root = root
        self.finished: dict[str, Shard] = {}
        """File -> shard, of those that need not be written again."""
        self._arguments = dict(arguments)
        self._files = frozenset(files)

    @property
    def complete(self) -> bool:
        return (self.root / MANIFEST).exists() and self._files <= self.finished.keys()

    def record(self, shard: Shard) -> None:
        append(self._journal, f"{json.dumps(asdict(shard))}\n".encode())
        self.finished[shard.file] = shard

    def finish(self, manifest: Mapping[str, Any]) -> None:
        write_json(self.root / MANIFEST, manifest)
        self.leave()

    def leave(self) -> None:
        """Nothing is left to do: only the data set stays."""
        shutil.rmtree(self.root / BUILD_FOLDER)

    def resume(self, *, overwrite: bool) -> None:
        """Finds what is finished and clears away the rest. Raises PilotageError for other arguments' work."""
        try:
            held = self._held_arguments()
        except PilotageError:
            if not overwrite:
                raise
            held = None
        if held is not None and held != self._arguments and not overwrite:
            raise PilotageError(
                f"{self.root} holds {'a data set' if self._has_manifest else 'an unfinished build'} of other "
                f"arguments ({_difference(held, self._arguments)}): give another folder, the same arguments, or "
                "--overwrite"
            )
        if held == self._arguments:
            noted = read_manifest(self.root)["shards"] if self._has_manifest else self._read_journal()
            self.finished = {shard.file: shard for shard in noted if self._is_whole(shard)}
        if self.complete:
            return
        # In this order: killed anywhere between, the folder still tells what it holds.
        lines = (json.dumps(asdict(shard)) + "\n" for shard in self.finished.values())
        write_whole(self._journal, "".join(lines))
        write_json(self.root / BUILD_FOLDER / "arguments.json", self._arguments)
        (self.root / MANIFEST).unlink(missing_ok=True)
        for split in SPLITS:
            for path in (self.root / split).glob("*.p*"):
                if path.suffix in (".parquet", ".partial") and f"{split}/{path.name}" not in self.finished:
                    path.unlink()

    @property
    def _journal(self) -> Path:
        return self.root / BUILD_FOLDER / "shards.jsonl"

    @property
    def _has_manifest(self) -> bool:
        return (self.root / MANIFEST).exists()

    def _held_arguments(self) -> dict[str, Any] | None:
        if self._has_manifest:
            return read_manifest(self.root)["arguments"]
        path = self.root / BUILD_FOLDER / "arguments.json"
        return read_json(path, remedy=f"remove {self.root}, or give --overwrite") if path.exists() else None

    def _read_journal(self) -> list[Shard]:
        if not self._journal.exists():
            return []
        shards = []
        # What follows the last line end was cut off by the kill; a damaged line's shard is made again.
        for line in self._journal.read_bytes().split(b"\n")[:-1]:
            with contextlib.suppress(ValueError, TypeError, RecursionError):
                shards.append(Shard(**json.loads(line)))
        return shards

    def _is_whole(self, shard: Shard) -> bool:
        """Whether the shard's rows are those that were written: a file of the right size may be damaged."""
        try:
            return shard.file in self._files and bool(read_shard(self.root, shard))
        except PilotageError:
            return False


@contextmanager
def open_folder(
    root: Path, arguments: Mapping[str, Any], files: Sequence[str], *, overwrite: bool
) -> Iterator[Folder]:
    """The folder, ours alone until the block ends. Raises PilotageError when it holds something else."""
    if root.exists() and not root.is_dir():
        raise PilotageError(f"{root} is a file; a data set is a folder")
    if (
        root.exists()
        and any(root.iterdir())
        and not any((root / x).exists() for x in (MANIFEST, BUILD_FOLDER))
    ):
        raise PilotageError(f"{root} holds other files and no data set: give a new or an empty folder")
    busy = f"another build is writing to {root}: wait for it or give another folder"
    with locked(root / BUILD_FOLDER / "lock", busy=busy):
        folder = Folder(root, arguments, files)
        try:
            folder.resume(overwrite=overwrite)
            yield folder
        finally:
            if folder.complete or (root / MANIFEST).exists():
                shutil.rmtree(root / BUILD_FOLDER, ignore_errors=True)


def _difference(held: Mapping[str, Any], asked: Mapping[str, Any]) -> str:
    names = [name for name in {**held, **asked} if held.get(name) != asked.get(name)]
    return ", ".join(f"{name} {held.get(name)}, now {asked.get(name)}" for name in names)

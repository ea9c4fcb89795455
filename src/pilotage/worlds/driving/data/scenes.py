"""Scenes from elsewhere: read from JSON lines or from GPT-Driver's pickle, and kept as a set of scenes.

manifest.json       where they came from, counts, and the hash of the lines; written last
scenes.jsonl.gz     one line a scene in its JSON form, with its split
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from pilotage import __version__
from pilotage.data.json_lines import BadLineError, numbered_lines, parse_object
from pilotage.data.source import Note
from pilotage.data.store import MANIFEST
from pilotage.errors import BadStateError, PilotageError
from pilotage.files import read_json, write_json, write_whole
from pilotage.records import SPLITS, Example, Split
from pilotage.worlds.driving.data.logs import unpacked
from pilotage.worlds.driving.data.nuscenes import read_nuscenes
from pilotage.worlds.driving.scene import Scene, parse_scene, to_json
from pilotage.worlds.driving.split import split_of_group
from pilotage.worlds.driving.world import make_example

SCENES_FORMAT = "pilotage-driving-scenes"
SCENES_VERSION = 1
SCENES_FILE = "scenes.jsonl.gz"
PICKLES = (".pkl", ".pickle")

SplitRule = Literal["group", "train", "val", "test"]
"""By the hash of a scene's group, or all into one."""


@dataclass(frozen=True, kw_only=True)
class ScenesReport:
    """What became of every scene of a file."""

    num_read: int
    splits: dict[str, int]
    malformed: list[Note] = field(default_factory=list)
    duplicates: list[Note] = field(default_factory=list)
    """Scenes whose id an earlier one has; left out."""

    @property
    def num_imported(self) -> int:
        return sum(self.splits.values())


def read_scenes(path: Path) -> Iterator[tuple[Note, Scene | None]]:
    """(place and what is wrong there, scene) of every scene of a file; the note says nothing of a good one.

    `.pkl` and `.pickle` are GPT-Driver's form, read without running anything in them; other files are lines of JSON,
    compressed or not. Raises PilotageError for a file that cannot be read at all.
    """
    if path.suffix in PICKLES:
        for token, scene in read_nuscenes(path):
            told = str(scene) if isinstance(scene, BadStateError) else ""
            place = f"{path.name} frame {token[:60]}"
            yield Note(file=place, line=None, note=told), scene if isinstance(scene, Scene) else None
        return
    for number, line in numbered_lines(io.BytesIO(unpacked(path))):
        try:
            yield Note(file=path.name, line=number, note=""), parse_scene(parse_object(line))
        except (BadLineError, BadStateError) as error:
            yield Note(file=path.name, line=number, note=str(error)), None


def import_scenes(
    path: Path, out: Path | None, *, split: SplitRule = "group", overwrite: bool = False
) -> ScenesReport:
    """Reads a file, writes its scenes as a set where `out` is given, and reports. Raises PilotageError."""
    if out is not None and out.exists() and not overwrite and any(out.iterdir()):
        raise PilotageError(f"{out} is not empty: give a new folder, or --overwrite")
    lines: dict[str, bytes] = {}
    report = ScenesReport(num_read=0, splits=dict.fromkeys(SPLITS, 0))
    num_read = 0
    for note, scene in read_scenes(path):
        num_read += 1
        if scene is None:
            report.malformed.append(note)
        elif scene.id in lines:
            report.duplicates.append(Note(file=note.file, line=note.line, note=f"{scene.id} again"))
        else:
            where: Split = split_of_group(scene.group) if split == "group" else split
            report.splits[where] += 1
            row = {"split": where, **to_json(scene)}
            lines[scene.id] = json.dumps(row, separators=(",", ":")).encode() + b"\n"
    report = ScenesReport(
        num_read=num_read, splits=report.splits, malformed=report.malformed, duplicates=report.duplicates
    )
    if out is not None:
        if not lines:
            raise PilotageError(
                f"{path} has no scene that can be used, of {num_read} read; nothing is written"
            )
        _write(out, b"".join(lines.values()), path, report)
    return report


def _write(out: Path, lines: bytes, path: Path, report: ScenesReport) -> None:
    out.mkdir(parents=True, exist_ok=True)
    (out / MANIFEST).unlink(missing_ok=True)
    write_whole(out / SCENES_FILE, gzip.compress(lines, compresslevel=6, mtime=0))
    write_json(
        out / MANIFEST,
        {
            "format": SCENES_FORMAT,
            "format_version": SCENES_VERSION,
            "pilotage": __version__,
            "from": path.name,
            "counts": report.splits,
            "sha256": hashlib.sha256(lines).hexdigest(),
        },
    )


def load_scenes(root: Path, split: Split) -> list[Example]:
    """The scenes of a split as examples. Raises PilotageError in one line, with the place, for a damaged set."""
    manifest: dict[str, Any] = read_json(root / MANIFEST, remedy="import the scenes again")
    if manifest.get("format_version") != SCENES_VERSION:
        raise PilotageError(f"{root} is no set of scenes of this version; import them again")
    lines = unpacked(root / SCENES_FILE)
    if hashlib.sha256(lines).hexdigest() != manifest.get("sha256"):
        raise PilotageError(f"{root / SCENES_FILE} is not what the manifest says; import the scenes again")
    rows = [parse_object(line) for _, line in numbered_lines(io.BytesIO(lines))]
    found = [make_example(parse_scene(row), split=split) for row in rows if row.get("split") == split]
    if not found:
        tally = Counter(str(row.get("split")) for row in rows)
        raise PilotageError(f"{root} has no scenes of the split {split}; it has {dict(tally)}")
    return found

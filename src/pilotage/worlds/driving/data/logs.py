"""Sets of logs on disk: lines of JSON in compressed shards beside a manifest. One comes with the package.

    manifest.json           what it was made with, counts, and each shard's logs and hash; written last
    logs-00000.jsonl.gz     one line a drive, as `pilotage.worlds.driving.log` tells it

Hashes are over the lines, so that they do not depend on who compressed them.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import zlib
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from pilotage import __version__
from pilotage.data.json_lines import BadLineError, numbered_lines, parse_object
from pilotage.data.store import MANIFEST, joint_hash
from pilotage.errors import BadStateError, PilotageError
from pilotage.files import read_json, write_json, write_whole
from pilotage.records import SPLITS, Split
from pilotage.worlds.driving.log import DriveLog, parse_log
from pilotage.worlds.driving.split import split_of_group

LOGS_FORMAT = "pilotage-driving-logs"
LOGS_VERSION = 1
MAX_SHARD_BYTES = 2**30
"""Of a shard's lines: a file of strangers that unpacks to more is refused."""
SHIPPED = Path(__file__).parent.parent / "pack"
"""The logs that come with the package."""
SHIPPED_SHA256 = "d1c6abe8e42709e711e56688de616d760149f66f33b8187d286756824faf64d7"
"""The set's hash, as its manifest has it."""


def write_logs(
    root: Path, shards: Sequence[Sequence[Mapping[str, Any]]], arguments: Mapping[str, Any], **told: Any
) -> dict[str, Any]:
    """Writes a set, one shard after the other, and returns its manifest; `told` are more of its entries."""
    (root / MANIFEST).unlink(missing_ok=True)
    entries, counts = [], {split: {"logs": 0, "frames": 0} for split in SPLITS}
    for number, shard in enumerate(shards):
        lines = b"".join(json.dumps(log, separators=(",", ":")).encode() + b"\n" for log in shard)
        file = f"logs-{number:05d}.jsonl.gz"
        # Without the time of writing: the same logs are the same file.
        write_whole(root / file, gzip.compress(lines, compresslevel=9, mtime=0))
        entries.append({"file": file, "num_logs": len(shard), "sha256": hashlib.sha256(lines).hexdigest()})
        for log in map(parse_log, shard):
            tally = counts[split_of_group(log.group)]
            tally["logs"] += 1
            tally["frames"] += len(log.frames)
    manifest = {
        "format": LOGS_FORMAT,
        "format_version": LOGS_VERSION,
        "pilotage": __version__,
        "arguments": dict(arguments),
        **told,
        "num_logs": sum(entry["num_logs"] for entry in entries),
        "num_frames": sum(tally["frames"] for tally in counts.values()),
        "counts": counts,
        "sha256": joint_hash(entry["sha256"] for entry in entries),
        "shards": entries,
    }
    write_json(root / MANIFEST, manifest)
    return manifest


def read_logs_manifest(root: Path) -> dict[str, Any]:
    """Raises PilotageError that says what `root` is instead."""
    remedy = "make one: pilotage data driving --out FOLDER"
    manifest = read_json(root / MANIFEST, remedy=remedy)
    shards = manifest.get("shards")
    right = (manifest.get("format"), manifest.get("format_version")) == (LOGS_FORMAT, LOGS_VERSION)
    if (
        not right
        or not isinstance(shards, list)
        or not all(isinstance(x, dict) and {"file", "num_logs", "sha256"} <= set(x) for x in shards)
    ):
        raise PilotageError(f"{root} is no set of driving logs of this version; {remedy}")
    return manifest


def load_logs(root: Path | str = SHIPPED, split: Split | None = None) -> tuple[DriveLog, ...]:
    """The logs of a split, in the set's order; None means all.

    Raises PilotageError, with file and line, where a shard is missing, truncated, damaged or not what the manifest
    says.
    """
    logs = _all_logs(Path(root), _stamp(Path(root)))
    return tuple(log for log in logs if split in (None, split_of_group(log.group)))


def _stamp(root: Path) -> int:
    try:
        return (root / MANIFEST).stat().st_mtime_ns
    except OSError:
        return 0


@lru_cache(maxsize=2)
def _all_logs(root: Path, stamp: int) -> tuple[DriveLog, ...]:
    """Every log of a set; read once for as long as its manifest is the same file."""
    manifest = read_logs_manifest(root)
    logs = [log for shard in manifest["shards"] for log in _read_shard(root, shard)]
    seen: set[str] = set()
    for log in logs:
        if log.id in seen:
            raise PilotageError(f"{root} has two logs {log.id!r}; make the set again")
        seen.add(log.id)
    return tuple(logs)


def _read_shard(root: Path, shard: Mapping[str, Any]) -> Iterable[DriveLog]:
    path = root / Path(str(shard["file"])).name
    lines = unpacked(path)
    if hashlib.sha256(lines).hexdigest() != shard["sha256"]:
        raise PilotageError(
            f"{path} does not hold what the manifest says (its hash differs); make the set again"
        )
    for number, line in numbered_lines(io.BytesIO(lines)):
        try:
            yield parse_log(parse_object(line))
        except (BadLineError, BadStateError) as error:
            raise PilotageError(f"{path} line {number}: {error}") from None


def unpacked(path: Path, most: int = MAX_SHARD_BYTES) -> bytes:
    """What is in a file, unpacked where it is compressed. Raises PilotageError in one line."""
    try:
        content = path.read_bytes()
        if not content.startswith(b"\x1f\x8b"):
            return content
        with gzip.open(io.BytesIO(content)) as file:
            lines = file.read(most + 1)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise PilotageError(f"{path} is truncated or damaged ({error})") from None
    except OSError as error:
        raise PilotageError(f"{path} cannot be read: {error.strerror}") from None
    if len(lines) > most:
        raise PilotageError(f"{path} unpacks to more than {most} bytes")
    return lines

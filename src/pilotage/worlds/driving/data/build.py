"""Logs made in the simulator: the same arguments give the same logs, whatever the number of processes.

Chunks of map seeds are driven in processes of their own and taken in their order, until there are logs enough. What is
finished stays: killed and run again, the build goes on. A process that dies or hangs is asked again, and counted apart.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from pilotage.data.store import MANIFEST
from pilotage.errors import PilotageError
from pilotage.files import PARTIAL, locked
from pilotage.worlds.driving.data.logs import read_logs_manifest, write_logs
from pilotage.worlds.driving.data.simulate import (
    CHUNK_SEEDS,
    DENSITY,
    EXPERT_KM_H,
    SIMULATOR_VERSION,
    TRAFFIC_KM_H,
)

SIMULATE = "pilotage.worlds.driving.data.simulate"
NUM_TRIES = 3
CHUNK_TIMEOUT_S = 3_600.0
"""A chunk takes half a minute of a CPU, and on a machine with many times as much to do more than ten."""
MAX_EMPTY = 20
"""Chunks without any drive that arrives, one after the other, after which something is wrong."""
_BUILD = ".driving"

Progress = Callable[[int, int], None]


@dataclass(frozen=True, kw_only=True)
class LogsConfig:
    """Which drives, and where they are written."""

    out: Path
    """Folder of the set; new, empty, or one of the same arguments, which goes on."""
    num_logs: int = 400
    """Drives that arrive; of about four begun one does not."""
    first_chunk: int = 0
    """Map seeds begin at sixteen times this, e.g. for roads that another set does not have."""
    num_workers: int = max(1, min(8, os.cpu_count() or 1))
    """Processes, each with a simulator of about 0.5 GB."""
    overwrite: bool = False
    """Replace a set of other arguments in the same folder."""


def build_logs(config: LogsConfig, progress: Progress | None = None) -> dict[str, Any]:
    """Writes the logs and returns the manifest. Raises PilotageError for what cannot be had."""
    if config.num_logs < 1 or config.first_chunk < 0 or config.num_workers < 1:
        raise PilotageError(
            f"num_logs {config.num_logs} and num_workers {config.num_workers} must be at least 1, "
            f"first_chunk {config.first_chunk} at least 0"
        )
    arguments = {
        "simulator": SIMULATOR_VERSION,
        "num_logs": config.num_logs,
        "first_chunk": config.first_chunk,
        "density": DENSITY,
        "expert_km_h": EXPERT_KM_H,
        "traffic_km_h": list(TRAFFIC_KM_H),
    }
    if (held := _held(config, arguments)) is not None:
        return held
    if find_spec("metadrive") is None:
        raise PilotageError(
            "making logs needs MetaDrive, which is not installed: pip install 'pilotage[driving]' with Python 3.11; "
            "the shipped logs need no simulator"
        )
    build = config.out / _BUILD
    with locked(build / "lock", busy=f"another command is writing logs to {config.out}: wait for it"):
        _check_begun(config, build, arguments)
        shards, told = _drive(config, build, progress)
        manifest = write_logs(config.out, shards, arguments, **told)
        shutil.rmtree(build)
    return manifest


def _held(config: LogsConfig, arguments: dict[str, Any]) -> dict[str, Any] | None:
    """The manifest of a set that is complete; None where there is work to do. Raises PilotageError for another's."""
    root = config.out
    if root.exists() and not root.is_dir():
        raise PilotageError(f"{root} is a file; a set of logs is a folder")
    if (root / MANIFEST).exists():
        held = read_logs_manifest(root)
        if held["arguments"] == arguments:
            return held
        if not config.overwrite:
            raise PilotageError(
                f"{root} holds logs of other arguments: give another folder, the same arguments, or --overwrite"
            )
    elif root.exists() and any(path.name != _BUILD for path in root.iterdir()):
        raise PilotageError(f"{root} holds other files and no logs: give a new or an empty folder")
    return None


def _check_begun(config: LogsConfig, build: Path, arguments: dict[str, Any]) -> None:
    """Leaves the folder of finished chunks with those of this simulator's version alone."""
    path, told = build / "arguments.json", json.dumps({"simulator": arguments["simulator"]})
    if not path.exists() or path.read_text(encoding="utf-8") != told:
        for left in build.glob("chunk-*"):
            left.unlink()
        path.write_text(told, encoding="utf-8")


def _drive(
    config: LogsConfig, build: Path, progress: Progress | None
) -> tuple[list[list[dict[str, Any]]], dict[str, Any]]:
    """The logs of each chunk, as many as are wanted, and what the manifest tells of the drives that gave none."""
    shards: list[list[dict[str, Any]]] = []
    failed: Counter[str] = Counter()
    asked_again: Counter[str] = Counter()
    num_logs = num_empty = 0
    waiting: dict[int, Future[list[dict[str, Any]]]] = {}
    with ThreadPoolExecutor(config.num_workers) as pool:
        chunk = following = config.first_chunk
        try:
            while num_logs < config.num_logs:
                while len(waiting) < config.num_workers:
                    waiting[following] = pool.submit(_chunk, build, following, asked_again)
                    following += 1
                drives = waiting.pop(chunk).result()
                logs = [_named(drive) for drive in drives if "failed" not in drive]
                failed.update(drive["failed"] for drive in drives if "failed" in drive)
                num_empty = 0 if logs else num_empty + 1
                if num_empty == MAX_EMPTY:
                    raise PilotageError(f"{MAX_EMPTY * CHUNK_SEEDS} drives, and none arrived: {dict(failed)}")
                shards.append(logs[: config.num_logs - num_logs])
                num_logs += len(shards[-1])
                chunk += 1
                if progress is not None:
                    progress(num_logs, config.num_logs)
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
    told = {"num_drives": (chunk - config.first_chunk) * CHUNK_SEEDS, "failed": dict(sorted(failed.items()))}
    return [shard for shard in shards if shard], {**told, "asked_again": dict(sorted(asked_again.items()))}


def _chunk(build: Path, chunk: int, asked_again: Counter[str]) -> list[dict[str, Any]]:
    """The drives of a chunk: those of its file, which a process writes where it is not there."""
    path = build / f"chunk-{chunk:05d}.jsonl"
    told = ""
    for _ in range(NUM_TRIES):
        if path.exists():
            return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        partial = path.with_suffix(PARTIAL)
        command = [sys.executable, "-m", SIMULATE, str(chunk), str(partial)]
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, timeout=CHUNK_TIMEOUT_S, check=False
            )
        except subprocess.TimeoutExpired:
            told = f"no end after {CHUNK_TIMEOUT_S:g} s"
            asked_again["hung"] += 1
            continue
        if done.returncode == 0:
            os.replace(partial, path)
        else:
            told = (done.stderr.strip().splitlines() or ["without a word"])[-1]
            asked_again["died"] += 1
    if path.exists():
        return _chunk(build, chunk, asked_again)
    raise PilotageError(f"the simulator failed {NUM_TRIES} times on chunk {chunk}: {told}")


def _named(drive: dict[str, Any]) -> dict[str, Any]:
    kind, seed = drive["map"], drive["seed"]
    rest = {name: value for name, value in drive.items() if name not in ("map", "seed")}
    return {"id": f"driving-{kind.lower()}-{seed}", "group": str(seed), "map": kind, **rest}

"""Stands in for the simulator's process: `python -m fake_drives CHUNK FILE` writes drives without any simulator.

It imports nothing of ours, so that it starts at once. `FAKE_DRIVES_FOLDER` holds the drive that all of them are
(`log.json`), and is told which chunks were asked for. `FAKE_DRIVES_FAULT` says what happens to chunk 1: it dies or
hangs once (`die`, `hang`), or dies each time (`always`).
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

MAPS = ("SXS", "STS", "SCS", "random")


def main() -> None:
    chunk, path = int(sys.argv[1]), Path(sys.argv[2])
    folder = Path(os.environ["FAKE_DRIVES_FOLDER"])
    (folder / f"asked-{chunk}-{time.monotonic_ns()}").touch()
    fault, mark = os.environ.get("FAKE_DRIVES_FAULT"), folder / "fault"
    if fault and chunk == 1 and (fault == "always" or not mark.exists()):
        mark.touch()
        if fault == "hang":
            time.sleep(600)
        raise SystemExit("the engine is gone")
    message = json.loads((folder / "log.json").read_text())
    lines = []
    for seed in range(16 * chunk, 16 * chunk + 16):
        drive = {"seed": seed, "map": MAPS[chunk % 4]}
        lines.append(json.dumps(drive | ({"failed": "crash"} if seed % 4 == 3 else message)))
    path.write_text("".join(f"{line}\n" for line in lines))


if __name__ == "__main__":
    main()

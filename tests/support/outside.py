"""Programs that are run as somebody else would, who has modules of their own in a folder."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def installed(folder: Path, name: str, text: str, group: str, value: str) -> None:
    """A module, and what an installation of its package leaves beside it."""
    (folder / f"{name}.py").write_text(text)
    info_dir = folder / f"{name}-1.0.dist-info"
    info_dir.mkdir()
    (info_dir / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (info_dir / "entry_points.txt").write_text(f"[{group}]\n{value}\n")


def run_in(folder: Path, *arguments: str) -> str:
    """What Python prints, begun in the folder with its modules beside ours; it must end well."""
    path = os.pathsep.join(map(str, (ROOT / "src", folder)))
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done.stdout

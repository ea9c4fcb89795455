"""`docs/your-own-4b.md`: the commands of its rehearsal, line by line as they stand on the page."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from pilotage.files import read_json

PAGE = Path(__file__).parents[2] / "docs" / "your-own-4b.md"


def block(title: str) -> str:
    found = re.search(rf'```bash title="{title}"\n(.*?)```', PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert found is not None, title
    return found[1]


def test_the_ten_commands_are_ten() -> None:
    lines = [line for title in ("install", "commands", "publish") for line in block(title).splitlines()]
    numbers = [int(number) for line in lines for number in re.findall(r"  # (\d+)", line)]
    assert numbers == [*range(1, 11)]
    names = set(re.findall(r"(\w+)=", block("rehearsal")))
    assert (
        names == set(re.findall(r"(\w+)=", block("real"))) == set(re.findall(r"\$(\w+)", block("commands")))
    )


def test_the_rehearsal_runs_as_written(tmp_path: Path) -> None:
    shim = tmp_path / "bin" / "pilotage"
    shim.parent.mkdir()
    shim.write_text(f'#!/bin/sh\nexec {sys.executable} -m pilotage.cli "$@"\n')
    shim.chmod(0o755)
    script = "set -e\n" + block("rehearsal") + block("commands")
    environment = os.environ | {"PATH": f"{shim.parent}:{os.environ['PATH']}", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        ["bash", "-c", script],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "stage1 fits" in done.stdout and "stage2 fits" in done.stdout and "difference" in done.stdout
    assert (tmp_path / "runs/mine/stage2/model/model.safetensors").exists()
    for run, stage in (("before", "base"), ("after", "stage2")):
        summary = read_json(tmp_path / "runs" / run / "eval" / f"{stage}.summary.json", remedy="")
        assert set(summary["conditions"]) >= {"image", "text", "perception"}

"""How fast `pilotage judge` is, and whether its memory grows with the rows.

    python benchmarks/judge_rate.py
    python benchmarks/judge_rate.py --out benchmarks/results/judge_rate.md

Two files of 1,000,000 rows, each judged by a process of its own from the command line to the last verdict:

* `answers`: 2,403 states, as many as the published Maze, FrozenLake and MiniBehaviour levels of VisualPlanning,
  in random order: what a file of answers of many models or of many samples looks like;
* `states`: 50,000 states in turn, more than the command keeps, so that hardly any row names a state it knows.

A quarter of the answers is the reference response, a quarter holds no closed block, half hold random plans.
The target is 60 s of one core. The peer does the same by hand: `json.loads`, `parse_state`, `judge`, `json.dumps` for
every row. Its rate is measured on the first tenth of each file. CPU seconds are counted, so that other work on the
machine blurs them less; the peak of memory is what the system says of the process when it has ended.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np

from pilotage.worlds import TASKS, get_task
from pilotage.worlds.judge import judge
from pilotage.worlds.task import reference_response

TARGET_S = 60.0
FILES = {"answers": 2_403, "states": 50_000}
"""File -> number of distinct states."""


def write_rows(path: Path, num_rows: int, num_states: int, *, in_turn: bool, seed: int = 0) -> None:
    rng = np.random.default_rng(seed)
    states = []
    for i in range(num_states):
        task = TASKS[i % len(TASKS)]
        state = task.generate(int(rng.choice(task.levels)), rng)
        solution = task.solve(state)
        assert solution is not None
        text = json.dumps({"task": task.name, "state": task.to_json(state)})[1:-1]
        states.append((text, reference_response(task, state, solution.plan), task.actions))
    with path.open("w", encoding="ascii") as rows:
        for i in range(num_rows):
            text, reference, actions = states[i % num_states if in_turn else int(rng.integers(num_states))]
            if i % 4 == 0:
                response = reference
            elif i % 4 == 1:
                response = reference.replace("</answer>", "")
            else:
                moves = rng.choice(actions, size=int(rng.integers(1, 12)))
                link = ", " if i % 4 == 2 else " "
                response = f"{reference.split('<answer>')[0]}<answer>{link.join(moves)}</answer>"
            rows.write(f'{{"id": "row-{i}", {text}, "response": {json.dumps(response)}}}\n')


def judge_by_hand(rows: str, out: str) -> None:
    """The peer."""
    with open(rows, encoding="utf-8") as lines, open(out, "w", encoding="ascii") as verdicts:
        for line in lines:
            row = json.loads(line)
            task = get_task(row["task"])
            verdict = judge(task, task.parse_state(row["state"]), row["response"])
            verdicts.write(json.dumps({"id": row["id"], **verdict.as_dict()}) + "\n")


@dataclass(frozen=True, kw_only=True)
class Spent:
    cpu_s: float
    peak_mb: float


def run(*command: str) -> Spent:
    """What a process took, from its start to its end."""
    process = subprocess.Popen([sys.executable, *command], stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} ended with status {process.returncode}")
    return Spent(cpu_s=usage.ru_utime + usage.ru_stime, peak_mb=usage.ru_maxrss / 1024)


def measure(name: str, num_rows: int, folder: Path) -> str:
    """One line of the table."""
    rows, tenth = folder / f"{name}.jsonl", folder / f"{name}.tenth.jsonl"
    out, other = folder / "verdicts.jsonl", folder / "peer.jsonl"
    write_rows(rows, num_rows, min(FILES[name], num_rows), in_turn=name == "states")
    with rows.open("rb") as lines, tenth.open("wb") as part:
        part.writelines(islice(lines, num_rows // 10))
    command = ("-m", "pilotage.cli", "judge")
    nothing = run(*command, os.devnull, "--out", str(out))
    short = run(*command, str(tenth), "--out", str(out))
    peer_nothing = run(__file__, "--by-hand", os.devnull, str(other))
    peer = run(__file__, "--by-hand", str(tenth), str(other))
    if out.read_bytes() != other.read_bytes():
        raise SystemExit("the command and its peer disagree")
    whole = run(*command, str(rows), "--out", str(out))
    each_us = 1e6 * (whole.cpu_s - nothing.cpu_s) / num_rows
    peer_us = 1e6 * (peer.cpu_s - peer_nothing.cpu_s) / (num_rows // 10)
    rows.unlink()
    return (
        f"| {name} | {FILES[name]:,} | {whole.cpu_s:.1f} | {TARGET_S * num_rows / 1e6 / whole.cpu_s:.1f} | "
        f"{each_us:.1f} | {1e6 / each_us:,.0f} | {peer_us:.1f} | {peer_us / each_us:.1f} | "
        f"{nothing.peak_mb:.0f} | {short.peak_mb:.0f} | {whole.peak_mb:.0f} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--num-rows", type=int, default=1_000_000)
    parser.add_argument("--out", type=Path, help="also write the table to this file")
    parser.add_argument("--by-hand", nargs=2, metavar=("ROWS", "OUT"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.by_hand:
        judge_by_hand(*arguments.by_hand)
        return
    lines = [
        "# Judging answers: rows per CPU second",
        "",
        f"`python benchmarks/judge_rate.py --num-rows {arguments.num_rows}` at commit {commit()}, "
        f"{platform.machine()}, Python {platform.python_version()}, one process, load of the machine "
        f"{os.getloadavg()[0]:.1f} on {os.cpu_count()} cores.",
        "",
        f"{arguments.num_rows:,} rows, from the command line to the last verdict. The target is {TARGET_S:.0f} s per "
        "million rows.",
        "",
        "| file | states | CPU s | target / CPU s | us a row | rows/s | peer, us a row | peer / judge | "
        "peak MB, no row | a tenth | all rows |",
        "| --- " + "| ---: " * 10 + "|",
    ]
    print("\n".join(lines))
    with tempfile.TemporaryDirectory() as folder:
        for name in FILES:
            lines.append(measure(name, arguments.num_rows, Path(folder)))
            print(lines[-1], flush=True)
    if arguments.out:
        arguments.out.write_text("\n".join(lines) + "\n", encoding="utf-8")


def commit() -> str:
    done = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
    )
    return done.stdout.strip() or "unknown"


if __name__ == "__main__":
    main()

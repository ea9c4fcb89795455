"""How fast data sets are made: finished examples per second of one core, and where the time goes.

    python benchmarks/data_rate.py
    python benchmarks/data_rate.py --out benchmarks/results/data_rate.md

An example is what `pilotage data build` writes: a state of the training split, drawn until it is new and its
difficulty's turn has come, solved, drawn as PNG, described by facts. Every task at its own training levels,
easy, medium and hard states in turn. The last column is the whole build of a data set in one process, Parquet
files, hashes and all (a warm-up build of one example pays for the imports).

CPU seconds are counted, so that other work on the machine blurs the rates less: read them as rates per core.
Targets: 2,000 a second at 32 px per cell, 400 at 256x256, over all tasks together.

The peer is Gymnasium's FrozenLake: `generate_random_map`, an environment of it, its `rgb_array` picture, the same
PNG encoder. It neither solves the map nor balances difficulties, and draws 64 px per cell. It wants pygame
(`pip install pygame`) and is left out without it.
"""

from __future__ import annotations

import argparse
import os
import platform
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("SDL_VIDEODRIVER", "dummy")
os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")

from pilotage.data.build import BuildConfig, build
from pilotage.data.sampling import Candidate, sample
from pilotage.worlds import TASKS, Task
from pilotage.worlds.drawing import encode_png, render_png

CANVASES: tuple[tuple[str, dict[str, Any], int], ...] = (
    ("32 px per cell", {"cell_px": 32}, 2000),
    ("256x256", {"side_px": 256}, 400),
)


def cpu_seconds(work: Callable[[], Any]) -> tuple[float, Any]:
    start = time.process_time()
    result = work()
    return time.process_time() - start, result


def measure_task(task: Task[Any], canvas: dict[str, Any], num_per_level: int, seed: int) -> dict[str, float]:
    """CPU microseconds per example, by part; `in memory` is their sum, `built` the build with Parquet."""
    num = num_per_level * len(task.levels)
    spent = dict.fromkeys(("draw states", "picture", "facts"), 0.0)
    for level in task.levels:
        render_png(
            task, next(sample(task, level, 1, "train", seed)).state, **canvas
        )  # tiles are painted once

        def states(level: int = level) -> list[Candidate]:
            return list(sample(task, level, num_per_level, "train", seed))

        seconds, candidates = cpu_seconds(states)
        spent["draw states"] += seconds

        def pictures(candidates: list[Candidate] = candidates) -> None:
            for candidate in candidates:
                render_png(task, candidate.state, **canvas)

        def facts(candidates: list[Candidate] = candidates) -> None:
            for candidate in candidates:
                task.to_json(candidate.state)
                task.facts(candidate.state)

        spent["picture"] += cpu_seconds(pictures)[0]
        spent["facts"] += cpu_seconds(facts)[0]
    row = {part: 1e6 * seconds / num for part, seconds in spent.items()}
    row["in memory"] = sum(row.values())
    with tempfile.TemporaryDirectory() as folder:
        config = BuildConfig(
            out=Path(folder) / "data",
            tasks=(task.name,),
            num_train=num_per_level,
            num_val=0,
            num_test=0,
            seed=seed,
            workers=1,
            **canvas,
        )
        row["built"] = 1e6 * cpu_seconds(lambda: build(config))[0] / num
    return row


def measure_peer(num_per_level: int, seed: int) -> float | None:
    """CPU microseconds per FrozenLake picture by Gymnasium, or None where it cannot draw."""
    try:
        import pygame  # noqa: F401  # pyright: ignore[reportMissingImports]
    except ImportError:
        return None
    from gymnasium.envs.toy_text.frozen_lake import FrozenLakeEnv, generate_random_map

    def pictures() -> None:
        for level in TASKS[0].levels:
            for i in range(num_per_level):
                env = FrozenLakeEnv(
                    render_mode="rgb_array",
                    desc=generate_random_map(size=level, p=0.82, seed=seed + i),
                    is_slippery=False,
                )
                env.reset(seed=seed)
                pixels: Any = env.render()
                encode_png(pixels)
                env.close()

    cpu_seconds(lambda: pictures() if num_per_level == 1 else None)
    return 1e6 * cpu_seconds(pictures)[0] / (num_per_level * len(TASKS[0].levels))


def report(num_per_level: int, seed: int) -> str:
    peer = measure_peer(max(1, num_per_level // 20), seed)
    lines = [
        "# Making data: examples per CPU second",
        "",
        f"`python benchmarks/data_rate.py --num-per-level {num_per_level} --seed {seed}` at commit {commit()}, "
        f"{time.strftime('%Y-%m-%d')}, {cpu_name()}, Python {platform.python_version()}, one thread, "
        f"load of the machine {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores.",
        "",
        "An example: drawn until new and its difficulty's turn, solved, drawn as PNG, facts; `built` adds Parquet, "
        "hashes and the manifest. Columns are CPU microseconds per example; rates are per core.",
    ]
    parts = ("draw states", "picture", "facts", "in memory", "built")
    for title, canvas, target in CANVASES:
        warm_up(canvas)
        rows = {task.name: measure_task(task, canvas, num_per_level, seed) for task in TASKS}
        rows["together"] = {part: sum(row[part] for row in rows.values()) / len(rows) for part in parts}
        lines += [
            "",
            f"## {title}",
            "",
            f"| task | {' | '.join(parts)} | in memory, 1/s | built, 1/s | target, 1/s | built / target |",
            f"| --- |{' ---: |' * (len(parts) + 4)}",
        ]
        for name, row in rows.items():
            rates = (1e6 / row["in memory"], 1e6 / row["built"])
            cells = [f"{row[part]:.0f}" for part in parts] + [f"{rate:,.0f}" for rate in rates]
            lines.append(f"| {name} | {' | '.join(cells)} | {target:,} | {rates[1] / target:.2f} |")
        shares = {part: rows["together"][part] for part in parts[:3]}
        shares["Parquet and hashes"] = rows["together"]["built"] - rows["together"]["in memory"]
        binding = max(shares, key=lambda part: shares[part])
        lines += [
            "",
            f"What binds: {binding}, {100 * shares[binding] / rows['together']['built']:.0f} % of a build.",
        ]
        if peer is None:
            lines += ["", "Peer (Gymnasium's FrozenLake) left out: it needs pygame."]
        else:
            ours = rows["frozenlake"]["in memory"]
            lines += [
                "",
                f"Peer, Gymnasium's FrozenLake picture of a random map as PNG, same levels: {peer:.0f} us, "
                f"{1e6 / peer:,.0f} a second; frozenlake in memory is {peer / ours:.1f} times as fast.",
            ]
    return "\n".join(lines) + "\n"


def warm_up(canvas: dict[str, Any]) -> None:
    """Imports and tiles are paid for once, not by the first task measured."""
    with tempfile.TemporaryDirectory() as folder:
        build(BuildConfig(out=Path(folder) / "d", num_train=1, num_val=0, num_test=0, workers=1, **canvas))


def commit() -> str:
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "--short", "HEAD"]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip() or "unknown"


def cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next(
        (line.split(": ", 1)[1] for line in lines if line.startswith("model name")), platform.machine()
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--num-per-level", type=int, default=1000, help="examples per task and level")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=None, help="also write the report to this file")
    arguments = parser.parse_args()
    text = report(arguments.num_per_level, arguments.seed)
    print(text, end="")
    if arguments.out is not None:
        arguments.out.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()

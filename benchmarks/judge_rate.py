"""How fast levels are made, drawn and judged: levels per second on one core, each task and all together.

    python benchmarks/judge_rate.py

One level = generate + solve + picture as PNG bytes, as `pilotage data build` does it, at 32 px per cell and
on the fixed 256x256 canvas, over each task's training levels. The judge is timed on reference responses.
CPU time is counted, so that other work on the machine blurs the rates less. The targets are 2,000 levels a
second at 32 px and 400 at 256x256.
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from pilotage.tasks import TASKS, Task
from pilotage.tasks.drawing import render_png
from pilotage.tasks.judge import judge
from pilotage.tasks.task import reference_response

SECONDS_EACH = 2.0
Canvas = dict[str, int]
PARTS = ("generate", "solve", "draw + PNG", "judge")


def measure(task: Task[Any], canvas: Canvas) -> tuple[int, np.ndarray]:
    """Levels made in about `SECONDS_EACH`, and the CPU seconds spent in each part."""
    rng = np.random.default_rng(0)
    spent = np.zeros(len(PARTS))
    count = 0
    while spent.sum() < SECONDS_EACH:
        for level in task.levels:
            marks = [time.process_time()]
            state = task.generate(level, rng)
            marks.append(time.process_time())
            solution = task.solve(state)
            assert solution is not None
            marks.append(time.process_time())
            render_png(task, state, **canvas)
            marks.append(time.process_time())
            response = reference_response(task, state, solution.plan)
            marks.append(time.process_time())
            assert judge(task, state, response).optimal
            end = time.process_time()
            spent += (*np.diff(marks[:4]), end - marks[4])
            count += 1
    return count, spent


def main() -> None:
    for title, canvas, target in (
        ("32 px per cell", {"cell_px": 32}, 2000),
        ("256x256", {"side_px": 256}, 400),
    ):
        print(f"{title}: microseconds per level in {', '.join(PARTS)}; levels a second (judge apart)")
        seconds_per_level = []
        for task in TASKS:
            measure(task, canvas)  # tiles are painted once per size
            count, spent = measure(task, canvas)
            seconds_per_level.append(spent[:3].sum() / count)
            parts = "".join(f"{1e6 * s / count:9.0f}" for s in spent)
            print(f"  {task.name:14}{parts}{1 / seconds_per_level[-1]:9.0f}/s")
        rate = 1 / np.mean(seconds_per_level)
        print(f"  {'together':14}{rate:45.0f}/s = {rate / target:.1f} times the target of {target}")


if __name__ == "__main__":
    main()

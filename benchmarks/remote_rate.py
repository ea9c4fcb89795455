"""What it costs that worlds live in processes of their own: turns a second there and here, and their ratio.

    python benchmarks/remote_rate.py

A turn is what `play` asks of a session: `observe`, then `act`. The world is FrozenLake, whose sessions do next to
nothing in either (the picture is the example's), so that all that is measured is the way there and back. Its episodes
have one turn: all are opened before the clock starts. What opening, outcome and closing take is a row of its own.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from pilotage.data.store import sample_examples
from pilotage.records import Example
from pilotage.worlds import get_task, get_world
from pilotage.worlds.remote import RemoteWorlds

WORLD = "frozenlake"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--turns", type=int, default=3000)
    num_turns = parser.parse_args().turns
    small, large = (sample_examples(get_task(WORLD), [6], 1, "test", 0, cell_px=px)[0] for px in (32, 96))
    bare = replace(small, start=replace(small.start, images=()))
    print(f"{'':34}{'here /s':>12}{'remote /s':>12}{'ratio':>8}{'added ms':>10}")
    with RemoteWorlds(num_processes=1, timeout_s=60) as worlds:

        def here(example: Example) -> Any:
            return get_world(WORLD).open(example)

        worlds.open(small).close()  # the process is up and the world imported
        for name, example in (("no picture", bare), ("32 px a cell", small), ("96 px a cell", large)):
            num_bytes = len(example.image)
            label = f"turn, {name}" + (f" ({num_bytes} bytes)" if num_bytes else "")
            show(label, *(turns_s(opener, example, num_turns) for opener in (here, worlds.open)))
        show(
            "open, outcome, close, 32 px",
            *(episodes_s(opener, small, num_turns) for opener in (here, worlds.open)),
        )


def turns_s(opener: Callable[[Example], Any], example: Example, num_turns: int) -> float:
    """Seconds a turn."""
    sessions = [opener(example) for _ in range(num_turns)]
    began_s = time.perf_counter()
    for session in sessions:
        seen = session.observe()
        session.act("<answer>LEFT</answer>")
        assert seen.images == example.start.images, "each turn shows what it should"
    took_s = (time.perf_counter() - began_s) / num_turns
    for session in sessions:
        session.close()
    return took_s


def episodes_s(opener: Callable[[Example], Any], example: Example, num_episodes: int) -> float:
    began_s = time.perf_counter()
    for _ in range(num_episodes):
        session = opener(example)
        session.outcome()
        session.close()
    return (time.perf_counter() - began_s) / num_episodes


def show(name: str, here_s: float, remote_s: float) -> None:
    print(
        f"{name:34}{1 / here_s:12,.0f}{1 / remote_s:12,.0f}{here_s / remote_s:8.4f}{(remote_s - here_s) * 1000:10.3f}"
    )


if __name__ == "__main__":
    main()

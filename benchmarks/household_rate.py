"""How many steps of a household mission a CPU second makes: alone, in play, drawn, with the expert beside.

    python benchmarks/household_rate.py
    python benchmarks/household_rate.py --out benchmarks/results/household_rate.md

Random actions on the same missions, one thread. The peer is plain Minigrid: the same environments, made by
`gymnasium.make` with its usual wrappers, and RGBImgPartialObsWrapper for pictures; the bot alone for the expert. What a
row of ours does, and its peer does not, stands beside it. CPU seconds are counted, the sides take turns, and the ratio
is the median over repetitions.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import gymnasium as gym
import minigrid
import numpy as np
from minigrid.utils.baby_ai_bot import BabyAIBot
from minigrid.wrappers import RGBImgPartialObsWrapper

from pilotage.records import Example, Moment, Rollout, View
from pilotage.rollouts.play import Limits, Start, Writer, play
from pilotage.views import make_view
from pilotage.worlds import get_world
from pilotage.worlds.household import sight
from pilotage.worlds.household.data import drawn_examples
from pilotage.worlds.household.expert import Expert
from pilotage.worlds.household.missions import ACTIONS, make_mission

FAMILIES = ("GoToLocal", "BossLevel")
NUM_PLANNED = 8
"""Of each mission's random actions, those behind which the whole way on is planned: the largest families take 0.1 s."""
TILE_PX = 32


class Bench:
    """The missions of one family and the actions that both sides make."""

    def __init__(self, family: str, num: int, steps: int) -> None:
        shape = {"steps": 10_000, "tile_px": TILE_PX}
        self.family = family
        self.examples: list[Example] = list(islice(drawn_examples(family, "train", 0, **shape), num))
        rng = np.random.default_rng(0)
        # Turns and steps alone: a mission that is solved by chance would end the count.
        self.actions = [rng.integers(3, size=steps).tolist() for _ in self.examples]

    def seeds(self) -> list[int]:
        return [int(example.hidden["seed"]) for example in self.examples]

    # -- ours

    def mission_alone(self) -> int:
        return sum(_steps(make_mission(self.family, seed), acts) for seed, acts in self._both())

    def session(self) -> int:
        """The world's session with its expert along, nothing looked at."""
        return sum(self._session(example, acts, look=False) for example, acts in self._episodes())

    def seen(self) -> int:
        """The same, every observation made: picture, words, state, the expert's plan from there."""
        return sum(self._session(example, acts, look=True) for example, acts in self._episodes())

    def in_play(self) -> int:
        """`play` with a scripted model and the student's prompt."""
        scripts = {example.id: iter(acts) for example, acts in self._episodes()}

        def write(moment: Moment, view: View) -> Rollout:
            action = ACTIONS[next(scripts[moment.example.id])]
            return Rollout(example_id="", token_ids=(), text=f"<answer>{action}</answer>", finished=True)

        def show(moment: Moment) -> View:
            return make_view("student", moment, "brief")

        limits = Limits(max_turns=NUM_PLANNED)
        starts = [Start(example=example, role="act") for example in self.examples]
        return sum(
            len(done.turns) for done in play(starts, writer=Writer(write=write), show=show, limits=limits)
        )

    def drawn(self) -> int:
        total = 0
        for seed, acts in self._both():
            env = make_mission(self.family, seed)
            for act in acts:
                seen, _, over, _, _ = env.step(act)
                sight.draw(sight.rows_of(seen["image"]), TILE_PX)
                total += 1
                if over:
                    break
        return total

    def replanned(self) -> int:
        """Steps of the expert's own plans, each mission's once."""
        return sum(len(Expert(make_mission(self.family, seed)).coming()) for seed in self.seeds())

    def from_anywhere(self) -> int:
        """Whole plans from wherever random actions lead: what a label of such a state costs."""
        total = 0
        for seed, acts in self._both():
            env = make_mission(self.family, seed)
            expert = Expert(env)
            for act in acts[:NUM_PLANNED]:
                _, _, over, _, _ = env.step(act)
                if over:
                    break
                expert.taken(ACTIONS[act])
                expert.coming()
                total += 1
        return total

    # -- peers

    def plain(self) -> int:
        return sum(_steps(_made(self.family, seed), acts) for seed, acts in self._both())

    def plain_drawn(self) -> int:
        return sum(
            _steps(
                _made(self.family, seed, lambda env: RGBImgPartialObsWrapper(env, tile_size=TILE_PX)), acts
            )
            for seed, acts in self._both()
        )

    def plain_bot(self) -> int:
        total = 0
        for seed in self.seeds():
            env = _made(self.family, seed)
            bot, action = BabyAIBot(env), None
            while True:
                action = bot.replan(action)
                _, _, over, cut, _ = env.step(action)
                total += 1
                if over or cut:
                    break
        return total

    def plain_bot_along(self) -> int:
        """The bot told of each random action: one replanning a step, no plan."""
        total = 0
        for seed, acts in self._both():
            env = _made(self.family, seed)
            bot = BabyAIBot(env)
            bot.replan()
            for act in acts[:NUM_PLANNED]:
                _, _, over, _, _ = env.step(act)
                if over:
                    break
                bot.replan(env.unwrapped.actions(act))
                total += 1
        return total

    def _session(self, example: Example, acts: Sequence[int], *, look: bool) -> int:
        session, num = get_world("babyai").open(example), 0
        for act in acts:
            session.act(f"<answer>{ACTIONS[act]}</answer>")
            num += 1
            if session.over or (look and (session.observe() is None or num == NUM_PLANNED)):
                break
        return num

    def _both(self) -> list[tuple[int, list[int]]]:
        return list(zip(self.seeds(), self.actions, strict=True))

    def _episodes(self) -> list[tuple[Example, list[int]]]:
        return list(zip(self.examples, self.actions, strict=True))


def _made(family: str, seed: int, wrap: Callable[[Any], Any] = lambda env: env) -> Any:
    env = wrap(gym.make(f"BabyAI-{family}-v0"))
    with contextlib.redirect_stdout(io.StringIO()):
        env.reset(seed=seed)
    return env


def _steps(env: Any, acts: Sequence[int]) -> int:
    num = 0
    for act in acts:
        _, _, over, cut, _ = env.step(act)
        num += 1
        if over or cut:
            break
    return num


def rate(work: Callable[[], int]) -> float:
    """Steps a CPU second."""
    began_s = time.process_time()
    num = work()
    return num / (time.process_time() - began_s)


def rows(bench: Bench, repeats: int) -> list[str]:
    pairs: list[tuple[str, Callable[[], int], str, Callable[[], int]]] = [
        ("environment alone", bench.mission_alone, "plain Minigrid", bench.plain),
        ("session, expert along, not looked at", bench.session, "plain Minigrid", bench.plain),
        ("environment, drawn from symbols", bench.drawn, "RGBImgPartialObsWrapper", bench.plain_drawn),
        (
            "session, all of it seen (PNG, state, plan)",
            bench.seen,
            "RGBImgPartialObsWrapper",
            bench.plain_drawn,
        ),
        ("in play, scripted model, prompts", bench.in_play, "RGBImgPartialObsWrapper", bench.plain_drawn),
        ("the expert's plan from the start", bench.replanned, "the bot, played", bench.plain_bot),
        (
            "a plan from every state of a random way",
            bench.from_anywhere,
            "the bot, told",
            bench.plain_bot_along,
        ),
    ]
    lines = []
    for title, ours, peer, theirs in pairs:
        for side in (ours, theirs):  # tiles and modules, once
            side()
        measured = [(rate(ours), rate(theirs)) for _ in range(repeats)]
        one, other = (statistics.median(side) for side in zip(*measured, strict=True))
        ratio = statistics.median(first / second for first, second in measured)
        lines.append(f"| {bench.family} | {title} | {one:,.0f} | {peer} | {other:,.0f} | {ratio:.2f} |")
        print(lines[-1], flush=True)
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--families", nargs="+", default=list(FAMILIES))
    parser.add_argument("--missions", type=int, default=8)
    parser.add_argument("--steps", type=int, default=40, help="random actions of each")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", type=Path, help="also write the table to this file")
    arguments = parser.parse_args()
    asked = (
        f"--families {' '.join(arguments.families)} --missions {arguments.missions} --steps {arguments.steps}"
    )
    head = [
        "# Steps of household missions a CPU second",
        "",
        f"`python benchmarks/household_rate.py {asked} --repeats {arguments.repeats}`, {time.strftime('%Y-%m-%d')}, "
        f"Python {platform.python_version()}, minigrid {minigrid.__version__}, pictures of {7 * TILE_PX} px, one "
        f"thread, load of the machine {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores. CPU seconds; medians; the "
        "sides take turns.",
        "",
        "| family | ours | steps a CPU s | peer | steps a CPU s | ours / peer |",
        "| --- | --- | ---: | --- | ---: | ---: |",
    ]
    print("\n".join(head), flush=True)
    table: list[str] = []
    for family in arguments.families:
        table += rows(Bench(family, arguments.missions, arguments.steps), arguments.repeats)
    if arguments.out is not None:
        arguments.out.write_text("\n".join([*head, *table]) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

"""The same jobs in two source trees, taking turns: medians of CPU seconds and their ratio.

    python before_after.py OLD/src NEW/src [--jobs canned,eval,stage2,grpo,import] [--repeats N]

One process a tree holds everything that is loaded; the two never work at once. Each repetition is asked of the one,
then of the other (the order alternates). Ratio: median over the repetitions of new / old of the same repetition.
"""

from __future__ import annotations

import argparse
import importlib
import inspect
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

os.environ |= {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE", "HF_HUB_OFFLINE": "1"}
WORLDS = {"frozenlake": (3, 4, 5), "maze": (3, 4), "minibehaviour": (5,)}


def any_of(attribute, *modules):
    for module in modules:
        try:
            return getattr(importlib.import_module(module), attribute)
        except (ImportError, AttributeError):
            pass
    raise ImportError(f"{attribute} is in none of {', '.join(modules)}")


class Canned:
    """Answers at once with what another engine answered before."""

    def __init__(self, engine):
        self.engine, self.known = engine, {}

    def generate(self, requests, decoding):
        keys = [(request.example_id, request.view.name) for request in requests]
        missing = [i for i, key in enumerate(keys) if key not in self.known]
        if missing:
            found = self.engine.generate([requests[i] for i in missing], decoding)
            self.known |= {keys[i]: rollout for i, rollout in zip(missing, found, strict=True)}
        return [self.known[key] for key in keys]


class Worker:
    def __init__(self):
        import torch

        torch.set_num_threads(1)
        self.replies = os.fdopen(os.dup(1), "w")
        os.dup2(2, 1)
        self.evaluate = any_of("evaluate", "pilotage.evaluate")
        self.recipes = any_of("RECIPES", "pilotage.recipes")
        load = any_of("load", "pilotage.runs.runner", "pilotage.recipes.runner")
        self.examples_of = any_of("examples_of", "pilotage.runs.measurement", "pilotage.recipes.measurement")
        self.engine_class = any_of("TransformersEngine", "pilotage.rollouts.transformers_engine")
        self.recipe = self.recipes["nano"](0, backbone="nano")
        self.load = lambda: load(self.recipe, "nano")
        self.engine = self.engine_class(self.load())
        self.canned = Canned(self.engine)
        self.levels = {
            name: self.examples_of(replace(self.recipe, levels=((name, sides),), num_test=60), "test")
            for name, sides in WORLDS.items()
        }

    def reply(self, **content):
        self.replies.write(json.dumps(content) + "\n")
        self.replies.flush()

    def serve(self):
        self.reply(ready=True)
        for line in sys.stdin:
            job, *rest = line.split()
            if job == "eval":
                self.timed(partial(self.measured, self.engine, self.levels[rest[0]], [rest[1]]))
            elif job == "canned":
                examples = [each for of_world in self.levels.values() for each in of_world]
                self.timed(partial(self.measured, self.canned, examples, rest))
            else:
                self.train(job, int(rest[0]))

    def timed(self, work):
        cpu, wall = time.process_time(), time.perf_counter()
        work()
        self.reply(cpu=time.process_time() - cpu, wall=time.perf_counter() - wall)

    def measured(self, engine, examples, conditions):
        is_older = "kinds" in inspect.signature(self.evaluate).parameters
        with tempfile.TemporaryDirectory(dir="/dev/shm") as out:
            self.evaluate(
                engine,
                examples,
                stage="s",
                prompts="brief",
                max_new_tokens=144,
                out=Path(out),
                model="m",
                **{"kinds" if is_older else "conditions": conditions},
            )

    def train(self, job, steps):
        name, stage = {"stage2": ("nano", -1), "grpo": ("nano_grpo", -1), "stage1": ("nano", 0)}[job]
        recipe = self.recipes[name](0, backbone="nano")
        stage = replace(recipe.stages[stage], steps=steps)
        examples = self.examples_of(replace(recipe, num_train=400), "train")
        began = []

        def step_ends(*_):
            if began:
                self.reply(cpu=time.process_time() - began[0], wall=time.perf_counter() - began[1])
            else:
                self.reply(cpu=0, wall=0)
            sys.stdin.readline()
            began[:] = time.process_time(), time.perf_counter()

        with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
            student = self.load()
            if job == "stage2":
                distill = any_of("distill", "pilotage.train.distill")
                distill(stage, student=student, examples=examples, run_dir=Path(folder), on_step=step_ends)
            elif job == "grpo":
                any_of("run_grpo", "pilotage.train.grpo")(
                    stage, student, examples, Path(folder), on_step=step_ends
                )
            else:
                any_of("run_sft", "pilotage.train.sft")(
                    stage, student, examples, Path(folder), on_step=step_ends
                )
        self.reply(done=True)


class Side:
    def __init__(self, source):
        self.process = subprocess.Popen(
            [sys.executable, __file__, "--worker"],
            env=os.environ | {"PYTHONPATH": str(source)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        self.read()

    def read(self):
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, "a worker died"
        return json.loads(line)

    def ask(self, line):
        assert self.process.stdin is not None
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        return self.read()


def show(job, pairs, unit=1.0, what="s"):
    cpu = [[unit * side["cpu"] for side in pair] for pair in pairs]
    olds, news = zip(*cpu, strict=True)
    ratios = sorted(new / old for old, new in cpu)
    quarter = len(ratios) // 4
    print(
        f"| {job} | {len(pairs)} | {statistics.median(olds):.4g} | {statistics.median(news):.4g} | "
        f"{statistics.median(ratios):.3f} | {ratios[quarter]:.3f} to {ratios[-1 - quarter]:.3f} | "
        f"{min(news) / min(olds):.3f} |",
        flush=True,
    )


def asked(line):
    return lambda side: side.ask(line)


def paired(sides, repeats, ask):
    pairs = []
    for number in range(repeats):
        pair = [None, None]
        for place in (0, 1) if number % 2 == 0 else (1, 0):
            pair[place] = ask(sides[place])
        pairs.append(pair)
    return pairs


def started(argument, source):
    wall = time.perf_counter()
    command = [sys.executable, "-m", "pilotage.cli", argument]
    environment = os.environ | {"PYTHONPATH": str(source)}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    assert status == 0
    used = usage.ru_utime + usage.ru_stime
    return {"cpu": used, "wall": time.perf_counter() - wall}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("sources", nargs="*")
    parser.add_argument("--jobs", default="import,canned,eval,stage2,grpo")
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--worker", action="store_true")
    given = parser.parse_args()
    if given.worker:
        Worker().serve()
        return
    jobs = given.jobs.split(",")
    print("| job | repetitions | old, CPU | new, CPU | new / old | middle half | least / least |")
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: |")
    if "import" in jobs:
        for argument in ("--help", "recipes"):
            paired(given.sources, 1, partial(started, argument))
            show(
                f"`pilotage {argument}`, s",
                paired(given.sources, given.repeats, partial(started, argument)),
            )
    if jobs == ["import"]:
        return
    sides = [Side(source) for source in given.sources]
    if "canned" in jobs:
        for kind in ("image", "text", "perception"):
            paired(sides, 2, asked(f"canned {kind}"))
            pairs = paired(sides, given.repeats, asked(f"canned {kind}"))
            show(f"bookkeeping, {kind}, ms a row", pairs, unit=1e3 / 180)
    if "eval" in jobs:
        for name in WORLDS:
            for kind in ("image", "text"):
                paired(sides, 1, asked(f"eval {name} {kind}"))
                pairs = paired(sides, given.repeats, asked(f"eval {name} {kind}"))
                show(f"evaluate {name}, {kind}, s for 60 rows", pairs)
    for job in ("stage1", "stage2", "grpo"):
        if job in jobs:
            steps = given.repeats + 3
            paired(sides, 1, asked(f"{job} {steps}"))
            pairs = paired(sides, steps - 1, asked("go"))
            for side in sides:
                assert side.ask("go") == {"done": True}
            show(f"a step of {job}, s", pairs[2:])


if __name__ == "__main__":
    main()

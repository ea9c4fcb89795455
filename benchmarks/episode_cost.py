"""What an episode costs beside the model: worlds of many turns, a step of training on them, rows of an evaluation.

    python benchmarks/episode_cost.py
    python benchmarks/episode_cost.py --out episode_cost.md

Three tables, all on nano, one thread, greedy answers of at most 144 tokens:

* `frozenlake_steps` of levels 4, 5 and 6 as `pilotage eval` plays it (64 rows a batch), by part: the simulator, the
  views, their encoding, the model, and everything else (the loop, its records, the rows on disk, the rates). Peers that
  play the same episodes and keep nothing: `engine, by hand`, a bare loop around our engine with all episodes in each
  batch; and `generate, by hand`, one `model.generate` of transformers a turn, one episode after the other.
* a step of `nano_steps`, the parts likewise. The peer is the same recipe's arm `start`, whose episodes have one turn:
  as many taught answers, and no others to play.
* the rows of one-turn worlds alone, the engine answering at once with what it answered before. The peer makes the same
  views, judges the same answers and writes a bare row of each.

CPU seconds are counted, the sides take turns, medians: other work on the machine blurs them less. A part's seconds are
its own, without those of the parts that it calls. Pictures and prompts are encoded anew in every repetition.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import platform
import statistics
import subprocess
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import torch
from PIL import Image

from pilotage.backbones.families import qwen_vl
from pilotage.backbones.load import Backbone
from pilotage.evaluate import evaluate
from pilotage.evaluate import run as evaluation
from pilotage.recipes import RECIPES
from pilotage.recipes.steps import nano_steps
from pilotage.records import Example, Moment
from pilotage.rollouts import transformers_engine
from pilotage.rollouts.engine import Decoding, Engine, Request
from pilotage.rollouts.transformers_engine import TransformersEngine
from pilotage.runs.measurement import examples_of
from pilotage.runs.runner import load
from pilotage.train.distill import DistillTrainer, distill
from pilotage.train.step import rows as step_rows
from pilotage.train.step.scores import StepScorer
from pilotage.views import make_view
from pilotage.worlds import get_task
from pilotage.worlds.grids.steps import StepSession
from pilotage.worlds.registry import get_world
from pilotage.worlds.score import score

WORLD, LEVELS = "frozenlake_steps", (4, 5, 6)
VIEWS = {"image": "student", "text": "symbolic"}
DECODING = Decoding(max_new_tokens=144)
BATCH = 64
PARTS: dict[str, Sequence[tuple[Any, str]]] = {
    "simulator": [(StepSession, name) for name in ("__init__", "observe", "act", "outcome")],
    "views": [(evaluation, "make_view"), (step_rows, "make_view")],
    "encoding": [(transformers_engine, "encode_views"), (TransformersEngine, "_size")],
    "model": [(TransformersEngine, "generate")],
    "teacher": [(StepScorer, "signals"), (StepScorer, "scores")],
    "student": [(DistillTrainer, "_learn"), (torch.optim.AdamW, "step")],
}
"""Part -> the functions whose seconds are its own. What is in none of them is the rest."""


class Meter:
    """CPU seconds by part; a part that calls another stands still meanwhile."""

    def __init__(self) -> None:
        self.spent: dict[str, float] = defaultdict(float)
        self._open = ["rest"]
        self._last_s = time.process_time()

    def _mark(self) -> None:
        now_s = time.process_time()
        self.spent[self._open[-1]] += now_s - self._last_s
        self._last_s = now_s

    def timed(self, part: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            self._mark()
            self._open.append(part)
            try:
                return function(*args, **kwargs)
            finally:
                self._mark()
                self._open.pop()

        return call

    def reset(self) -> None:
        self._mark()
        self.spent.clear()

    def read(self) -> dict[str, float]:
        self._mark()
        return dict(self.spent)


@contextmanager
def metered() -> Iterator[Meter]:
    """A meter with all parts under it, until the block ends."""
    kept = [(owner, name, getattr(owner, name)) for places in PARTS.values() for owner, name in places]
    meter = Meter()
    try:
        for part, places in PARTS.items():
            for owner, name in places:
                setattr(owner, name, meter.timed(part, getattr(owner, name)))
        yield meter
    finally:
        for owner, name, function in kept:
            setattr(owner, name, function)


def forget(backbone: Backbone) -> None:
    """What an earlier repetition has encoded is not to be found again."""
    qwen_vl._PATCH_CACHES.clear()
    backbone.text_cache.clear()


def moment_of(example: Example, seen: Any) -> Moment:
    return Moment(example=example, role=get_world(example.world).roles[0], seen=seen)


# -- episodes -------------------------------------------------------------------------------------------------------


def _evaluate(engine: Engine, examples: Sequence[Example], condition: str, out: Path) -> None:
    evaluate(
        engine,
        examples,
        stage="bench",
        prompts="brief",
        max_new_tokens=DECODING.max_new_tokens,
        out=out,
        conditions=[condition],
        batch_size=BATCH,
    )


def evaluated(engine: TransformersEngine, examples: Sequence[Example], condition: str) -> dict[str, Any]:
    """As `pilotage eval` plays them: seconds by part, turns, who succeeded."""
    with tempfile.TemporaryDirectory() as folder, metered() as meter:
        meter.reset()
        _evaluate(engine, examples, condition, Path(folder))
        spent = meter.read()
        rows = [json.loads(line) for line in (Path(folder) / "eval" / f"bench.{condition}.jsonl").open()]
    won = {row["id"]: row["outcome"]["success"] for row in rows}
    turns = sum(row["num_turns"] for row in rows)
    return {"cpu_s": sum(spent.values()), "parts": spent, "turns": turns, "won": won}


def by_hand(
    examples: Sequence[Example],
    condition: str,
    answer: Callable[[Sequence[Example], Sequence[Any]], Sequence[str]],
) -> dict[str, Any]:
    """The plainest loop: every open episode is asked, `answer` writes, and nothing is kept."""
    began_s, num_turns = time.process_time(), 0
    sessions = {example.id: get_world(example.world).open(example) for example in examples}
    waiting = [(example, sessions[example.id].observe()) for example in examples]
    while waiting:
        asked = [example for example, _ in waiting]
        views = [make_view(VIEWS[condition], moment_of(example, seen), "brief") for example, seen in waiting]
        for example, view, text in zip(asked, views, answer(asked, views), strict=True):
            sessions[example.id].act(view.prefill + text)
        num_turns += len(asked)
        waiting = [
            (example, seen) for example in asked if (seen := sessions[example.id].observe()) is not None
        ]
    won = {id_: session.outcome().success for id_, session in sessions.items()}
    return {"cpu_s": time.process_time() - began_s, "turns": num_turns, "won": won}


def engine_by_hand(engine: TransformersEngine, examples: Sequence[Example], condition: str) -> dict[str, Any]:
    def answer(asked: Sequence[Example], views: Sequence[Any]) -> Sequence[str]:
        requests = [
            Request(view=view, example_id=example.id) for example, view in zip(asked, views, strict=True)
        ]
        return [
            rollout.text
            for start in range(0, len(requests), BATCH)
            for rollout in engine.generate(requests[start : start + BATCH], DECODING)
        ]

    return by_hand(examples, condition, answer)


def generate_by_hand(backbone: Backbone, examples: Sequence[Example], condition: str) -> dict[str, Any]:
    processor: Any = backbone.processor
    model: Any = backbone.model

    def answer(asked: Sequence[Example], views: Sequence[Any]) -> Sequence[str]:
        texts = []
        for view in views:
            text = processor.apply_chat_template(
                list(view.messages), add_generation_prompt=True, tokenize=False
            )
            pictures = [Image.open(io.BytesIO(image)).convert("RGB") for image in view.images]
            inputs = processor(text=[text + view.prefill], images=pictures or None, return_tensors="pt")
            with torch.inference_mode():
                ids = model.generate(
                    **inputs,
                    max_new_tokens=DECODING.max_new_tokens,
                    do_sample=False,
                    suppress_tokens=list(backbone.vision_token_ids),
                    eos_token_id=list(backbone.eos_ids),
                    pad_token_id=backbone.pad_id,
                )
            texts.append(backbone.decode(ids[0, inputs["input_ids"].shape[1] :].tolist()))
        return texts

    played = [by_hand([example], condition, answer) for example in examples]
    return {
        "cpu_s": sum(one["cpu_s"] for one in played),
        "turns": sum(one["turns"] for one in played),
        "won": {id_: won for one in played for id_, won in one["won"].items()},
    }


def episodes_table(backbone: Backbone, num: int, repeats: int) -> list[str]:
    recipe = replace(RECIPES["nano"](0, backbone="nano"), levels=((WORLD, LEVELS),), num_test=num)
    recipe = replace(recipe, options=(("starts", "corner"),))
    examples = examples_of(recipe, "test")
    few = examples[:: max(1, len(examples) // 6)]
    engine = TransformersEngine(backbone, batch_size=BATCH)
    lines = [
        f"| asked | episodes | turns | turns per CPU s | {' | '.join(EVAL_PARTS)} | rest | engine, by hand: turns per "
        "CPU s | ours / by hand | generate, by hand: turns per CPU s | ours / generate |",
        "| --- " + "| ---: " * (8 + len(EVAL_PARTS)) + "|",
    ]
    for condition in VIEWS:
        ours, bare, plain = [], [], []
        for number in range(repeats + 1):
            sides: list[Callable[..., dict[str, Any]]] = [evaluated, engine_by_hand]
            played: list[dict[str, Any]] = [{}, {}]
            for side in (0, 1) if number % 2 else (1, 0):
                forget(backbone)
                played[side] = sides[side](engine, examples, condition)
            one, other = played
            if one["won"] != other["won"] or one["turns"] != other["turns"]:
                raise SystemExit("the evaluation and the loop by hand played other episodes")
            forget(backbone)
            third = generate_by_hand(backbone, few, condition) if number <= 2 else plain[-1]
            if number:  # the first of each pays for what is made once
                ours.append(one)
                bare.append(other)
                plain.append(third)
        same = sum(plain[-1]["won"][id_] == ours[-1]["won"][id_] for id_ in plain[-1]["won"])
        if same < 0.9 * len(few):
            raise SystemExit(f"generate by hand agrees on {same} of {len(few)} episodes only")
        rates = [median_of(side, lambda one: one["turns"] / one["cpu_s"]) for side in (ours, bare, plain)]
        shares = [
            median_of(ours, lambda one, part=part: one["parts"].get(part, 0.0) / one["cpu_s"])
            for part in (*EVAL_PARTS, "rest")
        ]
        ratio = statistics.median((b["cpu_s"] / a["cpu_s"]) for a, b in zip(ours, bare, strict=True))
        lines.append(
            f"| {condition} | {len(examples)} | {ours[0]['turns']} | {rates[0]:.0f} | "
            f"{' | '.join(f'{100 * share:.1f} %' for share in shares)} | {rates[1]:.0f} | {ratio:.3f} | "
            f"{rates[2]:.0f} | {rates[0] / rates[2]:.1f} |"
        )
    return lines


EVAL_PARTS = ("simulator", "views", "encoding", "model")
STEP_PARTS = (*EVAL_PARTS, "teacher", "student")


def median_of(runs: Sequence[Any], value: Callable[[Any], float]) -> float:
    return statistics.median(map(value, runs))


# -- a step of training ---------------------------------------------------------------------------------------------


def trained(arm: str, steps: int) -> list[dict[str, Any]]:
    """Seconds by part of each step of an arm, the first left out."""
    recipe = nano_steps(0, backbone="nano", arm=arm, levels=LEVELS)
    stage: Any = replace(recipe.stages[-1], steps=steps, warmup_share=0.0)
    examples = examples_of(replace(recipe, num_train=40 * len(LEVELS)), "train")
    found: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder, metered() as meter:

        def step_ends(row: dict[str, Any]) -> None:
            spent = meter.read()
            found.append({"cpu_s": sum(spent.values()), "parts": spent, "row": row})
            meter.reset()

        distill(
            stage,
            student=load(recipe, "nano"),
            examples=examples,
            run_dir=Path(folder),
            on_step=step_ends,
        )
    return found[1:]


def training_table(steps: int, repeats: int) -> list[str]:
    lines = [
        f"| arm | CPU s a step | {' | '.join(STEP_PARTS)} | rest |",
        "| --- " + "| ---: " * (2 + len(STEP_PARTS)) + "|",
    ]
    found: dict[str, list[dict[str, Any]]] = {"own": [], "start": []}
    for _ in range(repeats):
        for arm, done in found.items():
            done += trained(arm, steps)
    for arm, done in found.items():
        shares = [
            median_of(done, lambda one, part=part: one["parts"].get(part, 0.0) / one["cpu_s"])
            for part in (*STEP_PARTS, "rest")
        ]
        cells = " | ".join(f"{100 * share:.1f} %" for share in shares)
        lines.append(f"| {arm} | {median_of(done, lambda one: one['cpu_s']):.2f} | {cells} |")
    own, start = (median_of(found[arm], lambda one: one["cpu_s"]) for arm in ("own", "start"))
    lines += ["", f"A step of `own` takes {own / start:.2f} times the CPU seconds of one of `start`."]
    return lines


# -- rows alone -----------------------------------------------------------------------------------------------------


class Canned:
    """Answers at once with what an engine answered before."""

    def __init__(self, engine: TransformersEngine) -> None:
        self.engine = engine
        self.known: dict[tuple[str, str], Any] = {}

    def generate(self, requests: Sequence[Request], decoding: Decoding) -> list[Any]:
        missing = [one for one in requests if (one.example_id, one.view.name) not in self.known]
        if missing:
            for one, rollout in zip(missing, self.engine.generate(missing, decoding), strict=True):
                self.known[one.example_id, one.view.name] = rollout
        return [self.known[one.example_id, one.view.name] for one in requests]

    def sync(self, model: Any) -> None:
        self.engine.sync(model)


def rows_by_hand(engine: Canned, examples: Sequence[Example], condition: str, path: Path) -> None:
    """The peer: the same views, answers and verdicts, a bare row of each in one open file."""
    views = [make_view(VIEWS[condition], example, "brief") for example in examples]
    requests = [
        Request(view=view, example_id=example.id) for example, view in zip(examples, views, strict=True)
    ]
    rollouts = engine.generate(requests, DECODING)
    with path.open("w", encoding="ascii") as rows:
        for example, view, rollout in zip(examples, views, rollouts, strict=True):
            task = get_task(example.world)
            text = view.prefill + rollout.text
            outcome = score(task, task.parse_state(example.state), text)
            row = {
                "id": example.id,
                "messages": list(view.messages),
                "response": text,
                "right": outcome.right,
            }
            rows.write(json.dumps(row | outcome.as_dict()) + "\n")


def rows_table(backbone: Backbone, num: int, repeats: int) -> list[str]:
    examples = examples_of(replace(RECIPES["nano"](0, backbone="nano"), num_test=num), "test")
    engine = Canned(TransformersEngine(backbone, batch_size=BATCH))
    lines = [
        "| asked | rows | us a row | by hand, us a row | ours / by hand | with the model, us a row | share |",
        "| --- " + "| ---: " * 6 + "|",
    ]
    for condition in VIEWS:
        pairs = []
        whole_s = cpu_seconds(lambda condition=condition: whole_rows(engine, examples, condition))
        for number in range(5 * repeats + 1):
            with tempfile.TemporaryDirectory() as folder:
                ours_s = cpu_seconds(lambda condition=condition: whole_rows(engine, examples, condition))
                path = Path(folder) / "rows.jsonl"
                hand_s = cpu_seconds(
                    lambda condition=condition, path=path: rows_by_hand(engine, examples, condition, path)
                )
            if number:
                pairs.append((1e6 * ours_s / len(examples), 1e6 * hand_s / len(examples)))
        ours = statistics.median(one for one, _ in pairs)
        ratio = statistics.median(one / other for one, other in pairs)
        whole = 1e6 * whole_s / len(examples)
        lines.append(
            f"| {condition} | {len(examples)} | {ours:.0f} | {statistics.median(other for _, other in pairs):.0f} | "
            f"{ratio:.2f} | {whole:.0f} | {100 * ours / whole:.1f} % |"
        )
    return lines


def whole_rows(engine: Canned, examples: Sequence[Example], condition: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        _evaluate(engine, examples, condition, Path(folder))


def cpu_seconds(work: Callable[[], Any]) -> float:
    began_s = time.process_time()
    work()
    return time.process_time() - began_s


def commit() -> str:
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "--short", "HEAD"]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip() or "unknown"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--episodes", type=int, default=60, help="episodes, of all levels together")
    parser.add_argument("--rows", type=int, default=60, help="rows of each one-turn world")
    parser.add_argument("--steps", type=int, default=5, help="steps of training in each repetition")
    parser.add_argument("--repeats", type=int, default=4)
    parser.add_argument("--out", type=Path, help="also write the tables to this file")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    backbone = load(RECIPES["nano"](0, backbone="nano"), "nano")
    lines = [
        "# What an episode costs beside the model",
        "",
        f"`python benchmarks/episode_cost.py --episodes {arguments.episodes} --rows {arguments.rows} "
        f"--steps {arguments.steps} --repeats {arguments.repeats}` at commit {commit()}, "
        f"{time.strftime('%Y-%m-%d')}, Python {platform.python_version()}, torch {torch.__version__}, one thread, "
        f"load of the machine {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores.",
    ]
    print("\n".join(lines), flush=True)
    tables: dict[str, Callable[[], list[str]]] = {
        f"{WORLD}, levels 4 to 6, by part": lambda: episodes_table(
            backbone, arguments.episodes, arguments.repeats
        ),
        "A step of training on episodes": lambda: training_table(arguments.steps, arguments.repeats),
        "Rows of one turn, the engine answering at once": lambda: rows_table(
            backbone, arguments.rows, arguments.repeats
        ),
    }
    for title, table in tables.items():
        part = ["", f"## {title}", "", *table()]
        print("\n".join(part), flush=True)
        lines += part
    if arguments.out is not None:
        arguments.out.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

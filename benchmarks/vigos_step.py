"""One step of ViGOS at a real vocabulary (V = 151,936), beside the plain way: three teacher passes, full logits.

    python benchmarks/vigos_step.py

Same small model (hidden size 64; the head is what costs), same pictures, same answers, same loss: forward KL on the
state by a teacher of the picture alone, forward KL on route and answer by one who also knows the plan, reverse KL
twice as heavy on answers that break the format; tokens above 0.05 nats are dropped; each term is a mean over its own
tokens. Answers are given (reference answers; every fourth is cut, so that it breaks the format), because rollouts
cost the same on both sides.

plain: the student's logits and each teacher's logits over whole rows of prompt and answer, three teacher passes over
all rows, log-softmax, divergences [rows, columns, V], masks.

The third table is the teachers' part alone, without any head: our batches against three separate passes over all
rows. Each measurement is a process of its own, one thread; the sides take turns; the first step of each is left out.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import date
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# Freed memory goes back at once, so that the peak is what is alive.
os.environ.setdefault("MALLOC_MMAP_THRESHOLD_", "65536")

from stage2_step import Stopwatch, benchmark_tokenizer, training_examples

VOCABULARY = 151_936
WIDTH = 64
SHARPNESS = 6.0
SIDES = ("pilotage", "plain")


def save_model(directory: Path) -> None:
    from pilotage.backbones.save import save_backbone
    from pilotage.nano.model import NanoConfig, build_nano

    config = NanoConfig(hidden=WIDTH, heads=2, kv_heads=2, mlp=2 * WIDTH)
    model, processor = build_nano(config, benchmark_tokenizer(), seed=0)
    model.resize_token_embeddings(VOCABULARY, mean_resizing=False)
    # Teachers who see other things must disagree, or the two losses could not be told to be the same.
    model.lm_head.weight.data.mul_(SHARPNESS)
    save_backbone(model, processor, directory)


def answers(backbone: Any, examples: list[Any]) -> list[Any]:
    """The reference answers as rollouts; every fourth without its end."""
    from pilotage.records import Rollout
    from pilotage.views import reference_of_view

    rollouts = []
    for number, example in enumerate(examples):
        text = reference_of_view(example, "student") + str(backbone.tokenizer.eos_token)
        ids = tuple(backbone.tokenizer(text, add_special_tokens=False)["input_ids"])
        ids = ids[:-4] if number % 4 == 3 else ids
        rollouts.append(
            Rollout(
                example_id=example.id,
                token_ids=ids,
                text=backbone.decode(ids),
                finished=True,
                logprobs=(-1.0,) * len(ids),
            )
        )
    return rollouts


def stage(options: argparse.Namespace) -> Any:
    """ViGOS in its paper form."""
    from pilotage.distill.divergences import ReverseKL
    from pilotage.distill.estimators import FullVocabulary
    from pilotage.distill.routes import one_teacher
    from pilotage.recipes.methods import vigos_stage
    from pilotage.train.distill_config import DistillConfig, FrozenCopy

    plain = DistillConfig(
        steps=options.steps,
        prompts_per_step=options.rows,
        micro_batch_size=options.micro_batch,
        max_new_tokens=256,
        prompts="brief",
        lr=1e-5,
        router=one_teacher(
            view="teacher", weights=FrozenCopy(), estimator=FullVocabulary(divergence=ReverseKL())
        ),
        checkpoint_every=10**6,
        rollouts_every=0,
    )
    return vigos_stage(plain, form="paper", weights=FrozenCopy())


def run_pilotage(model: Path, options: argparse.Namespace) -> dict[str, Any]:
    from pilotage.backbones.load import load_backbone
    from pilotage.rollouts import ReplayEngine
    from pilotage.train.distill import distill

    student = load_backbone(model, attn_implementation="sdpa")
    examples = training_examples(options.rows * options.steps)
    losses: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        watch = Stopwatch()

        def step_ends(row: dict[str, Any]) -> None:
            watch.step_ends()
            losses.append(row["loss"])

        distill(
            stage(options),
            student=student,
            examples=examples,
            run_dir=Path(folder),
            engine=ReplayEngine(answers(student, examples), off_policy=True),
            on_step=step_ends,
        )
    return watch.figures() | {"loss": losses}


def run_plain(model: Path, options: argparse.Namespace) -> dict[str, Any]:
    import copy

    import torch

    from pilotage.backbones.encode import encode_with_response
    from pilotage.backbones.load import load_backbone
    from pilotage.distill.spans import MgsdLayout, SpanSpec
    from pilotage.train.step.monitors import SpanFinder
    from pilotage.train.step.order import ExampleOrder
    from pilotage.worlds.grids.views import VIEWS

    student = load_backbone(model, attn_implementation="sdpa")
    teacher = copy.deepcopy(student.model).eval().requires_grad_(False)
    examples = training_examples(options.rows * options.steps)
    rollout_of = {rollout.example_id: rollout for rollout in answers(student, examples)}
    order = ExampleOrder(examples, prompts_per_step=options.rows, seed=0)
    layout, finder = MgsdLayout(spec=SpanSpec(end_owner="after")), SpanFinder(student)
    optimizer = torch.optim.AdamW(student.model.parameters(), lr=1e-5, weight_decay=0.01, fused=True)
    student.model.train()

    def encoded(rows: list[Any], view: str) -> Any:
        views = [VIEWS[view](example, "brief") for example in rows]
        ids = [rollout_of[example.id].token_ids for example in rows]
        return encode_with_response(student, views, ids, pad_to_multiple=16)

    def answer_logits(model: Any, batch: Any, longest: int) -> Any:
        """[rows, longest answer, V], the logits that predict each answer token."""
        logits_BSV = model(**batch["inputs"], use_cache=False).logits
        first = batch["prompt_lengths"] - 1
        columns = first[:, None] + torch.arange(longest)
        return logits_BSV[torch.arange(len(first))[:, None], columns.clamp(max=logits_BSV.shape[1] - 1)]

    watch, losses = Stopwatch(), []
    for step in range(options.steps):
        rows = [slot.example for slot in order.slots(step)]
        spans = [finder.find(layout, rollout_of[example.id].token_ids, prefill="") for example in rows]
        longest = max(len(rollout_of[example.id].token_ids) for example in rows)
        masks = {name: torch.zeros(len(rows), longest) for name in ("perception", "reasoning", "reference")}
        for row, found in enumerate(spans):
            taught = {"reference": found.names} if not found.valid else {}
            if found.valid:
                taught = {"perception": ("state",), "reasoning": ("route", "answer")}
            for name, of in taught.items():
                mask = torch.tensor(found.mask(*of), dtype=torch.float32)
                masks[name][row, : len(mask)] = mask
        counts = {name: float(mask.sum()) for name, mask in masks.items()}
        total = 0.0
        for start in range(0, len(rows), options.micro_batch):
            chosen = rows[start : start + options.micro_batch]
            part = slice(start, start + options.micro_batch)
            student_logp = answer_logits(student.model, encoded(chosen, "student"), longest).log_softmax(-1)
            loss = torch.zeros(())
            for name, view, reverse, scale in (
                ("perception", "picture", False, 1.0),
                ("reasoning", "student_with_plan", False, 1.0),
                ("reference", "student_with_plan", True, 2.0),
            ):
                with torch.no_grad():
                    teacher_logp = answer_logits(teacher, encoded(chosen, view), longest).log_softmax(-1)
                p, q = (student_logp, teacher_logp) if reverse else (teacher_logp, student_logp)
                kl = (p.exp() * (p - q)).sum(-1)
                kept = masks[name][part] * (kl.detach() <= 0.05)
                loss = loss + scale * (kl * kept).sum() / max(counts[name], 1.0)
            loss.backward()
            total += loss.item()
        torch.nn.utils.clip_grad_norm_(student.model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        watch.step_ends()
        losses.append(total)
    return watch.figures() | {"loss": losses}


def run_teachers(model: Path, options: argparse.Namespace) -> dict[str, Any]:
    """CPU seconds of the teachers' part of a step: our batches, and three separate passes over all rows."""
    import torch

    from pilotage.backbones.load import load_backbone
    from pilotage.rollouts import ReplayEngine
    from pilotage.train.distill import DistillTrainer
    from pilotage.train.step.scoring import encode_rollouts, score_rows
    from pilotage.train.step.teacher_models import TeacherModel
    from pilotage.views.registry import make_view

    student = load_backbone(model, attn_implementation="sdpa")
    examples = training_examples(options.rows)
    with tempfile.TemporaryDirectory() as folder:
        trainer = DistillTrainer(
            stage(options),
            student=student,
            examples=examples,
            run_dir=Path(folder),
            engine=ReplayEngine(answers(student, examples), off_policy=True),
        )
        rows = trainer._sample(0)
        signals = trainer.scorer.signals(TeacherModel(student), rows)
        facts = [trainer.router.facts(row, known) for row, known in zip(rows, signals, strict=True)]
        routed = trainer.router.route(rows, facts, lambda sums: sums).routed
        teacher = trainer.teachers[trainer.router.routes[0].weights]
        ours, separate = [], []
        for _ in range(options.steps):
            began = time.process_time()
            trainer.scorer.scores(rows, facts, routed, step=0, all_sum=lambda sums: sums)
            ours.append(time.process_time() - began)
            began = time.process_time()
            for route in trainer.router.routes:
                views = [make_view(str(route.view), row.example, "brief") for row in rows]
                encoded = encode_rollouts(
                    student,
                    views,
                    [row.rollout for row in rows],
                    max_prompt_tokens=None,
                    pad_to_multiple=16,
                )
                with teacher.activated() as read_by, torch.no_grad():
                    score_rows(read_by, encoded, batch_size=options.micro_batch, pad_to_multiple=16)
            separate.append(time.process_time() - began)
    return {"ours": ours, "separate": separate}


RUNS = {"pilotage": run_pilotage, "plain": run_plain, "teachers": run_teachers}


def measured(side: str, model: Path, options: argparse.Namespace) -> dict[str, Any]:
    """A run in a process of its own."""
    command = [sys.executable, __file__, "--side", side, "--model", str(model)]
    for name in ("steps", "rows", "micro_batch"):
        command += [f"--{name.replace('_', '-')}", str(getattr(options, name))]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stderr[-4000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def report(options: argparse.Namespace, runs: dict[str, list[dict[str, Any]]]) -> str:
    import torch

    git = ["git", "rev-parse", "--short", "HEAD"]
    commit = subprocess.run(git, capture_output=True, text=True, check=False).stdout.strip()
    cpu_s, grown, wall_s = {}, {}, {}
    for side in SIDES:
        cpu_s[side] = statistics.median(s for run in runs[side] for s in run["cpu_s"][1:])
        wall_s[side] = statistics.median(s for run in runs[side] for s in run["wall_s"][1:])
        grown[side] = statistics.median(run["grown_bytes"] for run in runs[side]) / 2**20
    first = {side: runs[side][0]["loss"][0] for side in SIDES}
    ours = statistics.median(s for run in runs["teachers"] for s in run["ours"][1:])
    separate = statistics.median(s for run in runs["teachers"] for s in run["separate"][1:])
    lines = [
        f"# A step of ViGOS at V = {VOCABULARY:,}",
        "",
        f"`python benchmarks/vigos_step.py --rounds {options.rounds} --steps {options.steps} --rows {options.rows} "
        f"--micro-batch {options.micro_batch}` at commit {commit}, {date.today()}, Python "
        f"{platform.python_version()}, torch {torch.__version__}, float32, one thread, load of the machine "
        f"{os.getloadavg()[0]:.1f} on {os.cpu_count()} cores. Hidden size {WIDTH}, {options.rows} answers a step, "
        f"{options.micro_batch} at once. Medians; the first step of a process is left out. Rollouts are given.",
        "",
        "| | CPU s a step | wall s a step | MiB since before step 1 | loss of step 1 |",
        "| --- | ---: | ---: | ---: | ---: |",
        *(
            f"| {side} | {cpu_s[side]:.2f} | {wall_s[side]:.2f} | {grown[side]:,.0f} | {first[side]:.6f} |"
            for side in SIDES
        ),
        f"| **plain / pilotage** | **{cpu_s['plain'] / cpu_s['pilotage']:.2f}** | "
        f"{wall_s['plain'] / wall_s['pilotage']:.2f} | **{grown['plain'] / grown['pilotage']:.2f}** | |",
        "",
        "The teachers' part, without heads: three teachers in our batches (each reads what it teaches, and no further; "
        "the third reads broken rows alone) against three passes over all rows.",
        "",
        "| | CPU s |",
        "| --- | ---: |",
        f"| three separate passes | {separate:.2f} |",
        f"| our batches | {ours:.2f} |",
        f"| **ratio** | **{separate / ours:.2f}** |",
    ]
    return "\n".join([*lines, ""])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3, help="processes per side")
    parser.add_argument("--steps", type=int, default=4, help="steps in each process")
    parser.add_argument("--rows", type=int, default=12, help="answers in a step")
    parser.add_argument("--micro-batch", type=int, default=4, help="answers at once, on both sides")
    parser.add_argument("--model", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--side", choices=list(RUNS), help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, help="Markdown file to write")
    options = parser.parse_args()
    if options.side:
        import torch

        torch.set_num_threads(1)
        print(json.dumps(RUNS[options.side](options.model, options)))
        return
    with tempfile.TemporaryDirectory() as folder:
        model = Path(folder) / "model"
        save_model(model)
        runs: dict[str, list[dict[str, Any]]] = {side: [] for side in RUNS}
        for _ in range(options.rounds):
            for side, found in runs.items():
                found.append(measured(side, model, options))
    text = report(options, runs)
    print(text)
    if options.out:
        options.out.write_text(text)


if __name__ == "__main__":
    main()

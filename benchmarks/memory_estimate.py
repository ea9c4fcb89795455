"""The estimate of memory that a dry run tells, beside steps of training that were made: their most bytes alive at once.

    python benchmarks/memory_estimate.py --model DIR

Two optimiser steps of nano on one CPU thread, in both stages, and, where a model directory is named, of that model at a
small batch; a process for each model. Measured is the largest sum of all tensors alive at one moment, of
weights too, counted storage by storage as operations make them (`pilotage.train.live_memory`): what a process takes
besides, for code and for an allocator's leftovers, is no part of it. The estimate is told by the same function as
`pilotage train --dry-run`, for a CPU.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

NANO = "nano"
CLOSE = 0.15
"""How far an estimate may lie from what was measured."""


def cases(model: str) -> dict[str, tuple[str, dict[str, Any]]]:
    """Name -> (stage, what differs from the recipe; of `weights`, that all its teachers have)."""
    from pilotage.backbones.load import LoraSettings
    from pilotage.train.distill_config import EMA
    from pilotage.train.optimisers import AdamWKahan

    lora = LoraSettings(rank=8, alpha=16.0)
    again = {"gradient_checkpointing": True}
    short = {"max_new_tokens": 48}
    moving = {"weights": EMA(rate=0.05)}
    if model == NANO:
        return {
            "stage 1, float32": ("stage1", {"bf16": False}),
            "stage 1": ("stage1", {}),
            "stage 1, activations made again": ("stage1", again),
            "stage 1, adapter": ("stage1", {"bf16": False, "lora": lora}),
            "stage 2, float32": ("stage2", {**short, "bf16": False}),
            "stage 2": ("stage2", short),
            "stage 2, activations made again": ("stage2", {**short, **again}),
            "stage 2, one batch": ("stage2", {**short, "micro_batch_size": 48}),
            "stage 2, adapter": ("stage2", {**short, "bf16": False, "lora": lora}),
            "stage 2, EMA teacher, float32": ("stage2", {**short, "bf16": False, **moving}),
            "stage 2, EMA teacher": ("stage2", {**short, **moving}),
            "stage 2, EMA teacher of an adapter": (
                "stage2",
                {**short, "bf16": False, "lora": lora, **moving},
            ),
            "stage 2, EMA teacher, bfloat16 in Kahan sums": (
                "stage2",
                {**short, "optimiser": AdamWKahan(), **moving},
            ),
        }
    small = {"batch_size": 6, "micro_batch_size": 2}
    few = {"prompts_per_step": 4, "micro_batch_size": 2, "max_new_tokens": 32}
    return {
        "stage 1, float32": ("stage1", {**small, "lora": None, "freeze_vision": False}),
        "stage 1, adapter": ("stage1", small),
        "stage 2, float32": ("stage2", {**few, "gradient_checkpointing": False}),
        "stage 2, made again": ("stage2", few),
        "stage 2, bfloat16 in Kahan sums": (
            "stage2",
            {**few, "gradient_checkpointing": False, "optimiser": AdamWKahan()},
        ),
        "stage 2, adapter": ("stage2", {**few, "lora": lora}),
        "stage 2, EMA teacher, bfloat16 in Kahan sums": (
            "stage2",
            {**few, "gradient_checkpointing": False, "optimiser": AdamWKahan(), **moving},
        ),
    }


def measure(model: str, case: str) -> dict[str, Any]:
    """One case in this process."""
    import torch

    from pilotage.backbones.load import load_backbone, load_shape
    from pilotage.recipes import RECIPES
    from pilotage.runs.measurement import examples_of
    from pilotage.runs.runner import train_stage
    from pilotage.train.distill_setup import with_weights
    from pilotage.train.fit import Plan
    from pilotage.train.live_memory import LiveMemory

    torch.set_num_threads(1)
    stage, changes = cases(model)[case]
    recipe = RECIPES["nano" if model == NANO else "mgsd"](0, backbone=model)
    config: Any = next(each for each in recipe.stages if each.stage == stage)
    if stage == "stage2":
        changes = {"warmup_share": 0.0, "rollouts_every": 0, **changes}
    weights = changes.pop("weights", None)
    config = replace(config, steps=2, checkpoint_every=10**6, **changes)
    if weights is not None:
        config = with_weights(config, lambda _: weights)
    student_dtype = "bfloat16" if "bfloat16" in case else "float32"
    examples = examples_of(replace(recipe, num_train=24), "train")
    with tempfile.TemporaryDirectory() as folder:
        student = load_backbone(model, dtype=student_dtype, attn_implementation=recipe.attention)
        peaks: list[int] = []
        with LiveMemory(student.model) as memory:
            train_stage(
                config,
                student,
                examples,
                Path(folder),
                answers=recipe.engine,
                on_step=lambda *_: peaks.append(memory.peak),
            )
    plan = Plan(
        config=config,
        engine=recipe.engine,
        start=model,
        load=lambda path: load_shape(path, dtype=student_dtype),
        attention=recipe.attention,
        examples=examples,
    )
    estimate = plan.memory(on_gpu=False)
    return {
        "measured": peaks[-1],
        "estimated": estimate.together,
        "phase": estimate.phase,
        "parts": estimate.parts,
        "phases": {name: sum(parts.values()) for name, parts in estimate.phases.items()},
    }


def measured_apart(model: str) -> dict[str, dict[str, Any]]:
    """All cases of a model, in a process of their own."""
    command = [sys.executable, __file__, "--model", model, "--case", "all"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stderr[-4000:]}")
    pairs = (line.split("\t", 1) for line in done.stdout.splitlines() if "\t" in line)
    return {case: json.loads(found) for case, found in pairs}


def report(model: str | None, found: dict[str, dict[str, dict[str, Any]]]) -> str:
    import torch

    git = ["git", "rev-parse", "--short", "HEAD"]
    commit = subprocess.run(git, capture_output=True, text=True, check=False).stdout.strip()
    option = "" if model is None else f" --model {model}"
    lines = [
        "# Memory: the estimate beside what was alive",
        "",
        f"`python benchmarks/memory_estimate.py{option}` at commit {commit}, {date.today()}, Python "
        f"{platform.python_version()}, torch {torch.__version__}, one thread. MiB at the largest moment of two "
        "optimiser steps, weights among them. In stage 2 answers are cut so short that most reach the limit, which is "
        "what the estimate is told for.",
        "",
        "| model | case | measured | estimated | estimated / measured | largest part |",
        "| --- | --- | ---: | ---: | ---: | --- |",
    ]
    for name, rows in found.items():
        for case, row in rows.items():
            ratio = row["estimated"] / row["measured"]
            shown = f"{ratio:.2f}" if abs(ratio - 1) <= CLOSE else f"**{ratio:.2f}**"
            lines.append(
                f"| {Path(name).name} | {case} | {row['measured'] / 2**20:,.1f} | "
                f"{row['estimated'] / 2**20:,.1f} | {shown} | {next(iter(row['parts']))} |"
            )
    return "\n".join([*lines, "", f"Bold: more than {CLOSE:.0%} apart.", ""])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", help="a model directory besides nano")
    parser.add_argument("--case", help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, help="Markdown file to write")
    options = parser.parse_args()
    if options.case:
        for case in cases(options.model) if options.case == "all" else options.case.split("; "):
            print(case + "\t" + json.dumps(measure(options.model, case)), flush=True)
        return
    models = [NANO] if options.model is None else [NANO, options.model]
    text = report(options.model, {model: measured_apart(model) for model in models})
    print(text)
    if options.out:
        options.out.write_text(text)


if __name__ == "__main__":
    main()

"""What a change of structure must leave equal to the last bit: a few training steps of every kind, rows of every view.

    python tests/golden.py record golden.json      # before
    python tests/golden.py check golden.json       # after, on the same machine

Kernels differ between processors, so no record is kept in the repository: record at one commit, check at the other.
Three optimiser steps of stage 1, MGSD, ViGOS, GKD and GRPO on nano, then 60 answers to each task and view, and to
questions about our pictures. Weights, every figure of every step and every row are compared, times apart.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import hashlib
import json
import logging
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from safetensors import safe_open

from pilotage.evaluate import evaluate
from pilotage.recipes import RECIPES
from pilotage.rollouts.transformers_engine import TransformersEngine
from pilotage.runs import run_recipe
from pilotage.runs.runner import examples_of, load
from pilotage.worlds.planning import CONDITIONS
from pilotage.worlds.questions.data.build import QuestionsConfig, build_questions
from pilotage.worlds.questions.data.store import load_questions

METHODS = ("nano", "nano_vigos", "nano_gkd", "nano_grpo")
STEPS = 3
NUM_ROWS = 60
TIMES = ("time_s", "seconds", "train_s", "eval_s")


def record(work: Path) -> dict[str, Any]:
    """Part -> what must stay: figures to read, and digests of what is too long to read."""
    parts: dict[str, Any] = {}
    for name in METHODS:
        recipe = RECIPES[name](0, backbone="nano")
        stages = tuple(_short(stage) for stage in recipe.stages)
        recipe = replace(recipe, stages=stages, num_train=24, num_test=20, measure_base=False)
        folder = work / name
        run_recipe(recipe, folder)
        parts[name] = {
            "weights": {stage.stage: _weights(folder / stage.stage / "model") for stage in stages},
            "metrics": _rows(folder / "metrics.jsonl"),
            "rows": {path.name: _digest(_rows(path)) for path in sorted((folder / "eval").glob("*.jsonl"))},
        }
    recipe = replace(RECIPES["nano"](0, backbone="nano"), num_test=NUM_ROWS)
    engine = TransformersEngine(load(recipe, "nano"))
    for condition in (each.name for each in CONDITIONS):
        parts[f"eval {condition}"] = _evaluated(
            engine, examples_of(recipe, "test"), condition, work / "eval", {}
        )
    build_questions(QuestionsConfig(out=work / "questions", num_train=1, num_val=1, num_test=NUM_ROWS))
    sampled = {"temperature": 1.0, "top_p": 0.9, "samples": 2}
    questions = load_questions(work / "questions", "test")
    parts["eval questions"] = _evaluated(engine, questions, "question", work / "asked", sampled)
    return parts


def _short(stage: Any) -> Any:
    small: dict[str, Any] = {"steps": STEPS, "micro_batch_size": 4}
    if hasattr(stage, "router"):
        small["warmup_share"] = 1 / STEPS
    if hasattr(stage, "prompts_per_step"):
        small["prompts_per_step"] = 12 if stage.sources.max_samples == 1 else 4
    if hasattr(stage, "batch_size"):
        small["batch_size"] = 12
    return replace(stage, **small)


def _evaluated(engine: Any, examples: Any, condition: str, out: Path, decoding: Mapping[str, Any]) -> Any:
    summary = evaluate(
        engine,
        examples,
        stage="golden",
        prompts="brief",
        max_new_tokens=144,
        out=out,
        model="golden",
        conditions=[condition],
        **decoding,
    )
    rows = _rows(out / "eval" / f"golden.{condition}.jsonl")
    return {"summary": summary.headline(), "rows": _digest(rows), "num_rows": len(rows)}


def _weights(directory: Path) -> str:
    digest = hashlib.sha256()
    for file in sorted(directory.glob("*.safetensors")):
        with safe_open(file, framework="np") as tensors:
            for name in sorted(tensors.keys()):
                digest.update(name.encode() + tensors.get_tensor(name).tobytes())
    return digest.hexdigest()


def _rows(path: Path) -> list[dict[str, Any]]:
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return [
        {
            key: value
            for key, value in _as_before(row).items()
            if key not in TIMES and not key.startswith("time/")
        }
        for row in rows
    ]


def _as_before(row: dict[str, Any]) -> dict[str, Any]:
    """A row of an evaluation in the form that rows had before outcomes were of one kind for all worlds."""
    if "outcome" not in row or "settings" not in row:
        return row
    new = ("world", "axes", "role", "end", "num_turns", "outcome", "asked")
    old = {key: value for key, value in row.items() if key not in new}
    old["kind"] = old.pop("condition")
    outcome = row["outcome"]
    if row["world"] == "questions":
        for key in ("difficulty", "optimal_length"):
            old.pop(key)
        asked = row["asked"]
        right = outcome["reason"] == "success"
        old |= {
            "asked": row["axes"]["kind"],
            "question": asked["text"],
            "options": asked["options"],
            "answer": asked["answer"],
            "grade": {
                "parsed": outcome["parsed"],
                "success": outcome["success"],
                "reason": "right" if right else outcome["reason"],
                "matched": outcome.get("matched", ""),
                "read": row["fields"].get("answer", ""),
            },
            "verdict": None,
        }
        return old
    is_plan = row["role"] == "plan"
    names = ("parsed", "legal", "success", "optimal", "num_executed", "reason")
    verdict = {**outcome, "legal": outcome["parsed"] and not outcome["illegal"]} if is_plan else {}
    old["verdict"] = {name: verdict[name] for name in names} if is_plan else None
    return old


def _digest(rows: list[dict[str, Any]]) -> str:
    lines = sorted(json.dumps(row, sort_keys=True) for row in rows)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def _differences(before: Any, after: Any, place: str = "") -> list[str]:
    if isinstance(before, dict) and isinstance(after, dict):
        names = [*before, *(name for name in after if name not in before)]
        return [
            line
            for name in names
            for line in _differences(before.get(name), after.get(name), f"{place}/{name}")
        ]
    if isinstance(before, list) and isinstance(after, list) and len(before) == len(after):
        pairs = enumerate(zip(before, after, strict=True))
        return [line for i, (one, two) in pairs for line in _differences(one, two, f"{place}/{i}")]
    return [] if before == after else [f"{place}: {before!r} before, {after!r} now"]


def main(action: str, path: Path) -> int:
    logging.basicConfig(level=logging.WARNING)
    with tempfile.TemporaryDirectory(prefix="pilotage-golden-") as work:
        parts = json.loads(json.dumps(record(Path(work))))
    if action == "record":
        path.write_text(json.dumps(parts, indent=1) + "\n")
        print(f"{path} holds {len(parts)} parts")
        return 0
    found = _differences(json.loads(path.read_text()), parts)
    print("\n".join(found) if found else f"all {len(parts)} parts are equal to {path}")
    return min(len(found), 1)


if __name__ == "__main__":
    if len(sys.argv) != 3 or sys.argv[1] not in ("record", "check"):
        sys.exit("usage: python tests/golden.py record|check FILE")
    sys.exit(main(sys.argv[1], Path(sys.argv[2])))

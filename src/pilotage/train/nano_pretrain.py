"""Brings up the nano base: plans from words, follows a plan, sees in general, never plans from a picture.

One seeded loop: every step's lessons depend on the seed and the step alone, so that a run that was killed and
started again ends in the same weights.
"""

from __future__ import annotations

import json
import logging
import math
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from pilotage.backbones.encode import EncodedResponses, encode_with_response
from pilotage.backbones.load import Backbone, make_backbone
from pilotage.backbones.nano import NanoConfig, build_nano, save_backbone
from pilotage.backbones.nano_corpus import Lesson, picture_lesson, planning_lesson, vocabulary_texts
from pilotage.backbones.nano_tokenizer import build_nano_tokenizer
from pilotage.errors import PilotageError
from pilotage.tasks import TASKS

logger = logging.getLogger(__name__)

CHECKPOINT = "checkpoint.pt"
NUM_LENGTH_BATCHES = 3


@dataclass(frozen=True, kw_only=True)
class PretrainConfig:
    out: Path
    """Folder for the model directory, its checkpoint and `metrics.jsonl`."""
    steps: int = 3600
    """Optimiser steps."""
    seed: int = 20261121
    peak_lr: float = 2e-3
    """Reached after `warmup` steps, held, then lowered to zero over the last `decay_share` of the steps."""
    warmup: int = 100
    decay_share: float = 0.3
    weight_decay: float = 0.01
    pictures_from: int = 600
    """Step of the first picture: reading pictures is only learnt after planning in words."""
    batch_pictures: int = 24
    """Picture lessons in a step, once they have begun."""
    planning_share_with_pictures: float = 0.67
    """Share of the planning lessons that a step keeps once pictures have begun."""
    bf16: bool = True
    """Matrix products in bfloat16 (weights stay in float32); turn off on processors without bfloat16 units."""
    checkpoint_every: int = 200
    num_threads: int = 1
    lessons: tuple[tuple[str, int, tuple[int, ...], tuple[float, ...]], ...] = (
        ("frozenlake", 16, (3, 4, 5, 6), (0.25, 0.3, 0.3, 0.15)),
        ("maze", 20, (3, 4, 5), (0.4, 0.45, 0.15)),
        ("minibehaviour", 12, (5, 6), (0.85, 0.15)),
    )
    """Task, its planning lessons in a step, its levels and how often each is taught."""
    picture_levels: tuple[int, ...] = (3, 4, 5)


ProgressFn = Callable[[int, int, dict[str, float]], None]
"""Called with steps done, steps in all, and the latest figures."""


def pretrain(config: PretrainConfig, progress: ProgressFn | None = None) -> Path:
    """Trains and saves the base; returns its model directory. Goes on from the checkpoint of a run that was killed."""
    torch.set_num_threads(config.num_threads)
    config.out.mkdir(parents=True, exist_ok=True)
    _claim(config)
    tokenizer = build_nano_tokenizer(vocabulary_texts(config.seed), min_count=1)
    model, processor = build_nano(NanoConfig(), tokenizer, seed=config.seed)
    # In bfloat16 on a CPU, plain attention's backward is three to seven times faster than the fused one's.
    model.set_attn_implementation("eager" if config.bf16 else "sdpa")
    backbone = make_backbone(model, processor, name="nano")
    model.train()
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=config.peak_lr, betas=(0.9, 0.98), weight_decay=config.weight_decay, fused=True
    )
    first = _restore(config, model, optimizer)
    directory = config.out / "model"
    began = time.monotonic()
    for step in range(first, config.steps):
        figures = _step(config, backbone, optimizer, step)
        if step % 25 == 0:
            figures |= {"step": step, "time_s": time.monotonic() - began}
            with (config.out / "metrics.jsonl").open("a") as file:
                file.write(json.dumps({"stage": "pretrain"} | figures) + "\n")
        if (step + 1) % config.checkpoint_every == 0 or step + 1 == config.steps:
            exact = recall(config, backbone)
            with (config.out / "metrics.jsonl").open("a") as file:
                file.write(json.dumps({"stage": "pretrain", "step": step + 1} | exact) + "\n")
            logger.info("step %d: %s", step + 1, exact)
            _keep(config, model, optimizer, step + 1)
            save_backbone(model, processor, directory)
        if progress is not None:
            progress(step + 1, config.steps, figures)
    return directory


def learning_rate(config: PretrainConfig, step: int) -> float:
    """Linear warm-up, constant, then linear to zero."""
    decay_from = config.steps * (1 - config.decay_share)
    if step >= decay_from:
        return config.peak_lr * (config.steps - step) / (config.steps - decay_from)
    return config.peak_lr * min(1.0, (step + 1) / config.warmup)


def _step(
    config: PretrainConfig, backbone: Backbone, optimizer: torch.optim.Optimizer, step: int
) -> dict[str, float]:
    for group in optimizer.param_groups:
        group["lr"] = learning_rate(config, step)
    optimizer.zero_grad(set_to_none=True)
    batches = [encode_lessons(backbone, batch) for batch in _lessons(config, step)]
    num_tokens = sum(int(batch["response_mask"].sum()) for batch in batches)
    total = 0.0
    for batch in batches:
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=config.bf16):
            logits_MV, targets_M = _predictions(backbone, batch)
        loss = F.cross_entropy(logits_MV.float(), targets_M, reduction="sum") / num_tokens
        loss.backward()
        total += loss.item()
    norm = torch.nn.utils.clip_grad_norm_(backbone.model.parameters(), 1.0)
    if not math.isfinite(norm):
        raise PilotageError(f"gradient norm {norm} at step {step}; lower peak_lr ({config.peak_lr})")
    optimizer.step()
    return {"lr": learning_rate(config, step), "loss": total, "grad_norm": float(norm)}


def _lessons(config: PretrainConfig, step: int) -> list[list[Lesson]]:
    """The step's lessons in batches of like lengths; pictures apart from words."""
    rng = np.random.default_rng([config.seed, 1, step])
    tasks = {task.name: task for task in TASKS}
    with_pictures = step >= config.pictures_from
    share = config.planning_share_with_pictures if with_pictures else 1.0
    planning = [
        planning_lesson(tasks[name], int(level), rng)
        for name, count, levels, shares in config.lessons
        for level in rng.choice(levels, size=round(count * share), p=shares)
    ]
    planning.sort(key=lambda lesson: len(lesson.answer) + len(str(lesson.view.messages)))
    size = -(-len(planning) // NUM_LENGTH_BATCHES)
    batches = [planning[i : i + size] for i in range(0, len(planning), size)]
    if with_pictures:
        batches.append([picture_lesson(rng, config.picture_levels) for _ in range(config.batch_pictures)])
    return batches


def encode_lessons(backbone: Backbone, lessons: Sequence[Lesson]) -> EncodedResponses:
    end = str(backbone.tokenizer.eos_token)
    texts = [lesson.answer + end for lesson in lessons]
    answers: Any = backbone.tokenizer(texts, add_special_tokens=False)["input_ids"]
    return encode_with_response(backbone, [lesson.view for lesson in lessons], answers, pad_to_multiple=16)


def _predictions(backbone: Backbone, encoded: EncodedResponses) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits [M, V] at the positions that predict answer tokens, and those tokens [M]."""
    inputs = dict(encoded["inputs"])
    # Padding stands on the right: a causal model needs no mask, and attention without one is faster.
    inputs.pop("attention_mask")
    hidden_BSH = backbone.model.model(**inputs, use_cache=False).last_hidden_state
    predicts_BS = encoded["response_mask"][:, 1:]
    logits_MV = backbone.model.lm_head(hidden_BSH[:, :-1][predicts_BS])
    return logits_MV, encoded["inputs"]["input_ids"][:, 1:][predicts_BS]


@torch.no_grad()
def recall(config: PretrainConfig, backbone: Backbone, num_lessons: int = 100) -> dict[str, float]:
    """Share of fresh lessons whose every token is the model's first choice: a lower bound on greedy exactness."""
    backbone.model.eval()
    shares = {}
    tasks = {task.name: task for task in TASKS}
    for name, _, levels, _ in config.lessons:
        for level in levels:
            rng = np.random.default_rng([config.seed, 2, level])
            lessons = [planning_lesson(tasks[name], level, rng) for _ in range(num_lessons)]
            shares[f"recall/{name}/{level}"] = _exact(backbone, lessons)
    rng = np.random.default_rng([config.seed, 2])
    lessons = [picture_lesson(rng, config.picture_levels) for _ in range(num_lessons)]
    shares["recall/pictures"] = _exact(backbone, lessons)
    backbone.model.train()
    return shares


def _exact(backbone: Backbone, lessons: Sequence[Lesson]) -> float:
    encoded = encode_lessons(backbone, lessons)
    logits_MV, targets_M = _predictions(backbone, encoded)
    rows_M = torch.nonzero(encoded["response_mask"][:, 1:])[:, 0]
    wrong = torch.zeros(len(lessons)).index_add_(0, rows_M, (logits_MV.argmax(-1) != targets_M).float())
    return float((wrong == 0).float().mean())


def _claim(config: PretrainConfig) -> None:
    """Ties the folder to these settings; a folder with others is an error."""
    settings = json.loads(json.dumps({k: v for k, v in asdict(config).items() if k != "out"}, default=str))
    path = config.out / "pretrain.json"
    if path.exists() and json.loads(path.read_text()) != settings:
        raise PilotageError(
            f"{path} holds a run with other settings; give another --out or remove the folder"
        )
    path.write_text(json.dumps(settings, indent=1))


def _keep(
    config: PretrainConfig, model: torch.nn.Module, optimizer: torch.optim.Optimizer, done: int
) -> None:
    partial = config.out / (CHECKPOINT + ".partial")
    torch.save({"done": done, "model": model.state_dict(), "optimizer": optimizer.state_dict()}, partial)
    os.replace(partial, config.out / CHECKPOINT)


def _restore(config: PretrainConfig, model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> int:
    path = config.out / CHECKPOINT
    if not path.exists():
        return 0
    kept = torch.load(path, weights_only=True)
    model.load_state_dict(kept["model"])
    optimizer.load_state_dict(kept["optimizer"])
    logger.info("going on from step %d", kept["done"])
    return kept["done"]

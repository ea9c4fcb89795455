"""Brings up the nano base: plans from words, follows a plan, sees in general, never plans from a picture.

One seeded loop: every step's lessons depend on the seed and the step alone, so that a run that was killed and
started again ends in the same weights.
"""

from __future__ import annotations

import json
import logging
import math
import os
import pickle
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from pilotage.backbones.encode import EncodedResponses, encode_images, encode_with_response
from pilotage.backbones.load import Backbone, make_backbone
from pilotage.backbones.save import save_backbone
from pilotage.errors import PilotageError
from pilotage.files import read_json, write_json
from pilotage.nano.corpus import (
    Lesson,
    derivation_lesson,
    description_lesson,
    hard_planning_lesson,
    picture_lesson,
    planning_lesson,
    vocabulary_texts,
)
from pilotage.nano.model import NanoConfig, build_nano
from pilotage.nano.pictures import word_groups
from pilotage.nano.tokenizer import build_nano_tokenizer
from pilotage.train.checkpoints import check_name, training_in
from pilotage.train.settings import check_lr
from pilotage.worlds import TASKS

logger = logging.getLogger(__name__)

CHECKPOINT = "checkpoint.pt"
NUM_LENGTH_BATCHES = 3


@dataclass(frozen=True, kw_only=True)
class Stretch:
    """A part of the curriculum."""

    first_step: int
    num_lessons: tuple[tuple[str, int], ...]
    """Task and its planning lessons in a step."""
    num_descriptions: tuple[tuple[str, int], ...] = ()
    """Task and its lessons, in words alone, of what follows from a state: legal moves, cells beside things."""
    num_derivations: tuple[tuple[str, int], ...] = ()
    """The same from the parts of the description that are already written, with no state before them."""
    num_hard: tuple[tuple[str, int], ...] = ()
    """Task and its planning lessons on states of the highest difficulty, which random ones seldom have."""


@dataclass(frozen=True, kw_only=True)
class PretrainConfig:
    """How the nano base is trained."""

    out: Path
    """Folder for the model directory, its checkpoint and `metrics.jsonl`."""
    steps: int = 4300
    """Optimiser steps."""
    seed: int = 20261121
    peak_lr: float = 2e-3
    """Reached after `warmup` steps, held, then lowered to zero over the last `decay_share` of all steps but the
    polish."""
    warmup: int = 100
    decay_share: float = 0.3
    polish_steps: int = 300
    """Last steps, at most a tenth of all, at a rate of their own: `polish_lr`, lowered to zero."""
    polish_lr: float = 4e-4
    weight_decay: float = 0.01
    eyes_from: int = 300
    """First step in which the vision tower learns to mean by a visual token what the words for its cell mean."""
    pictures_from: int = 1000
    """First step in which the whole model answers questions about pictures: only learnt after planning in words."""
    batch_pictures: int = 32
    """Picture lessons in a step, once they have begun."""
    bf16: bool = True
    """Matrix products in bfloat16 (weights stay in float32); turn off on processors without bfloat16 units."""
    checkpoint_every: int = 200
    num_threads: int = 1
    curriculum: tuple[Stretch, ...] = (
        Stretch(first_step=0, num_lessons=(("frozenlake", 16), ("maze", 20), ("minibehaviour", 12))),
        Stretch(first_step=1000, num_lessons=(("frozenlake", 8), ("maze", 10), ("minibehaviour", 6))),
        Stretch(first_step=1200, num_lessons=(("frozenlake", 14), ("maze", 9), ("minibehaviour", 14))),
        Stretch(
            first_step=1400,
            num_lessons=(("frozenlake", 14), ("maze", 9), ("minibehaviour", 14)),
            num_descriptions=(("frozenlake", 1), ("maze", 8), ("minibehaviour", 10)),
            num_derivations=(("minibehaviour", 14),),
        ),
        Stretch(
            first_step=2000,
            num_lessons=(("frozenlake", 26), ("maze", 10), ("minibehaviour", 16)),
            num_descriptions=(("frozenlake", 3), ("maze", 10), ("minibehaviour", 13)),
            num_derivations=(("minibehaviour", 24),),
        ),
        Stretch(
            first_step=4000,
            num_lessons=(("frozenlake", 12), ("maze", 8), ("minibehaviour", 10)),
            num_descriptions=(("frozenlake", 2), ("maze", 6), ("minibehaviour", 8)),
            num_derivations=(("minibehaviour", 12),),
            num_hard=(("frozenlake", 24),),
        ),
    )
    """How many lessons of each task a step has; the last stretch that has begun holds."""
    levels: tuple[tuple[str, tuple[int, ...], tuple[float, ...]], ...] = (
        ("frozenlake", (3, 4, 5, 6), (0.25, 0.28, 0.4, 0.07)),
        ("maze", (3, 4, 5), (0.4, 0.45, 0.15)),
        ("minibehaviour", (5, 6), (0.85, 0.15)),
    )
    """Task, its levels and how often each is taught."""
    picture_levels: tuple[int, ...] = (3, 4, 5)

    def __post_init__(self) -> None:
        for name in ("steps", "num_threads"):
            if getattr(self, name) < 1:
                raise PilotageError(f"{name} {getattr(self, name)} must be at least 1")
        if not 0 <= self.seed < 2**32:
            raise PilotageError(f"seed {self.seed} must lie between 0 and {2**32 - 1}")
        check_lr("peak_lr", self.peak_lr)
        check_lr("polish_lr", self.polish_lr)


ProgressFn = Callable[[int, int, dict[str, float]], None]
"""Called with steps done, steps in all, and the latest figures."""


def pretrain(config: PretrainConfig, progress: ProgressFn | None = None) -> Path:
    """Trains and saves the base; returns its model directory. Goes on from the checkpoint of a run that was killed."""
    check_name(config.out)
    torch.set_num_threads(config.num_threads)
    with training_in(config.out, is_first=True):
        _claim(config)
        return _pretrain(config, progress)


def _pretrain(config: PretrainConfig, progress: ProgressFn | None) -> Path:
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
    """Linear warm-up, constant, then linear to zero; once more from `polish_lr` to zero in the last steps."""
    polish_steps = min(config.polish_steps, config.steps // 10)
    polish_from = config.steps - polish_steps
    if step >= polish_from:
        return config.polish_lr * (config.steps - step) / polish_steps
    decay_from = polish_from * (1 - config.decay_share)
    if step >= decay_from:
        return config.peak_lr * (polish_from - step) / (polish_from - decay_from)
    return config.peak_lr * min(1.0, (step + 1) / config.warmup)


def _step(
    config: PretrainConfig, backbone: Backbone, optimizer: torch.optim.Optimizer, step: int
) -> dict[str, float]:
    for group in optimizer.param_groups:
        group["lr"] = learning_rate(config, step)
    optimizer.zero_grad(set_to_none=True)
    figures = {"lr": learning_rate(config, step)}
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=config.bf16):
        planning = [encode_lessons(backbone, batch) for batch in _planning_lessons(config, step)]
        num_tokens = sum(int(batch["response_mask"].sum()) for batch in planning)
        figures["loss/planning"] = 0.0
        for batch in planning:
            logits_MV, targets_M = _predictions(backbone, batch)
            loss = F.cross_entropy(logits_MV.float(), targets_M, reduction="sum") / num_tokens
            loss.backward()
            figures["loss/planning"] += loss.item()
        if step >= config.eyes_from:
            figures |= _picture_step(config, backbone, step)
    norm = torch.nn.utils.clip_grad_norm_(backbone.model.parameters(), 1.0)
    if not math.isfinite(norm):
        raise PilotageError(f"gradient norm {norm} at step {step}; lower peak_lr ({config.peak_lr})")
    optimizer.step()
    return figures | {"grad_norm": float(norm)}


def _picture_step(config: PretrainConfig, backbone: Backbone, step: int) -> dict[str, float]:
    """Adds the gradients of the step's picture lessons: visual tokens against words, and answers to questions."""
    lessons = _picture_lessons(config, step)
    figures = {}
    with _visual_tokens(backbone) as seen:
        if step >= config.pictures_from:
            logits_MV, targets_M = _predictions(backbone, encode_lessons(backbone, lessons))
            loss = F.cross_entropy(logits_MV.float(), targets_M)
            figures["loss/pictures"] = loss.item()
        else:
            shown = encode_images(backbone, [image for lesson in lessons for image in lesson.view.images])
            backbone.model.model.visual(shown.inputs["pixel_values"], grid_thw=shown.inputs["image_grid_thw"])
            loss = torch.zeros(())
        naming = naming_loss(backbone, seen[-1], [words for lesson in lessons for words in lesson.cells])
    (loss + naming).backward()
    return figures | {"loss/naming": naming.item()}


@contextmanager
def _visual_tokens(backbone: Backbone) -> Iterator[list[torch.Tensor]]:
    """Collects what the vision tower hands to the language model: a [tokens, H] tensor per forward."""
    seen: list[torch.Tensor] = []
    hook = backbone.model.model.visual.register_forward_hook(
        lambda _, __, output: seen.append(output.pooler_output)
    )
    try:
        yield seen
    finally:
        hook.remove()


def naming_loss(
    backbone: Backbone,
    visual_CH: torch.Tensor,
    words_C: Sequence[Sequence[str]],
    *,
    groups: Sequence[Sequence[str]] | None = None,
    before: str = " ",
    embedding_VH: torch.Tensor | None = None,
) -> torch.Tensor:
    """Cross-entropy, in nats per word, of naming cells from their visual tokens by the embeddings of words.

    C cells with one visual token each; words of a group exclude each other, and each is one token with the text
    `before` it. The embeddings, by default those of the
    output layer, are held fixed: the eyes learn the language, not the reverse. It stands in for the pre-trained,
    aligned vision tower that a real model starts from.
    """
    words_VH = embedding_VH
    if words_VH is None:
        words_VH = backbone.model.get_output_embeddings().weight.detach()
    total, count = visual_CH.new_zeros(()), 0
    for group in groups or word_groups():
        ids = _word_ids(backbone, [f"{before}{word}" for word in group])
        place = {word: i for i, word in enumerate(group)}
        named = [(cell, place[word]) for cell, words in enumerate(words_C) for word in words if word in place]
        if not named:
            continue
        cells, targets = torch.tensor(named).T
        logits = visual_CH[cells].float() @ words_VH[ids].float().T
        total = total + F.cross_entropy(logits, targets, reduction="sum")
        count += len(named)
    return total / count


def _word_ids(backbone: Backbone, words: Sequence[str]) -> list[int]:
    encoded: Any = backbone.tokenizer([*words], add_special_tokens=False)["input_ids"]
    assert all(len(ids) == 1 for ids in encoded), "every word of the pictures is one token"
    return [ids[0] for ids in encoded]


def _picture_lessons(config: PretrainConfig, step: int) -> list[Lesson]:
    rng = np.random.default_rng([config.seed, 3, step])
    return [picture_lesson(rng, config.picture_levels) for _ in range(config.batch_pictures)]


def _planning_lessons(config: PretrainConfig, step: int) -> list[list[Lesson]]:
    """The step's lessons in words, in batches of like lengths."""
    rng = np.random.default_rng([config.seed, 1, step])
    tasks = {task.name: task for task in TASKS}
    stretch = [stretch for stretch in config.curriculum if stretch.first_step <= step][-1]
    planning = [
        planning_lesson(tasks[name], int(level), rng)
        for (name, count), (_, levels, shares) in zip(stretch.num_lessons, config.levels, strict=True)
        for level in rng.choice(levels, size=count, p=shares)
    ]
    shares_of = {name: (levels, shares) for name, levels, shares in config.levels}
    for stream, lesson, counts in (
        (4, description_lesson, stretch.num_descriptions),
        (5, derivation_lesson, stretch.num_derivations),
        (6, hard_planning_lesson, stretch.num_hard),
    ):
        rng = np.random.default_rng([config.seed, stream, step])
        planning += [
            lesson(tasks[name], int(level), rng)
            for name, count in counts
            for level in rng.choice(shares_of[name][0], size=count, p=shares_of[name][1])
        ]
    planning.sort(
        key=lambda lesson: len(str(lesson.view.messages)) + len(lesson.view.prefill) + len(lesson.answer)
    )
    size = -(-len(planning) // NUM_LENGTH_BATCHES)
    return [planning[i : i + size] for i in range(0, len(planning), size)]


def encode_lessons(backbone: Backbone, lessons: Sequence[Lesson]) -> EncodedResponses:
    """The lessons as tensors, each answer closed by the end-of-text token; padded to a multiple of 16."""
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
    """Share of lessons on states of the split `val` whose every token is the model's first choice.

    A lower bound on greedy exactness."""
    backbone.model.eval()
    shares = {}
    tasks = {task.name: task for task in TASKS}
    for name, levels, _ in config.levels:
        for level in levels:
            rng = np.random.default_rng([config.seed, 2, level])
            lessons = [planning_lesson(tasks[name], level, rng, "val") for _ in range(num_lessons)]
            shares[f"recall/{name}/{level}"] = _exact(backbone, lessons)
        rng = np.random.default_rng([config.seed, 2])
        lessons = [description_lesson(tasks[name], levels[0], rng, "val") for _ in range(num_lessons)]
        shares[f"recall/{name}/description"] = _exact(backbone, lessons)
        state = tasks[name].generate(levels[0], rng)
        if len(tasks[name].facts(state)) > len(tasks[name].recital(state)):
            lessons = [derivation_lesson(tasks[name], levels[0], rng, "val") for _ in range(num_lessons)]
            shares[f"recall/{name}/derivation"] = _exact(backbone, lessons)
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
    remedy = f"remove {config.out} to train again"
    if path.exists() and read_json(path, remedy=remedy) != settings:
        raise PilotageError(
            f"{path} holds a run with other settings; give another --out or remove the folder"
        )
    write_json(path, settings)


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
    try:
        kept = torch.load(path, weights_only=True)
        model.load_state_dict(kept["model"])
        optimizer.load_state_dict(kept["optimizer"])
    except (RuntimeError, EOFError, ValueError, KeyError, TypeError, pickle.UnpicklingError) as error:
        message = " ".join(str(error).split())[:200]
        raise PilotageError(f"{path} is damaged ({message}): remove it to train from the start") from None
    logger.info("going on from step %d", kept["done"])
    return kept["done"]

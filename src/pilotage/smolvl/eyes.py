"""Eyes that learn words: a new vision tower names the cells of pictures by the embeddings of a frozen language model.

The pictures are nano's, of other colours, shapes and words than any task's. A visual token comes to mean its cell's row
(by the digit that an answer has for it, so that who looks at the cell can copy it), its column (by a letter) and what
stands there, which the language model can then learn to read in thousands of pictures, not in millions. It stands in
for the aligned vision tower that a real model starts from.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from pilotage.backbones.encode import encode_images
from pilotage.backbones.load import Backbone
from pilotage.errors import PilotageError
from pilotage.nano.pictures import COLOURS, MAX_LEVEL, SHAPES, SIDES, PictureQuestion, sample_question
from pilotage.nano.pretrain import naming_loss
from pilotage.train.settings import check_finite
from pilotage.train.updates import Updates
from pilotage.worlds.drawing import encode_png

ROWS = ("0", "1", "2", "3", "4", "5")
COLUMNS = (" A", " B", " C", " D", " E", " F")
BARRED = (" left", " down", " right", " up")
FREE = (" west", " south", " east", " north")
GROUPS = (
    ROWS,
    COLUMNS,
    tuple(f" {word}" for word in (*COLOURS, "empty")),
    tuple(f" {word}" for word in SHAPES),
    *zip(BARRED, FREE, strict=True),
)
"""Texts that exclude each other in a cell. Each is one token."""
STRENGTH = 8.0
"""Logit of a visual token that is as long as a word's embedding and points where the word does."""


@dataclass(frozen=True, kw_only=True)
class EyesConfig:
    """How the new eyes are trained."""

    steps: int = 700
    """Optimiser steps; each sees new pictures."""
    batch_size: int = 32
    """Pictures in a step."""
    lr: float = 2e-3
    seed: int = 0

    def __post_init__(self) -> None:
        if self.steps < 0 or self.batch_size < 1:
            raise PilotageError(
                f"steps {self.steps} and batch_size {self.batch_size} must be at least 0 and 1"
            )


def open_eyes(
    backbone: Backbone,
    config: EyesConfig,
    progress: Callable[[int, int, dict[str, float]], None] | None = None,
) -> dict[str, float]:
    """Trains the vision tower alone, in place; the last step's figures (`loss/naming` in nats per word).

    At the end its output layer is scaled, so that visual tokens are as long as embeddings of words, on an average. A
    picture's every cell must be one visual token. Raises PilotageError where the loss is no number.
    """
    tower = backbone.model.model.visual
    updates = Updates(steps=max(1, config.steps), lr=config.lr, schedule="cosine", warmup_share=1 / 20)
    words_VH = _directions(backbone.model.get_input_embeddings().weight.detach())
    optimizer = torch.optim.AdamW(tower.parameters(), lr=updates.lr, betas=(0.9, 0.98), weight_decay=0.01)
    figures: dict[str, float] = {}
    was_training = tower.training
    tower.train()
    for step in range(config.steps):
        for group in optimizer.param_groups:
            group["lr"] = updates.lr * updates.rate_share(step)
        pictures, visual_CH = _seen(backbone, config, step)
        named = [words for picture in pictures for words in words_of_cells(picture)]
        loss = naming_loss(backbone, visual_CH, named, groups=GROUPS, before="", embedding_VH=words_VH)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(tower.parameters(), 1.0)
        check_finite(loss.item(), float(norm), step=step + 1)
        optimizer.step()
        figures = {"loss/naming": loss.item()}
        if progress is not None:
            progress(step + 1, config.steps, figures)
    tower.train(was_training)
    if config.steps:
        _as_long_as_words(backbone, config)
    return figures


def _seen(backbone: Backbone, config: EyesConfig, step: int) -> tuple[list[PictureQuestion], torch.Tensor]:
    """A step's pictures, and their visual tokens [cells, H], picture by picture."""
    rng = np.random.default_rng([config.seed, step])
    pictures = [sample_question(rng) for _ in range(config.batch_size)]
    shown = encode_images(backbone, [encode_png(picture.pixels) for picture in pictures]).inputs
    seen: Any = backbone.model.model.visual(shown["pixel_values"], grid_thw=shown["image_grid_thw"])
    return pictures, seen.pooler_output


@torch.no_grad()
def _as_long_as_words(backbone: Backbone, config: EyesConfig) -> None:
    _, visual_CH = _seen(backbone, config, config.steps)
    words_VH = backbone.model.get_input_embeddings().weight
    scale = float(words_VH.norm(dim=-1).mean() / visual_CH.norm(dim=-1).mean())
    for weight in backbone.model.model.visual.merger.mlp[-1].parameters():
        weight.mul_(scale)


def words_of_cells(picture: PictureQuestion) -> list[tuple[str, ...]]:
    """Of each cell, row-major: its row, its column, and what stands there or which sides have bars."""
    level = math.isqrt(len(picture.cells))
    assert level <= MAX_LEVEL
    found = []
    for at, (_, *words) in enumerate(picture.cells):
        if len(words) == 1 and words != ["empty"]:
            barred = words[0] if words[0] != "none" else ""
            content = [BARRED[i] if side in barred else FREE[i] for i, side in enumerate(SIDES)]
        else:
            content = [f" {word}" for word in words]
        found.append((ROWS[at // level], COLUMNS[at % level], *content))
    return found


def _directions(embedding_VH: torch.Tensor) -> torch.Tensor:
    """Embeddings about their mean, of such a length that a typical one gives `STRENGTH` with itself."""
    centred_VH = (embedding_VH - embedding_VH.mean(0)).float()
    lengths_V1 = centred_VH.norm(dim=-1, keepdim=True).clamp_min(1e-6)
    return centred_VH / lengths_V1 * (STRENGTH / lengths_V1.median())

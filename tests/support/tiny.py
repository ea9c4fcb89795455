"""Small random models, pictures and views that several tests share."""

from __future__ import annotations

import io
from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers import PreTrainedTokenizerFast

from pilotage.backbones.load import Backbone, make_backbone
from pilotage.nano.model import NanoConfig, build_nano
from pilotage.nano.tokenizer import build_nano_tokenizer
from pilotage.records import Rollout, View
from pilotage.rollouts import Decoding, samples_of

TINY = NanoConfig(
    hidden=32,
    layers=2,
    heads=2,
    kv_heads=1,
    head_dim=16,
    mlp=48,
    mrope_section=(4, 2, 2),
    vision_hidden=32,
    vision_depth=1,
    vision_heads=2,
    vision_mlp=32,
)

TEXTS = (
    "Size: 4. Player: (2,0). Goal: (1,3). Holes: (0,1) (3,2).\nRoute: (2,0) (1,0).\n<answer>U R</answer>",
    "Plan a way over the ice. Plan a way through the maze.",
)


@cache
def tiny_tokenizer() -> PreTrainedTokenizerFast:
    return build_nano_tokenizer(TEXTS, min_count=1)


def enliven(model: Any, *, layers: float = 12.0, head: float = 15.0) -> None:
    """Scales random weights until context, position and picture decide the next token, with neither flat nor certain
    distributions. As initialised, a model all but repeats its last token, and tests on it would see nothing.
    """
    with torch.no_grad():
        for name, value in model.named_parameters():
            if value.ndim == 2 and (".layers." in name or ".visual.blocks" in name or "merger" in name):
                value.mul_(layers)
        model.lm_head.weight.mul_(head)


def tiny_backbone(seed: int = 0, *, layers: float = 12.0, head: float = 15.0) -> Backbone:
    """A random, lively nano model."""
    model, processor = build_nano(TINY, tiny_tokenizer(), seed=seed)
    enliven(model, layers=layers, head=head)
    return make_backbone(model, processor, name="tiny")


def written(
    backbone: Backbone, example_id: str, text: str, *, keep: int | None = None, finished: bool = True
) -> Rollout:
    """An answer as if the model had written `text` and its end token; `keep` cuts its tokens as a slice does."""
    ids: Any = backbone.tokenizer(text + str(backbone.tokenizer.eos_token), add_special_tokens=False)[
        "input_ids"
    ]
    ids = tuple(ids[:keep])
    return Rollout(
        example_id=example_id,
        token_ids=ids,
        text=backbone.decode(ids),
        finished=finished,
        logprobs=(-1.0,) * len(ids),
    )


def picture(rows: int, columns: int | None = None, *, seed: int = 0, cell: int = 32) -> np.ndarray:
    """Random uint8 RGB with `cell` pixels per cell."""
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (cell * rows, cell * (columns or rows), 3), dtype=np.uint8)


def png(pixels_HWC: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels_HWC).save(buffer, "PNG")
    return buffer.getvalue()


def text_view(text: str, *, prefill: str = "") -> View:
    return View(name="symbolic", messages=[{"role": "user", "content": text}], prefill=prefill)


def image_view(image: bytes, text: str = "Plan a way over the ice.", *, prefill: str = "") -> View:
    content = [{"type": "image"}, {"type": "text", "text": text}]
    return View(
        name="student", messages=[{"role": "user", "content": content}], images=(image,), prefill=prefill
    )


def mixed_views() -> list[View]:
    """Text and pictures, of different lengths and sizes."""
    return [
        text_view("Size: 4."),
        image_view(png(picture(3, seed=1))),
        text_view("Size: 4. Player: (2,0). Goal: (1,3). Holes: (0,1) (3,2)."),
        image_view(png(picture(2, 4, seed=2)), "Plan a way through the maze.", prefill="Size:"),
        text_view("Plan a way over the ice."),
    ]


def generate(
    engine: Any,
    views: Sequence[View],
    *,
    example_ids: Sequence[str],
    num_return: int = 1,
    seed: int = 0,
    **decoding: Any,
) -> list[Rollout]:
    """`num_return` rollouts of each view."""
    return engine.generate(samples_of(views, example_ids, num=num_return, seed=seed), Decoding(**decoding))


class LocalServer:
    """Scores as a server with the tiny model would."""

    def __init__(self) -> None:
        self.backbone = tiny_backbone()

    def score(self, prompts: Any, responses: Any) -> list[tuple[float, ...]]:
        found = []
        for prompt, response in zip(prompts, responses, strict=True):
            ids = torch.tensor([[*prompt, *response]])
            with torch.no_grad():
                logp_TV = self.backbone.model(input_ids=ids).logits[0, len(prompt) - 1 : -1].log_softmax(-1)
            found.append(tuple(logp_TV.gather(1, torch.tensor(response)[:, None])[:, 0].tolist()))
        return found

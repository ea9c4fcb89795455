"""Idefics3: a picture is cut into tiles of one size, each of which stands for equally many tokens."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from pilotage.backbones.checkpoint import refuse_unequal
from pilotage.backbones.processed import ProcessorFamily

_BY_TILE = {"pixel_values": 4, "pixel_attention_mask": 3}
"""Axes of one tile's argument and of the tiles'."""


class Idefics3(ProcessorFamily):
    model_types = ("idefics3",)
    processor_class = "Idefics3Processor"
    prompt_only_tokens = (
        "<image>",
        "<fake_token_around_image>",
        "<global-img>",
        *(f"<row_{row}_col_{column}>" for row in range(1, 7) for column in range(1, 7)),
    )
    vision_modules = ("vision_model", "connector")
    language_linears = r".*text_model.*\.(q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj)"

    def refuse_misfit(self, processor: Any, config: Any, directory: Path) -> None:
        vision = config.vision_config
        num_tokens = (vision.image_size // vision.patch_size // config.scale_factor) ** 2
        refuse_unequal({"image_seq_len": (processor.image_seq_len, num_tokens)}, directory)

    def image_arguments(self, encoded: Mapping[str, torch.Tensor]) -> Mapping[str, torch.Tensor]:
        return {name: encoded[name][0] for name in _BY_TILE if name in encoded}

    def prepare(self, model: Any) -> None:
        model.register_forward_pre_hook(_as_one_row, with_kwargs=True)


def _as_one_row(_: Any, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    # The forward wants the tiles of each row, padded to the most of any, and takes the padding away again. Tiles of all
    # rows one after another are those of a single row.
    tiles = {
        name: kwargs[name][None]
        for name, axes in _BY_TILE.items()
        if kwargs.get(name) is not None and kwargs[name].ndim == axes
    }
    return args, kwargs | tiles


FAMILY = Idefics3()

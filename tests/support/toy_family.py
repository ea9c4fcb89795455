"""A family of models from outside the package: LLaVA, with pictures of one size and positions on one axis."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers import (
    AutoTokenizer,
    CLIPVisionConfig,
    GenerationConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    PreTrainedTokenizerBase,
)
from transformers.processing_utils import ProcessorMixin

from pilotage.backbones.base import EncodedImages, Family, pixels_of
from tiny import enliven

PLACE = "<|image_pad|>"
SIDE_PX, PATCH_PX = 96, 32


class ToyProcessor(ProcessorMixin):
    def __init__(self, tokenizer: Any) -> None:
        super().__init__(tokenizer, chat_template=tokenizer.chat_template)
        self.tokenizer: Any = tokenizer
        self.image_token_id: int = self.tokenizer.convert_tokens_to_ids(PLACE)
        self.placeholder_ids = frozenset((self.image_token_id,))

    def save_pretrained(self, save_directory: Any, *args: Any, **kwargs: Any) -> Any:
        return self.tokenizer.save_pretrained(save_directory)


class ToyFamily(Family):
    model_types = ("llava",)
    prompt_only_tokens = (PLACE,)

    def load_processor(self, directory: Path) -> ToyProcessor:
        return ToyProcessor(AutoTokenizer.from_pretrained(directory))

    def encode_images(
        self, processor: Any, images: Sequence[bytes | np.ndarray], names: Sequence[str]
    ) -> EncodedImages:
        shown = [Image.fromarray(pixels_of(*pair)) for pair in zip(images, names, strict=True)]
        pixels_NHWC = np.stack([np.asarray(image.resize((SIDE_PX, SIDE_PX)), np.float32) for image in shown])
        values_NCHW = torch.from_numpy(pixels_NHWC).permute(0, 3, 1, 2).contiguous() / 127.5 - 1
        grid = (SIDE_PX // PATCH_PX, SIDE_PX // PATCH_PX)
        return EncodedImages(
            inputs={"pixel_values": values_NCHW},
            num_rows={"pixel_values": [1] * len(images)},
            grids=[grid] * len(images),
        )

    def num_image_tokens(self, processor: Any, width: int, height: int) -> int:
        return (SIDE_PX // PATCH_PX) ** 2

    def is_vision(self, name: str) -> bool:
        return "vision_tower" in name or "multi_modal_projector" in name


FAMILY = ToyFamily()


def save_toy(directory: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    """A random model of the family, as transformers saves it."""
    processor = ToyProcessor(tokenizer)
    sizes: dict[str, Any] = {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
    }
    config = LlavaConfig(
        text_config=LlamaConfig(**sizes, vocab_size=len(processor.tokenizer), max_position_embeddings=2048),
        vision_config=CLIPVisionConfig(**sizes, image_size=SIDE_PX, patch_size=PATCH_PX),
        image_token_index=processor.image_token_id,
        vision_feature_layer=-1,
    )
    torch.manual_seed(0)
    model = LlavaForConditionalGeneration(config)
    enliven(model)
    ends = [processor.tokenizer.eos_token_id, processor.tokenizer.pad_token_id]
    model.generation_config = GenerationConfig(eos_token_id=ends, pad_token_id=ends[1])
    model.save_pretrained(directory)
    processor.save_pretrained(directory)

"""Qwen2-VL to Qwen3.5: a processor for still images that needs pillow and numpy only, patches, M-RoPE positions.

P image patches of all pictures together, F numbers per patch.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Sequence
from pathlib import Path
from types import MethodType
from typing import Any, Generic, TypeVar

import numpy as np
import torch
from PIL import Image
from transformers import Qwen3VLProcessor
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil, smart_resize
from transformers.processing_utils import ProcessorMixin

from pilotage.backbones.base import EncodedImages, Family, pixels_of
from pilotage.backbones.checkpoint import BackboneError, refuse_unequal, refusing
from pilotage.backbones.processed import REMEDY, checked_processor

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")

VISION_TOKENS = ("<|image_pad|>", "<|video_pad|>", "<|vision_start|>", "<|vision_end|>", "<|vision_pad|>")
"""Tokens that only a prompt may hold; a sampled one makes the forward look for an image that is not there."""

_TOKENS = {
    "image": "<|image_pad|>",
    "video": "<|video_pad|>",
    "vision_start": "<|vision_start|>",
    "vision_end": "<|vision_end|>",
}


class ImageTextProcessor(Qwen3VLProcessor):
    """Qwen3-VL's processor without its video part.

    The stock class always builds a video processor, which cannot be imported without torchvision. This one has an
    image processor and a tokenizer; otherwise it behaves the same (and serves Qwen2.5-VL, whose image part is alike).
    """

    def __init__(self, image_processor: Any = None, tokenizer: Any = None, chat_template: str | None = None):
        def token_and_id(name: str) -> tuple[str, int]:
            token = getattr(tokenizer, f"{name}_token", None) or _TOKENS[name]
            token_id = tokenizer.convert_tokens_to_ids(token)
            if token_id is None or token_id == getattr(tokenizer, "unk_token_id", None):
                raise BackboneError(f"the tokenizer has no {token!r}; a Qwen-VL tokenizer is needed")
            return token, token_id

        self.image_token, self.image_token_id = token_and_id("image")
        self.video_token, self.video_token_id = token_and_id("video")
        self.vision_start_token, self.vision_start_token_id = token_and_id("vision_start")
        self.vision_end_token, self.vision_end_token_id = token_and_id("vision_end")
        self.placeholder_ids = frozenset((self.image_token_id, self.video_token_id))
        ProcessorMixin.__init__(self, image_processor, tokenizer, chat_template=chat_template)

    def to_dict(self) -> dict[str, Any]:
        # Other programs know the directory's processor by its stock name.
        return {**super().to_dict(), "processor_class": Qwen3VLProcessor.__name__}

    def save_pretrained(self, save_directory: Any, *args: Any, **kwargs: Any) -> Any:
        files = super().save_pretrained(save_directory, *args, **kwargs)
        self.tokenizer._set_processor_class(Qwen3VLProcessor.__name__)
        self.tokenizer.save_pretrained(save_directory)
        # Older readers (and vLLM) look for the image settings in a file of their own.
        self.image_processor.save_pretrained(save_directory)
        return files

    @classmethod
    def load(cls, path: str) -> ImageTextProcessor:
        """The processor of a Qwen-VL directory; only its image and tokenizer files are read.

        Raises BackboneError for a file that is missing or damaged.
        """
        directory = Path(path)
        return checked_processor(directory, lambda: cls._built(directory))

    @classmethod
    def _built(cls, directory: Path) -> ImageTextProcessor:
        from transformers import AutoTokenizer

        with refusing(f"the tokenizer of {directory}", remedy=REMEDY):
            tokenizer = AutoTokenizer.from_pretrained(directory, trust_remote_code=False)
        with refusing(directory / "preprocessor_config.json", remedy=REMEDY):
            image_processor = Qwen2VLImageProcessorPil.from_pretrained(directory)
        # Older directories keep the template in a file of its own, which is the processor's.
        template = getattr(tokenizer, "chat_template", None) or cls.get_processor_dict(directory)[0].get(
            "chat_template"
        )
        return cls(image_processor=image_processor, tokenizer=tokenizer, chat_template=template)


class _Cache(OrderedDict[Key, Value], Generic[Key, Value]):
    """Keeps the most recently used values whose weights add up to at most `capacity`."""

    def __init__(self, capacity: int) -> None:
        super().__init__()
        self.capacity = capacity
        self.weight = 0

    def recall(self, key: Key) -> Value | None:
        value = self.get(key)
        if value is not None:
            self.move_to_end(key)
        return value

    def keep(self, key: Key, value: Value, weight: int) -> None:
        self[key] = value
        self.weight += weight
        while self.weight > self.capacity and len(self) > 1:
            _, dropped = self.popitem(last=False)
            self.weight -= getattr(dropped, "nbytes", 1)


_PATCH_CACHES: dict[tuple[int, int, int], _Cache[bytes, np.ndarray]] = {}
_PATCH_CACHE_BYTES = 128 * 2**20


def as_patches(pixels_HWC: np.ndarray, *, patch: int, merge: int, frames: int) -> np.ndarray:
    """[patches, channels x frames x patch x patch] uint8 in Qwen-VL's order: merge blocks row by row.

    `pixels_HWC` is uint8 RGB with sides that are multiples of patch x merge.
    """
    height, width, channels = pixels_HWC.shape
    blocks = pixels_HWC.reshape(
        height // (patch * merge), merge, patch, width // (patch * merge), merge, patch, 3
    )
    # The model merges merge x merge patches that follow one another, so a block's patches must.
    # -> block row, block column, row in block, column in block, channel, y, x
    blocks = blocks.transpose(0, 3, 1, 4, 6, 2, 5)
    # A still image is a clip of equal frames: the patch embedding expects temporal_patch_size of them.
    if frames > 1:
        blocks = np.broadcast_to(blocks[..., None, :, :], (*blocks.shape[:5], frames, patch, patch))
    return np.ascontiguousarray(blocks).reshape(-1, channels * frames * patch * patch)


def encode_pictures(
    processor: Any, images: Sequence[bytes | np.ndarray], names: Sequence[str]
) -> tuple[torch.Tensor, torch.Tensor]:
    """`(pixel_values [P, F] float32, image_grid_thw [images, 3])`; `processor` is the image processor.

    Images whose size the processor would leave alone are cut into patches here for the whole batch at once (equal to
    the stock processor to 1e-6); others go through the stock processor, which resizes them.
    """
    patch, merge, frames = processor.patch_size, processor.merge_size, processor.temporal_patch_size
    grid_of: list[tuple[int, int, int]] = []
    parts: list[np.ndarray | torch.Tensor] = []
    cache = _PATCH_CACHES.setdefault((patch, merge, frames), _Cache(_PATCH_CACHE_BYTES))
    for place, image in enumerate(images):
        key = image if isinstance(image, bytes) else None
        if key is not None and (cached := cache.recall(key)) is not None:
            # The number of patches alone would not tell 2 x 3 from 3 x 2.
            height, width = (int(side) for side in cached[-1, :4].view(np.uint16))
            parts.append(cached[:-1])
            grid_of.append((1, height // patch, width // patch))
            continue
        pixels = pixels_of(image, names[place])
        height, width = pixels.shape[:2]
        if _is_left_alone(processor, height, width):
            patches = as_patches(pixels, patch=patch, merge=merge, frames=frames)
            if key is not None:
                # One more row remembers the size, so that an entry is a single array.
                remembered = np.zeros((len(patches) + 1, patches.shape[1]), np.uint8)
                remembered[:-1] = patches
                remembered[-1, :4] = np.array([height, width], np.uint16).view(np.uint8)
                cache.keep(key, remembered, remembered.nbytes)
            parts.append(patches)
            grid_of.append((1, height // patch, width // patch))
        else:
            stock = processor(images=[Image.fromarray(pixels)], return_tensors="pt")
            parts.append(stock["pixel_values"].float())
            grid_of.append(tuple(stock["image_grid_thw"][0].tolist()))
    grid_thw = torch.tensor(grid_of, dtype=torch.long).reshape(-1, 3)
    if all(isinstance(part, np.ndarray) for part in parts):
        return _normalised(processor, np.concatenate(parts)), grid_thw  # pyright: ignore[reportArgumentType]
    return torch.cat(
        [_normalised(processor, part) if isinstance(part, np.ndarray) else part for part in parts]
    ), grid_thw


def _is_left_alone(processor: Any, height: int, width: int) -> bool:
    factor = processor.patch_size * processor.merge_size
    if not (processor.do_rescale and processor.do_normalize) or height % factor or width % factor:
        return False
    if not processor.do_resize:
        return True
    size = processor.size
    resized = smart_resize(
        height, width, factor=factor, min_pixels=size["shortest_edge"], max_pixels=size["longest_edge"]
    )
    return resized == (height, width)


def _normalised(processor: Any, patches_PF: np.ndarray) -> torch.Tensor:
    """(value x rescale - mean) / std per channel; channels are the slowest axis of F."""
    mean = torch.tensor(processor.image_mean, dtype=torch.float64)
    std = torch.tensor(processor.image_std, dtype=torch.float64)
    scale = (processor.rescale_factor / std).float()
    shift = (-mean / std).float()
    values = torch.from_numpy(patches_PF).reshape(len(patches_PF), len(mean), -1).float()
    if (scale == scale[0]).all() and (shift == shift[0]).all():
        values.mul_(scale[0]).add_(shift[0])
    else:
        values.mul_(scale[:, None]).add_(shift[:, None])
    return values.reshape(patches_PF.shape)


def rope_positions(length: int, images: Sequence[tuple[int, int, int]]) -> np.ndarray:
    """[3, length] time, height and width positions of a sequence with still images at (start, rows, columns).

    Text counts up on all three axes. An image's tokens keep the time at which it starts and count rows and columns
    from there; what follows goes on from its larger side (Qwen2-VL, arXiv 2409.12191, section 2.1). One image of 2 x 3
    tokens behind two of text, and one token of text after it:

        time   0 1  2 2 2 2 2 2  5
        height 0 1  2 2 2 3 3 3  5
        width  0 1  2 3 4 2 3 4  5
    """
    if not images:
        return np.broadcast_to(np.arange(length), (3, length))
    # `column` counts tokens and `position` positions. Behind an image they part, by its tokens less its larger side.
    positions = np.empty((3, length), dtype=np.int64)
    column = position = 0
    for start, rows, columns in images:
        positions[:, column:start] = position + np.arange(start - column)
        position += start - column
        column = start + rows * columns
        positions[0, start:column] = position
        positions[1, start:column] = position + np.repeat(np.arange(rows), columns)
        positions[2, start:column] = position + np.tile(np.arange(columns), rows)
        position += max(rows, columns)
    positions[:, column:] = position + np.arange(length - column)
    return positions


def multiply_patches(model: Any) -> None:
    """Lets the patch embedding run as a matrix product instead of the three-dimensional convolution that it is.

    A patch is exactly one kernel, so the numbers are the same up to rounding; forward and backward were measured
    three times as fast on the CPU. Parameters and their names stay as they are.
    """
    for module in model.modules():
        if type(module).__name__.endswith("VisionPatchEmbed") and isinstance(module.proj, torch.nn.Conv3d):
            module.forward = MethodType(_patch_product, module)


def _patch_product(module: Any, hidden_states: torch.Tensor) -> torch.Tensor:
    weight = module.proj.weight
    return torch.nn.functional.linear(hidden_states.to(weight.dtype), weight.flatten(1), module.proj.bias)


class QwenVL(Family):
    """Qwen2-VL to Qwen3.5, whose pictures and positions are alike."""

    model_types = ("qwen3_vl", "qwen2_5_vl", "qwen2_vl", "qwen3_vl_moe", "qwen3_5")
    prompt_only_tokens = VISION_TOKENS
    vision_modules = ("visual",)
    # Qwen3.5 has layers with a state in place of most attention layers.
    language_linears = (
        r".*language_model.*\.(q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj|"
        r"in_proj_qkv|in_proj_z|in_proj_b|in_proj_a|out_proj)"
    )

    def load_processor(self, directory: Path) -> ImageTextProcessor:
        return ImageTextProcessor.load(str(directory))

    def refuse_misfit(self, processor: Any, config: Any, directory: Path) -> None:
        images, vision = processor.image_processor, config.vision_config
        refuse_unequal(
            {
                "patch_size": (images.patch_size, vision.patch_size),
                "merge_size": (images.merge_size, vision.spatial_merge_size),
                "temporal_patch_size": (images.temporal_patch_size, vision.temporal_patch_size),
            },
            directory,
        )

    def encode_images(
        self, processor: Any, images: Sequence[bytes | np.ndarray], names: Sequence[str]
    ) -> EncodedImages:
        pixel_values, grid_thw = encode_pictures(processor.image_processor, images, names)
        merge, grids = processor.image_processor.merge_size, grid_thw.tolist()
        return EncodedImages(
            inputs={"pixel_values": pixel_values, "image_grid_thw": grid_thw},
            num_rows={
                "pixel_values": [frames * rows * columns for frames, rows, columns in grids],
                "image_grid_thw": [1] * len(grids),
            },
            grids=[(rows // merge, columns // merge) for _, rows, columns in grids],
        )

    def num_image_tokens(self, processor: Any, width: int, height: int) -> int:
        return self._patches(processor, width, height) // processor.image_processor.merge_size**2

    def num_patches(self, backbone: Any, width: int, height: int) -> tuple[int, int]:
        patches = self._patches(backbone.processor, width, height)
        return patches, patches

    def _patches(self, processor: Any, width: int, height: int) -> int:
        return processor.image_processor.get_number_of_image_patches(height, width, {})

    def positions(self, length: int, images: Sequence[tuple[int, int, int]]) -> np.ndarray:
        return rope_positions(length, images)

    def prepare(self, model: Any) -> None:
        multiply_patches(model)


FAMILY = QwenVL()

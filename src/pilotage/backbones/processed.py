"""A family whose pictures are left to the processor that transformers has for its models, one prompt at a time."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from PIL import Image

from pilotage.backbones.base import EncodedPrompts, Family, Prompt, pixels_of, places_of
from pilotage.backbones.checkpoint import AGAIN, BackboneError, read_small_json, refusing
from pilotage.backbones.template import templated

_TOKENIZER_FILES = ("tokenizer.json", "vocab.json", "tokenizer.model")
_IMAGE_FILES = ("preprocessor_config.json", "processor_config.json")
"""Either may hold the image settings; newer directories have both."""
_SETTINGS = (*_IMAGE_FILES, "tokenizer_config.json", "chat_template.json")
REMEDY = f"copy it from the base model, or {AGAIN}"


def checked_processor(directory: Path, build: Callable[[], Any], *, sees: bool = True) -> Any:
    """What `build` makes of a model's directory; its chat template was tried on words, and on a picture if it `sees`.

    Raises BackboneError for a file that is missing or damaged, a package that is, and a template that fails.
    """
    for names in (_TOKENIZER_FILES, _IMAGE_FILES)[: 1 + sees]:
        if not any((directory / name).exists() for name in names):
            raise BackboneError(f"{directory} has no {names[0]}: {REMEDY}")
    for name in _SETTINGS:
        if (directory / name).exists():
            read_small_json(directory / name)
    with refusing(f"the processor of {directory}", remedy=REMEDY):
        try:
            processor = build()
        except ImportError as error:
            raise BackboneError(
                f"the processor of {directory} needs a package that is not installed "
                f"({' '.join(str(error).split())[:200]}): pip install it, in a build for your torch"
            ) from error
    if not processor.chat_template:
        raise BackboneError(
            f"{directory} has no chat template (chat_template.jinja, or in tokenizer_config.json): {REMEDY}"
        )
    picture = [{"type": "image"}] if sees else []
    with refusing(f"the chat template of {directory}", remedy=REMEDY):
        sample = [{"role": "user", "content": [*picture, {"type": "text", "text": "?"}]}]
        templated(processor, sample, name=str(directory))
    return processor


class _StillPictures:
    """A processor of transformers without its part for videos, which cannot be imported without torchvision."""

    @classmethod
    def get_attributes(cls) -> list[str]:
        return [name for name in super().get_attributes() if name != "video_processor"]  # pyright: ignore

    def save_pretrained(self: Any, save_directory: Any, *args: Any, **kwargs: Any) -> Any:
        files = super().save_pretrained(save_directory, *args, **kwargs)  # pyright: ignore
        # Older readers (and vLLM) look for the image settings in a file of their own.
        self.image_processor.save_pretrained(save_directory)
        return files


@cache
def still_pictures(name: str, base: str | None = None) -> Any:
    """The processor's class of this name in transformers, or of what `base` names, for pictures and text alone."""
    # Of the stock name: other programs know a directory's processor by it.
    return type(name, (_StillPictures, getattr(transformers, base or name)), {})


class ProcessorFamily(Family):
    """Everything about pictures is what the processor of transformers says: tokens, and arguments of the forward.

    Positions are the model's own where it has a `get_rope_index`, and count up where it has none.
    """

    processor_class: str
    """Its name in transformers. It has to be built of an image processor, a tokenizer and settings."""
    processor_base: str | None = None
    """Another that does the same with pictures, where the own one needs packages that pictures do not."""

    def load_processor(self, directory: Path) -> Any:
        kind = still_pictures(self.processor_class, self.processor_base)
        return checked_processor(directory, lambda: kind.from_pretrained(directory, trust_remote_code=False))

    def place_id(self, processor: Any) -> int:
        """Stands once in a rendered text where a picture goes."""
        return processor.tokenizer.convert_tokens_to_ids(processor.image_token)

    def placeholder_ids(self, processor: Any) -> frozenset[int]:
        video = getattr(processor, "video_token", None)
        known = None if video is None else processor.tokenizer.get_vocab().get(video)
        ids = (self.image_token_id(processor), self.place_id(processor), known)
        return frozenset(token for token in ids if token is not None)

    def num_image_tokens(self, processor: Any, width: int, height: int) -> int:
        # What vLLM asks it too.
        return processor._get_num_multimodal_tokens(image_sizes=[(height, width)])["num_image_tokens"][0]

    def num_patches(self, backbone: Any, width: int, height: int) -> tuple[int, int]:
        blank, processor = Image.new("RGB", (width, height)), backbone.processor
        pixels = processor(text=[processor.image_token], images=[blank], return_tensors="pt")["pixel_values"]
        if pixels.ndim == 2:  # [patches, numbers]
            return len(pixels), len(pixels)
        # [..., channels, height, width] of tiles that do not see each other
        sides = backbone.model.config.vision_config.patch_size
        sides = (sides, sides) if isinstance(sides, int) else sides
        of_tile = math.prod(size // side for size, side in zip(pixels.shape[-2:], sides, strict=True))
        return pixels.shape[:-3].numel() * of_tile, of_tile

    def encode_prompts(self, backbone: Any, prompts: Sequence[Prompt]) -> EncodedPrompts:
        rows = [self._encoded(backbone, prompt) for prompt in prompts]
        names = dict.fromkeys(name for *_, images in rows for name in images)
        return EncodedPrompts(
            ids=[ids for ids, *_ in rows],
            positions=[positions for _, positions, *_ in rows],
            tokens={name: [tokens[name] for *_, tokens, _ in rows] for name in self.token_arguments},
            images={
                name: _together([images[name] for *_, images in rows if name in images]) for name in names
            },
            num_rows={
                name: [len(images[name]) if name in images else 0 for *_, images in rows] for name in names
            },
        )

    def image_arguments(self, encoded: Mapping[str, torch.Tensor]) -> Mapping[str, torch.Tensor]:
        """What of a processor's answer to one prompt the forward takes, in rows that may follow another prompt's."""
        return encoded

    def _encoded(
        self, backbone: Any, prompt: Prompt
    ) -> tuple[list[int], np.ndarray, dict[str, np.ndarray], Mapping[str, torch.Tensor]]:
        """Ids, positions, arguments by token and arguments for pictures."""
        processor = backbone.processor
        places_of(prompt, self.place_id(processor), backbone.placeholder_ids)
        ids, images = list(prompt.ids), {}
        if prompt.images:
            shown = [Image.fromarray(pixels_of(image, prompt.name)) for image in prompt.images]
            images = dict(
                processor(text=[prompt.text], images=shown, add_special_tokens=False, return_tensors="pt")
            )
            ids = images.pop("input_ids")[0].tolist()
            for name in ("attention_mask", "mm_token_type_ids", "token_type_ids"):
                images.pop(name, None)
            images = self.image_arguments(images)
        is_image_S = np.array(ids) == backbone.image_token_id
        tokens = {name: is_image_S.astype(np.int64) for name in self.token_arguments}
        return ids, self._positions(backbone.model, ids, is_image_S, images), tokens, images

    def _positions(
        self, model: Any, ids: Sequence[int], is_image_S: np.ndarray, images: Mapping[str, torch.Tensor]
    ) -> np.ndarray:
        whole = model.get_base_model() if hasattr(model, "get_base_model") else model
        own = getattr(getattr(whole, "model", None), "get_rope_index", None)
        if own is None:
            return self.positions(len(ids), ())
        positions_A1S, _ = own(
            torch.tensor([ids]),
            mm_token_type_ids=torch.from_numpy(is_image_S).int()[None],
            image_grid_thw=images.get("image_grid_thw"),
        )
        return positions_A1S[:, 0].numpy()


def _together(parts: Sequence[torch.Tensor]) -> torch.Tensor:
    """Parts one after another; where they differ in size, the smaller ones are padded with 0 behind their ends."""
    sizes = [max(part.shape[axis] for part in parts) for axis in range(1, parts[0].ndim)]

    def grown(part: torch.Tensor) -> torch.Tensor:
        missing = [size - have for size, have in zip(sizes, part.shape[1:], strict=True)]
        # From the last axis to the first, on both sides of each.
        return torch.nn.functional.pad(part, [side for size in reversed(missing) for side in (0, size)])

    return torch.cat([grown(part) for part in parts])

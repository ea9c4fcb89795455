"""Views become tensors: rendered, tokenised, padded, with image patches and explicit M-RoPE positions.

B rows, S columns, P image patches of all rows together, F numbers per patch.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Iterator, Sequence
from typing import Any, Generic, NotRequired, TypedDict, TypeVar

import numpy as np
import torch
from PIL import Image
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import smart_resize

from pilotage.backbones.load import Backbone
from pilotage.backbones.render import render
from pilotage.errors import PilotageError
from pilotage.pictures import BadPictureError, check_size, read_rgb
from pilotage.records import View

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")


class PromptTooLongError(PilotageError):
    """A prompt does not fit; prompts are never truncated, because a cut image or state is another task."""


class ModelInputs(TypedDict):
    """What a model's forward takes: `model(**inputs)`."""

    input_ids: torch.Tensor
    """[B, S] int64"""
    attention_mask: torch.Tensor
    """[B, S] int64, 0 on padding"""
    position_ids: torch.Tensor
    """[3, B, S] int64: time, height and width positions; 0 on padding"""
    pixel_values: NotRequired[torch.Tensor]
    """[P, F] float32, present when a view has an image"""
    image_grid_thw: NotRequired[torch.Tensor]
    """[images, 3] int64: frames, patch rows, patch columns"""


class EncodedResponses(TypedDict):
    """`inputs` for the forward, and where in them the responses stand."""

    inputs: ModelInputs
    response_mask: torch.Tensor
    """[B, S] bool: True on the columns that hold response ids."""
    num_images: torch.Tensor
    """[B] int64; the images of all rows stand one after another in `inputs`."""
    prompt_lengths: torch.Tensor
    """[B] int64; row b's response begins at column prompt_lengths[b]."""
    response_lengths: torch.Tensor
    """[B] int64"""


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


def _pixels(image: bytes | np.ndarray) -> np.ndarray:
    if isinstance(image, np.ndarray):
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
            raise PilotageError(
                f"an image array must be uint8 [height, width, 3], got {image.dtype} {image.shape}"
            )
        return image
    return np.asarray(read_rgb(image))


def encode_images(
    backbone: Backbone, images: Sequence[bytes | np.ndarray], *, names: Sequence[str] | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """`(pixel_values [P, F] float32, image_grid_thw [images, 3])` of PNG bytes or uint8 RGB arrays.

    Images whose size the processor would leave alone are cut into patches here for the whole batch at once (equal to
    the stock processor to 1e-6); others go through the stock processor, which resizes them. Raises PilotageError that
    tells by `names` whose picture cannot be shown.
    """
    processor = backbone.processor.image_processor
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
        try:
            pixels = _pixels(image)
            height, width = pixels.shape[:2]
            check_size(width, height)
        except BadPictureError as error:
            name = names[place] if names is not None else f"image {place}"
            raise PilotageError(f"{name}: {error}") from None
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


def _encode_prompts(
    backbone: Backbone, views: Sequence[View], max_length: int | None, names: Sequence[str] | None
) -> tuple[list[list[int]], list[np.ndarray], torch.Tensor | None, torch.Tensor | None]:
    """Unpadded ids and positions [3, length] of each view, and the patches of all images."""
    if not views:
        raise PilotageError("no views to encode")
    merge = backbone.processor.image_processor.merge_size
    pixel_values, grid_thw = None, None
    names = [f"row {row}" for row in range(len(views))] if names is None else names
    shown = [(name, image) for name, view in zip(names, views, strict=True) for image in view.images]
    if shown:
        if not backbone.supports_images:
            raise PilotageError(f"{backbone.name} reads text only, but a view has an image")
        pixel_values, grid_thw = encode_images(
            backbone, [image for _, image in shown], names=[name for name, _ in shown]
        )
    # One iterator over all views: images stand in `pixel_values` in the order in which they are met here.
    grids: Iterator[list[int]] = iter(grid_thw.tolist() if grid_thw is not None else [])
    texts = [render(backbone, view, name=name) for view, name in zip(views, names, strict=True)]
    tokenised = backbone.tokenizer(texts, add_special_tokens=False, return_attention_mask=False)["input_ids"]
    ids_of: list[list[int]] = []
    positions_of: list[np.ndarray] = []
    for name, view, ids in zip(names, views, tokenised, strict=True):
        num_images = len(view.images)
        slots = [column for column, token in enumerate(ids) if token in backbone.placeholder_ids]
        if len(slots) != num_images or any(ids[slot] != backbone.image_token_id for slot in slots):
            raise PilotageError(
                f"{name}, view {view.name!r}: its text has {len(slots)} image or video places but the view carries "
                f'{num_images} image(s); put one {{"type": "image"}} where each image goes'
            )
        stretches: list[tuple[int, int, int]] = []
        # The template writes one placeholder an image; the model wants one for each merged patch.
        # From the left, so that each place is where the pictures before it have moved it.
        for number, slot in enumerate(slots):
            _, grid_rows, grid_columns = next(grids)
            start = slot + sum(rows * columns - 1 for _, rows, columns in stretches)
            stretches.append((start, grid_rows // merge, grid_columns // merge))
            num_tokens = stretches[number][1] * stretches[number][2]
            ids = ids[:start] + [backbone.image_token_id] * num_tokens + ids[start + 1 :]
        if max_length is not None and len(ids) > max_length:
            raise PromptTooLongError(
                f"{name}, view {view.name!r}: the prompt has {len(ids)} tokens, more than {max_length}; raise the "
                "limit, use smaller images or the brief prompts (prompts are never cut)"
            )
        ids_of.append(ids)
        positions_of.append(rope_positions(len(ids), stretches))
    return ids_of, positions_of, pixel_values, grid_thw


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


def _padded_length(length: int, multiple: int) -> int:
    return -(-length // multiple) * multiple


def _to_tensors(
    backbone: Backbone,
    ids_of: Sequence[Sequence[int]],
    positions_of: Sequence[np.ndarray],
    pixel_values: torch.Tensor | None,
    grid_thw: torch.Tensor | None,
    *,
    length: int,
    left: bool,
) -> ModelInputs:
    num_rows = len(ids_of)
    ids_BS = np.full((num_rows, length), backbone.pad_id, dtype=np.int64)
    mask_BS = np.zeros((num_rows, length), dtype=np.int64)
    positions_3BS = np.zeros((3, num_rows, length), dtype=np.int64)
    for row, (ids, positions) in enumerate(zip(ids_of, positions_of, strict=True)):
        # Positions go with their tokens, whichever side is padded: a prompt that is decoded and the same one that is
        # scored have equal ones, or the log-probabilities of the two would differ.
        columns = slice(length - len(ids), length) if left else slice(0, len(ids))
        ids_BS[row, columns] = ids
        mask_BS[row, columns] = 1
        positions_3BS[:, row, columns] = positions
    device = backbone.device
    inputs = ModelInputs(
        input_ids=torch.from_numpy(ids_BS).to(device),
        attention_mask=torch.from_numpy(mask_BS).to(device),
        position_ids=torch.from_numpy(positions_3BS).to(device),
    )
    if pixel_values is not None and grid_thw is not None:
        inputs["pixel_values"] = pixel_values.to(device)
        inputs["image_grid_thw"] = grid_thw.to(device)
    return inputs


def encode_views(
    backbone: Backbone,
    views: Sequence[View],
    *,
    pad_to_multiple: int = 32,
    max_length: int | None = None,
    names: Sequence[str] | None = None,
) -> ModelInputs:
    """Left-padded prompts, ready for decoding; `names` (example ids) are for error messages.

    Raises PromptTooLongError when a prompt has more than `max_length` tokens.
    """
    ids_of, positions_of, pixel_values, grid_thw = _encode_prompts(backbone, views, max_length, names)
    length = _padded_length(max(map(len, ids_of)), pad_to_multiple)
    return _to_tensors(backbone, ids_of, positions_of, pixel_values, grid_thw, length=length, left=True)


def encode_with_response(
    backbone: Backbone,
    views: Sequence[View],
    response_ids: Sequence[Sequence[int]],
    *,
    pad_to_multiple: int = 32,
    max_length: int | None = None,
    names: Sequence[str] | None = None,
) -> EncodedResponses:
    """Prompts with the given response ids behind them, padded on the right.

    With padding on the right a causal model needs no mask: `attention_mask` may be left out of the forward, which is
    faster, and changes nothing at the real positions. `pilotage.distill.align` picks the positions that predict the
    response. Raises PromptTooLongError when prompt and response have more than `max_length` tokens.
    """
    if len(views) != len(response_ids):
        raise PilotageError(f"{len(views)} views but {len(response_ids)} responses")
    prompts, positions_of, pixel_values, grid_thw = _encode_prompts(backbone, views, max_length, names)
    ids_of: list[list[int]] = []
    extended: list[np.ndarray] = []
    for row, (prompt, positions, response) in enumerate(
        zip(prompts, positions_of, response_ids, strict=True)
    ):
        name = names[row] if names is not None else f"row {row}"
        # The model would count it among the places of the prompts' images.
        if not backbone.placeholder_ids.isdisjoint(response):
            raise PilotageError(
                f"{name}: the response holds an image or video placeholder, which no image fills"
            )
        ids = [*prompt, *response]
        if max_length is not None and len(ids) > max_length:
            raise PromptTooLongError(
                f"{name}: prompt and response have {len(prompt)} + {len(response)} tokens, more than {max_length}"
            )
        ids_of.append(ids)
        # A prompt ends in text, whose position is the largest so far: what the engine goes on from too.
        following = positions[:, -1:].max() + 1 + np.arange(len(response))
        extended.append(np.concatenate([positions, np.broadcast_to(following, (3, len(response)))], axis=1))
    length = _padded_length(max(map(len, ids_of)), pad_to_multiple)
    inputs = _to_tensors(backbone, ids_of, extended, pixel_values, grid_thw, length=length, left=False)
    prompt_lengths = torch.tensor([len(prompt) for prompt in prompts])
    response_lengths = torch.tensor([len(response) for response in response_ids])
    columns = torch.arange(length)
    response_mask = (columns >= prompt_lengths[:, None]) & (
        columns < (prompt_lengths + response_lengths)[:, None]
    )
    device = backbone.device
    return EncodedResponses(
        inputs=inputs,
        response_mask=response_mask.to(device),
        num_images=torch.tensor([len(view.images) for view in views], device=device),
        prompt_lengths=prompt_lengths.to(device),
        response_lengths=response_lengths.to(device),
    )


def patches_of_rows(encoded: EncodedResponses) -> list[torch.Tensor]:
    """Each row's part of `pixel_values`, [patches of its images, F]; none of a row without images. Not copies."""
    inputs = encoded["inputs"]
    if "pixel_values" not in inputs or "image_grid_thw" not in inputs:
        return [torch.empty(0, 0) for _ in encoded["num_images"]]
    per_image = inputs["image_grid_thw"].prod(-1)
    per_row = [int(counts.sum()) for counts in per_image.split(encoded["num_images"].tolist())]
    return list(inputs["pixel_values"].split(per_row))

"""Views become tensors: rendered, tokenised, padded; pictures and positions as the model's family has them.

B rows, S columns.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TypedDict

import numpy as np
import torch

from pilotage.backbones.base import EncodedImages
from pilotage.backbones.load import Backbone
from pilotage.backbones.render import render
from pilotage.errors import PilotageError
from pilotage.records import View

ModelInputs = dict[str, torch.Tensor]
"""What a model's forward takes: `model(**inputs)`.

`input_ids` and `attention_mask` are [B, S] int64, `position_ids` [B, S] or [axes, B, S], all 0 on padding but for the
padding token. Where a view has a picture, the family's arguments for pictures are there too, `pixel_values` among them.
"""


class PromptTooLongError(PilotageError):
    """A prompt does not fit; prompts are never truncated, because a cut image or state is another task."""


class EncodedResponses(TypedDict):
    """`inputs` for the forward, and where in them the responses stand."""

    inputs: ModelInputs
    response_mask: torch.Tensor
    """[B, S] bool: True on the columns that hold response ids."""
    image_rows: Mapping[str, Sequence[int]]
    """For each argument for pictures, how many of its rows are each of the B rows'; they stand one after another."""
    prompt_lengths: torch.Tensor
    """[B] int64; row b's response begins at column prompt_lengths[b]."""
    response_lengths: torch.Tensor
    """[B] int64"""


def encode_images(
    backbone: Backbone, images: Sequence[bytes | np.ndarray], *, names: Sequence[str] | None = None
) -> EncodedImages:
    """PNG bytes or uint8 RGB arrays as the model takes them, on the CPU.

    Raises PilotageError that tells by `names` whose picture cannot be shown.
    """
    names = [f"image {place}" for place in range(len(images))] if names is None else names
    return backbone.family.encode_images(backbone.processor, images, names)


def _encode_prompts(
    backbone: Backbone, views: Sequence[View], max_length: int | None, names: Sequence[str] | None
) -> tuple[list[list[int]], list[np.ndarray], EncodedImages | None]:
    """Unpadded ids and positions of each view, and the pictures of all."""
    if not views:
        raise PilotageError("no views to encode")
    encoded: EncodedImages | None = None
    names = [f"row {row}" for row in range(len(views))] if names is None else names
    shown = [(name, image) for name, view in zip(names, views, strict=True) for image in view.images]
    if shown:
        if not backbone.supports_images:
            raise PilotageError(f"{backbone.name} reads text only, but a view has an image")
        encoded = encode_images(backbone, [image for _, image in shown], names=[name for name, _ in shown])
    # One iterator over all views: images stand in the model's arguments in the order in which they are met here.
    grids: Iterator[tuple[int, int]] = iter(encoded.grids if encoded is not None else ())
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
            start = slot + sum(rows * columns - 1 for _, rows, columns in stretches)
            stretches.append((start, *next(grids)))
            num_tokens = stretches[number][1] * stretches[number][2]
            ids = ids[:start] + [backbone.image_token_id] * num_tokens + ids[start + 1 :]
        if max_length is not None and len(ids) > max_length:
            raise PromptTooLongError(
                f"{name}, view {view.name!r}: the prompt has {len(ids)} tokens, more than {max_length}; raise the "
                "limit, use smaller images or the brief prompts (prompts are never cut)"
            )
        ids_of.append(ids)
        positions_of.append(backbone.family.positions(len(ids), stretches))
    return ids_of, positions_of, encoded


def _padded_length(length: int, multiple: int) -> int:
    return -(-length // multiple) * multiple


def _to_tensors(
    backbone: Backbone,
    ids_of: Sequence[Sequence[int]],
    positions_of: Sequence[np.ndarray],
    images: EncodedImages | None,
    *,
    length: int,
    left: bool,
) -> ModelInputs:
    num_rows = len(ids_of)
    ids_BS = np.full((num_rows, length), backbone.pad_id, dtype=np.int64)
    mask_BS = np.zeros((num_rows, length), dtype=np.int64)
    positions_ABS = np.zeros((*positions_of[0].shape[:-1], num_rows, length), dtype=np.int64)
    for row, (ids, positions) in enumerate(zip(ids_of, positions_of, strict=True)):
        # Positions go with their tokens, whichever side is padded: a prompt that is decoded and the same one that is
        # scored have equal ones, or the log-probabilities of the two would differ.
        columns = slice(length - len(ids), length) if left else slice(0, len(ids))
        ids_BS[row, columns] = ids
        mask_BS[row, columns] = 1
        positions_ABS[..., row, columns] = positions
    device = backbone.device
    inputs = {
        "input_ids": torch.from_numpy(ids_BS).to(device),
        "attention_mask": torch.from_numpy(mask_BS).to(device),
        "position_ids": torch.from_numpy(positions_ABS).to(device),
    }
    if images is not None:
        inputs |= {name: value.to(device) for name, value in images.inputs.items()}
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
    ids_of, positions_of, images = _encode_prompts(backbone, views, max_length, names)
    length = _padded_length(max(map(len, ids_of)), pad_to_multiple)
    return _to_tensors(backbone, ids_of, positions_of, images, length=length, left=True)


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
    prompts, positions_of, images = _encode_prompts(backbone, views, max_length, names)
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
        following = positions[..., -1].max() + 1 + np.arange(len(response))
        following = np.broadcast_to(following, (*positions.shape[:-1], len(response)))
        extended.append(np.concatenate([positions, following], axis=-1))
    length = _padded_length(max(map(len, ids_of)), pad_to_multiple)
    inputs = _to_tensors(backbone, ids_of, extended, images, length=length, left=False)
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
        image_rows=_rows_of_views(images, [len(view.images) for view in views]),
        prompt_lengths=prompt_lengths.to(device),
        response_lengths=response_lengths.to(device),
    )


def _rows_of_views(images: EncodedImages | None, num_images: Sequence[int]) -> dict[str, list[int]]:
    ends = np.cumsum(num_images)
    return {
        name: [sum(counts[end - num : end]) for end, num in zip(ends, num_images, strict=True)]
        for name, counts in (images.num_rows if images is not None else {}).items()
    }


def images_of_rows(encoded: EncodedResponses, name: str = "pixel_values") -> list[torch.Tensor]:
    """Each row's part of an argument for pictures; none of a row without. Not copies."""
    if name not in encoded["inputs"]:
        return [torch.empty(0, 0) for _ in encoded["prompt_lengths"]]
    return list(encoded["inputs"][name].split(list(encoded["image_rows"][name])))

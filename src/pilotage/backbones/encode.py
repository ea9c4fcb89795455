"""Views become tensors: rendered, tokenised, padded; pictures and positions as the model's family has them.

B rows, S columns.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypedDict

import numpy as np
import torch

from pilotage.backbones.base import EncodedImages, EncodedPrompts, Prompt
from pilotage.backbones.load import Backbone
from pilotage.backbones.render import render
from pilotage.errors import PilotageError
from pilotage.records import View

ModelInputs = dict[str, torch.Tensor]
"""What a model's forward takes: `model(**inputs)`.

`input_ids` and `attention_mask` are [B, S] int64, `position_ids` [B, S] or [axes, B, S], all 0 on padding but for the
padding token; so are the family's `token_arguments`. Where a view has a picture, the family's arguments for pictures
are there too, `pixel_values` among them.
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
    shareable_lengths: torch.Tensor
    """[B] int64; so many of a row's first columns, before any picture, may be read once for all rows that have them."""
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
) -> EncodedPrompts:
    if not views:
        raise PilotageError("no views to encode")
    names = [f"row {row}" for row in range(len(views))] if names is None else names
    if not backbone.supports_images and any(view.images for view in views):
        name = next(name for name, view in zip(names, views, strict=True) if view.images)
        raise PilotageError(
            f"{name}: {backbone.name} reads text only, but a view has an image; take a model that sees, or a text view"
        )
    texts = [render(backbone, view, name=name) for view, name in zip(views, names, strict=True)]
    tokenised = backbone.tokenizer(texts, add_special_tokens=False, return_attention_mask=False)["input_ids"]
    prompts = [
        Prompt(name=f"{name}, view {view.name!r}", text=text, ids=ids, images=view.images)
        for name, view, text, ids in zip(names, views, texts, tokenised, strict=True)
    ]
    encoded = backbone.family.encode_prompts(backbone, prompts)
    for prompt, ids in zip(prompts, encoded.ids, strict=True):
        if max_length is not None and len(ids) > max_length:
            raise PromptTooLongError(
                f"{prompt.name}: the prompt has {len(ids)} tokens, more than {max_length}; raise the "
                "limit, use smaller images or the brief prompts (prompts are never cut)"
            )
    return encoded


def _padded_length(length: int, multiple: int) -> int:
    return -(-length // multiple) * multiple


def _to_tensors(
    backbone: Backbone,
    encoded: EncodedPrompts,
    ids_of: Sequence[Sequence[int]],
    positions_of: Sequence[np.ndarray],
    *,
    length: int,
    left: bool,
) -> ModelInputs:
    num_rows = len(ids_of)
    ids_BS = np.full((num_rows, length), backbone.pad_id, dtype=np.int64)
    mask_BS = np.zeros((num_rows, length), dtype=np.int64)
    positions_ABS = np.zeros((*positions_of[0].shape[:-1], num_rows, length), dtype=np.int64)
    tokens = {name: np.zeros((num_rows, length), dtype=np.int64) for name in encoded.tokens}
    for row, (ids, positions) in enumerate(zip(ids_of, positions_of, strict=True)):
        # Positions go with their tokens, whichever side is padded: a prompt that is decoded and the same one that is
        # scored have equal ones, or the log-probabilities of the two would differ.
        start = length - len(ids) if left else 0
        columns = slice(start, start + len(ids))
        ids_BS[row, columns] = ids
        mask_BS[row, columns] = 1
        positions_ABS[..., row, columns] = positions
        for name, of_prompt in encoded.tokens.items():
            tokens[name][row, start : start + len(of_prompt[row])] = of_prompt[row]
    arrays = {"input_ids": ids_BS, "attention_mask": mask_BS, "position_ids": positions_ABS, **tokens}
    device = backbone.device
    inputs = {name: torch.from_numpy(values).to(device) for name, values in arrays.items()}
    return inputs | {name: value.to(device) for name, value in encoded.images.items()}


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
    encoded = _encode_prompts(backbone, views, max_length, names)
    length = _padded_length(max(map(len, encoded.ids)), pad_to_multiple)
    return _to_tensors(backbone, encoded, encoded.ids, encoded.positions, length=length, left=True)


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
    encoded = _encode_prompts(backbone, views, max_length, names)
    prompts, positions_of = encoded.ids, encoded.positions
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
    inputs = _to_tensors(backbone, encoded, ids_of, extended, length=length, left=False)
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
        image_rows=encoded.num_rows,
        shareable_lengths=torch.tensor([_shareable(backbone, ids) for ids in prompts]).to(device),
        prompt_lengths=prompt_lengths.to(device),
        response_lengths=response_lengths.to(device),
    )


def _shareable(backbone: Backbone, ids: Sequence[int]) -> int:
    if not backbone.shares_prefixes:
        return 0
    return ids.index(backbone.image_token_id) if backbone.image_token_id in ids else len(ids)


def images_of_rows(encoded: EncodedResponses, name: str = "pixel_values") -> list[torch.Tensor]:
    """Each row's part of an argument for pictures; none of a row without. Not copies."""
    if name not in encoded["inputs"]:
        return [torch.empty(0, 0) for _ in encoded["prompt_lengths"]]
    return list(encoded["inputs"][name].split(list(encoded["image_rows"][name])))

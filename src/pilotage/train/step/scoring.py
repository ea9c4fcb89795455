"""Rollouts through a model: final hidden states at the positions that predict each response token.

B rows, S columns, H hidden, V vocabulary, M response tokens of all rows, T response tokens of one row.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache

from pilotage.backbones.encode import EncodedResponses, encode_with_response, images_of_rows
from pilotage.backbones.load import Backbone, is_sharded
from pilotage.backbones.prefix import SharedPrefix, shared_prefix
from pilotage.backbones.ranks import joining_rollout, joining_view, most_over_ranks
from pilotage.distill.align import predicting_positions, response_tokens
from pilotage.distill.chunked import Head
from pilotage.records import Rollout, View


def encode_rollouts(
    backbone: Backbone,
    views: Sequence[View],
    rollouts: Sequence[Rollout],
    *,
    max_prompt_tokens: int | None,
    pad_to_multiple: int,
) -> EncodedResponses:
    """All rows under one teacher's views, each with its rollout's ids at the end; raises for over-long prompts."""
    names = [rollout.example_id for rollout in rollouts]
    encoded = encode_with_response(
        backbone,
        views,
        [rollout.token_ids for rollout in rollouts],
        pad_to_multiple=pad_to_multiple,
        names=names,
    )
    if max_prompt_tokens is not None:
        check_prompts(encoded, views, names, max_prompt_tokens)
    expected = [token for rollout in rollouts for token in rollout.token_ids]
    got_M = response_tokens(encoded["inputs"]["input_ids"], encoded["response_mask"])
    assert got_M.tolist() == expected, "a view's rows must end in the rollouts' own ids"
    return encoded


def take_rows(encoded: EncodedResponses, rows: Sequence[int], *, pad_to_multiple: int) -> EncodedResponses:
    """Some rows of a batch, cut to the longest of them (rounded up); images travel with their rows."""
    inputs = encoded["inputs"]
    prompt_lengths, response_lengths = encoded["prompt_lengths"], encoded["response_lengths"]
    index = torch.as_tensor(rows, device=prompt_lengths.device)
    longest = int((prompt_lengths[index] + response_lengths[index]).max())
    # Cutting on the right loses padding alone, since that is where it stands.
    width = -(-longest // pad_to_multiple) * pad_to_multiple
    taken = {name: inputs[name][..., index, :width] for name in inputs if name not in encoded["image_rows"]}
    image_rows = {
        name: [counts[row] for row in rows]
        for name, counts in encoded["image_rows"].items()
        if any(counts[row] for row in rows)
    }
    for name in image_rows:
        parts = images_of_rows(encoded, name)
        # In the order of `rows`: the model deals patches out to image tokens as it meets them, whatever their row.
        taken[name] = torch.cat([parts[row] for row in rows])
    return EncodedResponses(
        inputs=taken,
        response_mask=encoded["response_mask"][index, :width],
        image_rows=image_rows,
        shareable_lengths=encoded["shareable_lengths"][index],
        prompt_lengths=prompt_lengths[index],
        response_lengths=response_lengths[index],
    )


def micro_batches(encoded: EncodedResponses, size: int, *, num_rows: int | None = None) -> list[list[int]]:
    """The first `num_rows` (None: all) in batches of at most `size`, longest together: padding is paid once a batch."""
    lengths = (encoded["prompt_lengths"] + encoded["response_lengths"]).tolist()[:num_rows]
    # Ties by row: sums of floats depend on the batches, and a resumed run has to make the same ones.
    order = sorted(range(len(lengths)), key=lambda row: (-lengths[row], row))
    return [order[start : start + size] for start in range(0, len(order), size)]


def encode_in_batches(
    backbone: Backbone,
    views: Sequence[View],
    rollouts: Sequence[Rollout],
    *,
    batch_size: int,
    max_prompt_tokens: int | None,
    pad_to_multiple: int,
    together: bool,
) -> tuple[EncodedResponses, list[list[int]]]:
    """All rows under one teacher's views, and the batches that they go through a model in.

    With `together`, which all ranks must call at once, they have equally many batches, all with a picture where any has
    one. What is missing is one more row, the last, that stands for nothing. Two rows of text in batches of one, where
    another rank has three rows with pictures: [[0, 2], [1, 2], [2]]. Without, there must be a row.
    """
    num_rows, with_picture, num_batches = len(views), False, 0
    if together:
        num_batches, shows = most_over_ranks(
            -(-num_rows // batch_size), any(view.images for view in views), device=backbone.device
        )
        with_picture = bool(shows)
        views = [*views, joining_view(with_picture=with_picture)]
        rollouts = [*rollouts, joining_rollout(backbone)]
    encoded = encode_rollouts(
        backbone,
        views,
        rollouts,
        max_prompt_tokens=max_prompt_tokens,
        pad_to_multiple=pad_to_multiple,
    )
    batches = micro_batches(encoded, batch_size, num_rows=num_rows)
    for batch in batches:
        if with_picture and not any(views[row].images for row in batch):
            batch.append(num_rows)
    return encoded, batches + [[num_rows]] * (num_batches - len(batches))


def predicting_states(
    model: Any, base: Any, batch: EncodedResponses, *, share_prefix: bool = False, pad_to_multiple: int = 16
) -> Tensor:
    """[M, H] final hidden states that predict the response tokens; the vocabulary is not projected.

    `base` is the transformers (or peft) model inside `model`, which may be wrapped for several ranks. With
    `share_prefix`, what the prompts begin with is read once for all rows that have it, with gradients too.
    """
    inputs = dict(batch["inputs"])
    # Padding stands on the right: a causal model needs no mask, and attention without one is faster.
    inputs.pop("attention_mask")
    response_mask_BS = batch["response_mask"]
    with _without_head(base):
        prefix = _prefix_of(batch) if share_prefix else None
        if prefix is None:
            hidden_BSH = model(**inputs, use_cache=False).logits
        else:
            # Positions are always handed over. Left to itself the model would count on from the cache's columns, which
            # are more than the positions behind a picture.
            columned = {name: value for name, value in inputs.items() if name not in batch["image_rows"]}
            cache = DynamicCache(config=base.config.get_text_config())
            beginning = {name: value[..., prefix.rows_K, : prefix.length] for name, value in columned.items()}
            model(**beginning, past_key_values=cache, use_cache=True)
            # Keys and values are copied with their graph, so the beginning has the sum of its rows' gradients.
            cache.batch_select_indices(prefix.prefix_of_B)
            longest = int((batch["prompt_lengths"] + batch["response_lengths"]).max()) - prefix.length
            rest = slice(prefix.length, prefix.length + -(-longest // pad_to_multiple) * pad_to_multiple)
            response_mask_BS = response_mask_BS[:, rest]
            inputs |= {name: value[..., rest] for name, value in columned.items()}
            hidden_BSH = model(**inputs, past_key_values=cache, use_cache=True).logits
    rows_M, columns_M = predicting_positions(response_mask_BS)
    return hidden_BSH[rows_M, columns_M]


def _prefix_of(batch: EncodedResponses) -> SharedPrefix | None:
    # The last token of a prompt predicts the first of the response.
    limit = min(int(batch["prompt_lengths"].min()) - 1, int(batch["shareable_lengths"].min()))
    return shared_prefix(batch["inputs"]["input_ids"], limit=limit)


def can_share_prefix(model: Any) -> bool:
    """Whether the rows of a batch may share what was computed for their beginnings.

    They may not while layers are computed again in the backward, which transformers does without a cache; nor while
    dropout treats every row in its own way; nor where parameters are sharded: all ranks meet in every forward, and
    one rank may share a beginning, which is a forward more, while another does not.
    """
    modules = model.modules() if model.training else ()
    return not is_sharded(model) and not any(
        getattr(module, "gradient_checkpointing", False) or (isinstance(module, nn.Dropout) and module.p)
        for module in modules
    )


# Not inference_mode: the states are saved for the student's backward, which refuses inference tensors.
@torch.no_grad()
def score_rows(
    model: Any,
    encoded: EncodedResponses,
    *,
    batch_size: int,
    pad_to_multiple: int,
    share_prefix: bool = False,
    batches: Sequence[Sequence[int]] | None = None,
) -> list[Tensor]:
    """Each row's predicting states [T, H], without gradients, in the order of the rows.

    `batches` None: `micro_batches` of `batch_size`. A row that is in none of them is left out.
    """
    states: list[Tensor | None] = [None] * len(encoded["prompt_lengths"])
    for rows in micro_batches(encoded, batch_size) if batches is None else batches:
        batch = take_rows(encoded, rows, pad_to_multiple=pad_to_multiple)
        hidden_MH = predicting_states(
            model, model, batch, share_prefix=share_prefix, pad_to_multiple=pad_to_multiple
        )
        for row, hidden_TH in zip(rows, hidden_MH.split(batch["response_lengths"].tolist()), strict=True):
            states[row] = hidden_TH
    return [state for state in states if state is not None]


def head_of(base: Any, hidden_MH: Tensor) -> Head:
    """The model's own head over some hidden states."""
    head = base.get_output_embeddings()
    bias = getattr(head, "bias", None)
    return Head(hidden_MH=hidden_MH, weight_VH=head.weight, bias_V=bias)


@torch.no_grad()
def sampled_logprobs(head: Head, ids_M: Tensor, *, temperature: float, num_at_once: int = 256) -> Tensor:
    """[M] float32: log-probability, in nats, of each id under the head's distribution at a temperature."""
    parts = []
    for start in range(0, len(ids_M), num_at_once):
        rows = slice(start, start + num_at_once)
        logits_CV = replace(head, hidden_MH=head.hidden_MH[rows]).logits().float() / temperature
        parts.append(logits_CV.gather(1, ids_M[rows, None]).squeeze(1) - logits_CV.logsumexp(-1))
    return torch.cat(parts) if parts else torch.zeros(0, device=ids_M.device)


@contextmanager
def _without_head(base: Any) -> Iterator[None]:
    """The forward then returns hidden states as its logits, through whatever wraps the model."""
    head = base.get_output_embeddings()
    # On the instance, so that `del` uncovers the class's own. The module is still called, and so are the
    # hooks that gather its sharded parameters.
    head.forward = _same
    try:
        yield
    finally:
        del head.forward


def _same(hidden_BSH: Tensor) -> Tensor:
    return hidden_BSH


def check_prompts(encoded: EncodedResponses, views: Sequence[View], names: Sequence[str], limit: int) -> None:
    """Raises PromptTooLongError for the first prompt above the limit."""
    from pilotage.backbones.encode import PromptTooLongError

    for length, view, name in zip(encoded["prompt_lengths"].tolist(), views, names, strict=True):
        if length > limit:
            raise PromptTooLongError(
                f"{name}, view {view.name!r}: the prompt has {length} tokens, more than {limit}; raise "
                "max_prompt_tokens, use smaller images or the brief prompts (prompts are never cut)"
            )

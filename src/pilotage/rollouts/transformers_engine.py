"""Batched decoding over a transformers model: finished rows leave the batch, vision tokens are never sampled.

B rows still in the batch, S columns of prompt and response, V vocabulary.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from pilotage.backbones.encode import ModelInputs, encode_views
from pilotage.backbones.load import Backbone, is_sharded
from pilotage.backbones.prefix import first_image_column, shared_prefix
from pilotage.backbones.ranks import JOINING, joining_view, most_over_ranks
from pilotage.backbones.render import render
from pilotage.errors import PilotageError
from pilotage.records import Rollout
from pilotage.rollouts.chooser import Chooser
from pilotage.rollouts.engine import Decoding, Request, sampling_noise
from pilotage.rollouts.kv_cache import DecodingCache, ModelCache


@dataclass(kw_only=True)
class _Row:
    """A response in the making."""

    index: int
    """Its place in the answer."""
    token_ids: list[int]
    logprobs: list[float]
    vision_mass: float = 0.0
    num_vision_attempts: int = 0
    finished: bool = False
    """It ended with an end-of-turn token of its own."""
    dropped: bool = False
    """Nobody waits for it any more."""

    @property
    def ended(self) -> bool:
        return self.finished or self.dropped


class TransformersEngine:
    """Decodes with `backbone.model` as it is at the time of the call, so a training step is seen at once.

    A rollout's log-probs are those of the whole distribution at the sampling temperature (1 when greedy), before
    vision tokens, top-p and top-k take anything away: the numbers that scoring the same ids again gives.
    """

    def __init__(
        self,
        backbone: Backbone,
        *,
        batch_size: int = 64,
        max_prompt_tokens: int | None = None,
        pad_to_multiple: int = 16,
        origin: str = "student",
    ) -> None:
        self.backbone = backbone
        self.batch_size = batch_size
        self.max_prompt_tokens = max_prompt_tokens
        self.pad_to_multiple = pad_to_multiple
        self.origin = origin
        self.num_forwards = 0
        """Of the last call of `generate`."""
        self.is_broken_off = False
        """The last call of `generate` raised: with sharded parameters other ranks may still be in the midst of it."""

    def generate(
        self,
        requests: Sequence[Request],
        decoding: Decoding,
        *,
        is_wanted: Callable[[int], bool] | None = None,
    ) -> list[Rollout]:
        """One rollout for each request, in their order; see `Engine`.

        Requests for one view that stand together have it read once. `is_wanted` is asked before every token whether
        anybody still waits for the request at that place; a rollout that nobody waits for ends there, unfinished.

        Where the parameters are sharded all ranks must call this equally often, each with what it has to ask; see
        `join`.
        """
        self.num_forwards, self._num_asked = 0, len(requests)
        self.is_broken_off = True
        answers: list[Rollout | None] = [None] * len(requests)
        groups = sorted(_groups(requests), key=lambda places: self._size(requests[places[0]]))
        batches = list(_batches(groups, self.batch_size))
        if is_sharded(self.backbone.model):
            requests, batches = self._with_joining(requests, batches)
        chooser = Chooser(self.backbone, decoding)
        noise = None
        if decoding.temperature > 0:
            noise = sampling_noise(requests, num_tokens=decoding.max_new_tokens)
        # Parameters that are gathered in inference mode could not be trained afterwards.
        without_gradients = torch.no_grad() if is_sharded(self.backbone.model) else torch.inference_mode()
        with _evaluating(self.backbone.model), without_gradients:
            for batch in batches:
                rows = self._decode(
                    [requests[places[0]] for places in batch],
                    places_of=batch,
                    max_new_tokens=decoding.max_new_tokens,
                    chooser=chooser,
                    noise=noise,
                    is_wanted=is_wanted,
                )
                for row in rows:
                    answers[row.index] = self._rollout(row, requests[row.index].example_id)
        self.is_broken_off = False
        return [answer for answer in answers if answer is not None]

    def join(self, decoding: Decoding) -> None:
        """Takes part in what other ranks still ask; returns when no rank asks any more.

        For ranks whose episodes are of unequal lengths: each calls this when it is done. `decoding` is what they ask
        with. Nothing where the parameters are not sharded.
        """
        while is_sharded(self.backbone.model):
            self.generate((), decoding)
            if not self.num_forwards:
                return

    def sync(self, model: Any) -> None:
        """Nothing: the engine decodes with the model itself. Raises PilotageError for another one."""
        if model is not self.backbone.model:
            raise PilotageError(
                f"this engine samples from {self.backbone.name}, and another model is trained: make it of that one"
            )

    def _with_joining(
        self, requests: Sequence[Request], batches: list[list[list[int]]]
    ) -> tuple[Sequence[Request], list[list[list[int]]]]:
        """Equally many batches on every rank, all with pictures where any has one: one more request fills them up."""
        shows = any(request.view.images for request in requests)
        num_batches, with_picture = most_over_ranks(len(batches), shows, device=self.backbone.device)
        joining = [len(requests)]
        for batch in batches:
            if with_picture and not any(requests[places[0]].view.images for places in batch):
                batch.append(joining)
        batches += [[joining]] * (num_batches - len(batches))
        view = joining_view(with_picture=bool(with_picture))
        return [*requests, Request(view=view, example_id=JOINING)], batches

    def _size(self, request: Request) -> tuple[int, int]:
        """Rows of one size share a batch: (image pixels, characters)."""
        view = request.view
        num_pixels = 0
        for image in view.images:
            width, height = struct.unpack(">II", image[16:24])  # the PNG header
            num_pixels += width * height
        return num_pixels, len(render(self.backbone, view, name=request.example_id))

    def _decode(
        self,
        firsts: Sequence[Request],
        *,
        places_of: Sequence[Sequence[int]],
        max_new_tokens: int,
        chooser: Chooser,
        noise: np.ndarray | None,
        is_wanted: Callable[[int], bool] | None,
    ) -> list[_Row]:
        """The rows at `places_of` each of the views that `firsts` ask for."""
        model = self.backbone.model
        inputs = encode_views(
            self.backbone,
            [request.view for request in firsts],
            pad_to_multiple=self.pad_to_multiple,
            max_length=self.max_prompt_tokens,
            names=[request.example_id for request in firsts],
        )
        device = inputs["input_ids"].device
        text_config = model.config.get_text_config()
        attention = text_config._attn_implementation
        own_mask = self.backbone.sees_whole_past and attention in _TAKES_READY_MASK
        cache = (
            DecodingCache(text_config.num_hidden_layers, whole=own_mask)
            if self.backbone.sees_whole_past
            else ModelCache(config=text_config)
        )
        logits_BV, prompt_mask_BS = self._read_prompts(inputs, cache)

        places = [place for of_view in places_of for place in of_view]
        # Not the number of columns: M-RoPE gives an image fewer positions than it has tokens. Padding stands at 0.
        positions = inputs["position_ids"]  # [B, S], or [axes, B, S]
        next_position_B = positions.amax(dim=-1).view(-1, positions.shape[-2]).amax(dim=0) + 1
        if len(places) > len(firsts):
            copies = torch.tensor([len(of_view) for of_view in places_of], device=device)
            origin_of = torch.arange(len(firsts), device=device).repeat_interleave(copies)
            cache.select_rows(origin_of)
            logits_BV = logits_BV[origin_of]
            prompt_mask_BS, next_position_B = prompt_mask_BS[origin_of], next_position_B[origin_of]
        # One query per row: SDPA's CPU kernel was measured 2 to 3 times slower than plain matrix products.
        switches = own_mask and attention == "sdpa" and device.type == "cpu"
        decoding_attention = "eager" if switches else attention
        mask = _DecodingMask(
            prompt_mask_BS,
            num_spare=max_new_tokens + cache.room,
            attention=decoding_attention if own_mask else None,
            dtype=logits_BV.dtype,
        )

        ended_rows: list[_Row] = []
        rows = [
            _Row(index=place, token_ids=[], logprobs=[], dropped=place >= self._num_asked) for place in places
        ]
        eos_ids = frozenset(self.backbone.eos_ids)
        sharded = is_sharded(model)
        for step in range(max_new_tokens):
            uniforms = None
            if noise is not None:
                # By the request's place and the step, so that what a row draws does not depend on who shares its batch.
                uniforms = torch.from_numpy(noise[[row.index for row in rows], step]).to(device)
            choice = chooser(logits_BV, uniforms)
            for row, token, logprob, vision_mass, attempt in zip(rows, *choice.as_lists(), strict=True):
                # It stays in the batch until enough have ended, and what it decodes meanwhile is nobody's.
                if row.ended:
                    continue
                if math.isnan(logprob):
                    raise PilotageError(
                        f"{self.backbone.name} gives probabilities that are not numbers: its weights are damaged, or "
                        "its training has diverged"
                    )
                row.token_ids.append(token)
                row.logprobs.append(logprob)
                row.vision_mass += vision_mass
                row.num_vision_attempts += attempt
                row.finished = token in eos_ids
                row.dropped = is_wanted is not None and not is_wanted(row.index)
                if row.ended:
                    ended_rows.append(row)
            ended = all(row.ended for row in rows)
            if step + 1 == max_new_tokens or _on_all_ranks(ended, device, sharded):
                break
            tokens_B = choice.tokens_B
            kept = _rows_to_keep([row.ended for row in rows])
            if kept is not None:
                rows = [rows[index] for index in kept]
                kept_rows = torch.tensor(kept, device=device)
                cache.select_rows(kept_rows)
                mask.select_rows(kept_rows)
                tokens_B, next_position_B = tokens_B[kept_rows], next_position_B[kept_rows]
            # Padding on the left puts the ends of all prompts in one column: a new token is one column for all rows,
            # and the last logits are each row's own. Text has one position on all three axes of M-RoPE.
            with _attention(text_config, decoding_attention):
                logits_BV = model(
                    input_ids=tokens_B[:, None],
                    attention_mask=mask.with_one_more(cache.num_columns_after_next),
                    position_ids=next_position_B[:, None].expand(*positions.shape[:-2], -1, 1),
                    past_key_values=cache,
                    use_cache=True,
                ).logits[:, -1]
            next_position_B = next_position_B + 1
            self.num_forwards += 1
        return ended_rows + [row for row in rows if not row.ended]

    def _read_prompts(
        self, inputs: ModelInputs, cache: DecodingCache | ModelCache
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits of the first response token [B, V], and which of the cache's columns a row may look at [B, S].

        A beginning that several prompts share goes through the model once, and is copied to their rows.
        """
        model = self.backbone.model
        ids_BS, mask_BS, positions = (
            inputs["input_ids"],
            inputs["attention_mask"],
            inputs["position_ids"],
        )
        lengths_B, width = mask_BS.sum(1), ids_BS.shape[1]
        columns_S = torch.arange(width, device=ids_BS.device)
        starts_B1 = width - lengths_B[:, None]
        # The same rows from column 0 on; their last id is repeated where the padding went.
        aligned_BS = ids_BS.gather(1, (starts_B1 + columns_S).clamp(max=width - 1))
        image_column = first_image_column(aligned_BS, self.backbone.image_token_id)
        # One rank may share a beginning where another does not: with sharded parameters its extra forward would hang.
        apart = self.backbone.shares_prefixes and not is_sharded(model)
        limit = min(int(lengths_B.min()) - 1, image_column) if apart else 0
        prefix = shared_prefix(aligned_BS, limit=limit)
        arguments = dict(inputs)
        if prefix is not None:
            length, num_beginnings = prefix.length, len(prefix.rows_K)
            model(
                input_ids=aligned_BS[prefix.rows_K, :length],
                # The beginning ends before any image, and there a position is a column, on all axes.
                position_ids=columns_S[:length].expand(*positions.shape[:-2], num_beginnings, -1),
                past_key_values=cache,
                use_cache=True,
                logits_to_keep=1,
            )
            self.num_forwards += 1
            cache.select_rows(prefix.prefix_of_B)
            longest = int(lengths_B.max()) - length
            rest = slice(width - -(-longest // self.pad_to_multiple) * self.pad_to_multiple, None)
            # The window is as wide as the longest rest. In a shorter row it also holds padding, or the end of what is
            # in the cache already: masked, or tokens would be attended to twice.
            unread_BS = mask_BS * (columns_S >= starts_B1 + length)
            mask_BS = torch.cat([torch.ones_like(mask_BS[:, :length]), unread_BS[:, rest]], dim=1)
            arguments |= {name: inputs[name][:, rest] for name in self.backbone.family.token_arguments}
            arguments |= {
                "input_ids": ids_BS[:, rest],
                "position_ids": positions[..., rest],
                "attention_mask": mask_BS,
            }
        logits_BV = model(**arguments, past_key_values=cache, use_cache=True, logits_to_keep=1).logits[:, -1]
        self.num_forwards += 1
        return logits_BV, mask_BS

    def _rollout(self, row: _Row, example_id: str) -> Rollout:
        return Rollout(
            example_id=example_id,
            token_ids=tuple(row.token_ids),
            text=self.backbone.decode(row.token_ids),
            finished=row.finished,
            logprobs=tuple(row.logprobs),
            origin=self.origin,
            meta={
                "vision_mass": row.vision_mass / len(row.token_ids),
                "num_vision_attempts": row.num_vision_attempts,
            },
        )


def _groups(requests: Sequence[Request]) -> list[list[int]]:
    """Places of requests for one view that stand together."""
    groups: list[list[int]] = []
    for place, request in enumerate(requests):
        if groups and requests[groups[-1][0]].view == request.view:
            groups[-1].append(place)
        else:
            groups.append([place])
    return groups


def _batches(groups: Sequence[list[int]], num_rows: int) -> Iterator[list[list[int]]]:
    """Groups in order, as many together as have at most `num_rows` places, and at least one."""
    batch: list[list[int]] = []
    for group in groups:
        if batch and sum(map(len, batch)) + len(group) > num_rows:
            yield batch
            batch = []
        batch.append(group)
    if batch:
        yield batch


def _rows_to_keep(ended: Sequence[bool]) -> list[int] | None:
    """Rows of the smaller batch, or None while too few rows have ended to be worth the copy.

    Batch sizes are multiples of 8 where they can be (some ended rows stay): each new size has a price.
    """
    # Never no row at all: while other ranks decode, a rank that is done has to make their forwards too.
    alive = [index for index, done in enumerate(ended) if not done]
    wanted = max(1, len(alive)) if len(alive) <= 8 else min(len(ended), -(-len(alive) // 8) * 8)
    if wanted > 0.8 * len(ended):
        return None
    idle = [index for index, done in enumerate(ended) if done]
    return sorted(alive + idle[: wanted - len(alive)])


def _on_all_ranks(ended: bool, device: torch.device, sharded: bool) -> bool:
    """Whether all ranks are done: until then each makes every forward, since the others wait for its parameters."""
    if not sharded:
        return ended
    (goes_on,) = most_over_ranks(not ended, device=device)
    return not goes_on


_TAKES_READY_MASK = ("sdpa", "eager")
"""Attention implementations that use a four-dimensional mask as it is: boolean for SDPA, additive for eager."""


class _DecodingMask:
    """Which columns each row may look at: its prompt without the padding, and every response column so far."""

    def __init__(
        self, prompt_mask_BS: torch.Tensor, *, num_spare: int, attention: str | None, dtype: torch.dtype
    ) -> None:
        """`attention` None: the model makes its own masks of the columns that hold a token."""
        self.length = prompt_mask_BS.shape[1]
        self.ready_made = attention in _TAKES_READY_MASK
        visible_BS = torch.nn.functional.pad(prompt_mask_BS, (0, num_spare)).bool()
        if attention == "eager":
            self.visible: bool | float = 0.0
            self.mask_BS = torch.zeros_like(visible_BS, dtype=dtype).masked_fill(
                ~visible_BS, torch.finfo(dtype).min
            )
        else:
            self.visible = True
            self.mask_BS = visible_BS

    def select_rows(self, rows: torch.Tensor) -> None:
        self.mask_BS = self.mask_BS[rows]

    def with_one_more(self, num_columns: int) -> torch.Tensor:
        """Shows one response column more; `num_columns` is what a ready-made mask has to cover."""
        # In place: a new mask would be copied for each token. The view that the last forward was given changes with it,
        # and nobody reads that any more.
        self.mask_BS[:, self.length] = self.visible
        self.length += 1
        if self.ready_made:
            return self.mask_BS[:, None, None, :num_columns]
        return self.mask_BS[:, : self.length].long()


@contextmanager
def _attention(config: Any, implementation: str) -> Iterator[None]:
    # Layers ask the configuration in each forward, so a switch here holds for this one alone.
    usual = config._attn_implementation
    config._attn_implementation = implementation
    try:
        yield
    finally:
        config._attn_implementation = usual


@contextmanager
def _evaluating(model: torch.nn.Module) -> Iterator[None]:
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)

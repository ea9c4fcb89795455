"""Which examples a step shows, in which view, and how they become a batch.

A step has image micro-batches and then text micro-batches, each of one modality on every rank: ranks that meet in
an all-reduce with unlike modalities would wait for each other's vision gradients for ever.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from pilotage.backbones.encode import encode_with_response
from pilotage.backbones.load import Backbone
from pilotage.records import Example, View
from pilotage.views import VIEWS, reference_answer

if TYPE_CHECKING:
    from pilotage.train.sft import SftConfig

IGNORED = -100
"""Label of positions that are not trained on."""

IMAGE, TEXT = 1, 2
"""The streams that rows are drawn from."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One row of a batch."""

    example: Example
    view: str
    """Name of the view in `pilotage.views.VIEWS`."""
    answer: str
    """What the model should write, without the end-of-turn token."""
    place: int
    """Running number among all rows of its modality."""


class Mixture:
    """The rows of every step: a pure function of settings, examples and step."""

    def __init__(
        self,
        config: SftConfig,
        examples: Sequence[Example],
        retention: Sequence[Example],
        answers: Mapping[tuple[str, str], str],
    ) -> None:
        self.config = config
        self.examples = {IMAGE: examples, TEXT: retention}
        self.answers = answers
        self._order = lru_cache(maxsize=4)(self._shuffled)

    @property
    def num_micro_batches(self) -> int:
        """Micro-batches in a step; those with images come first."""
        return self._parts(self.config.num_image_rows) + self._parts(self.config.num_text_rows)

    def micro_batches(self, step: int) -> list[list[Row]]:
        """The rows of a step, in micro-batches of one modality and like lengths."""
        batches: list[list[Row]] = []
        for stream, count in ((IMAGE, self.config.num_image_rows), (TEXT, self.config.num_text_rows)):
            rows = [self._row(stream, step * count + i) for i in range(count)]
            rows.sort(key=lambda row: len(row.answer))
            edges = [len(rows) * i // max(1, self._parts(count)) for i in range(self._parts(count) + 1)]
            batches += [rows[a:b] for a, b in zip(edges, edges[1:], strict=False)]
        return batches

    def check_lengths(self, backbone: Backbone, num_longest: int = 8) -> None:
        """Encodes the rows that look longest, so that an over-long one is an error before the first step."""
        if self.config.max_length is None:
            return
        text_views = [name for name, _ in self.config.retention_views] if self.config.num_text_rows else []
        for stream, names in ((IMAGE, [self.config.image_view]), (TEXT, text_views)):
            for name in names:
                rows = [
                    Row(example=example, view=name, answer=self._answer(example, name), place=0)
                    for example in self.examples[stream]
                ]
                for task in sorted({row.example.task for row in rows}):
                    of_task = [row for row in rows if row.example.task == task]
                    of_task.sort(key=lambda row: (row.example.level, len(row.answer)))
                    encode_rows(backbone, of_task[-num_longest:], self.config)

    def _parts(self, num_rows: int) -> int:
        return -(-num_rows // self.config.micro_batch_size)

    def _row(self, stream: int, place: int) -> Row:
        examples = self.examples[stream]
        epoch, within = divmod(place, len(examples))
        example = examples[self._order(stream, epoch, len(examples))[within]]
        view = self.config.image_view if stream == IMAGE else self._text_view(place)
        return Row(example=example, view=view, answer=self._answer(example, view), place=place)

    def _shuffled(self, stream: int, epoch: int, count: int) -> np.ndarray:
        return np.random.default_rng([self.config.seed, stream, epoch]).permutation(count)

    def _text_view(self, place: int) -> str:
        names, shares = zip(*self.config.retention_views, strict=True)
        draw = np.random.default_rng([self.config.seed, TEXT + 1, place]).random() * sum(shares)
        return names[min(int(np.searchsorted(np.cumsum(shares), draw, side="right")), len(names) - 1)]

    def _answer(self, example: Example, view: str) -> str:
        return self.answers.get((example.id, view)) or reference_answer(example, view)


def encode_rows(backbone: Backbone, rows: Sequence[Row], config: SftConfig) -> dict[str, torch.Tensor]:
    """Model inputs and `labels`: the answer's ids and the end of turn, IGNORED everywhere else."""
    views: list[View] = [VIEWS[row.view](row.example, config.prompts) for row in rows]
    texts = [row.answer for row in rows]
    ids: Any = backbone.tokenizer(texts, add_special_tokens=False, return_attention_mask=False)["input_ids"]
    end: Any = backbone.tokenizer.eos_token_id
    encoded = encode_with_response(
        backbone,
        views,
        [[*answer, end] for answer in ids],
        pad_to_multiple=16,
        max_length=config.max_length,
        names=[row.example.id for row in rows],
    )
    batch: dict[str, Any] = dict(encoded["inputs"])
    # Padding stands on the right: a causal model needs no mask, and attention without one is faster.
    batch.pop("attention_mask")
    batch["labels"] = batch["input_ids"].masked_fill(~encoded["response_mask"], IGNORED)
    if config.pixel_noise and "pixel_values" in batch:
        _add_noise(batch["pixel_values"], batch["image_grid_thw"], rows, config)
    return batch


def _add_noise(
    pixels_PF: torch.Tensor, grid_thw: torch.Tensor, rows: Sequence[Row], config: SftConfig
) -> None:
    """Adds each row's own noise, which depends on its place alone: neither on ranks nor on micro-batches."""
    first = 0
    for row, num_patches in zip(rows, grid_thw.prod(dim=1).tolist(), strict=True):
        seed = int(np.random.SeedSequence([config.seed, TEXT + 2, row.place]).generate_state(1, np.uint64)[0])
        generator = torch.Generator().manual_seed(seed % 2**63)
        patches = pixels_PF[first : first + num_patches]
        noise = torch.randn(patches.shape, generator=generator)
        patches.add_(noise.to(patches.device), alpha=config.pixel_noise)
        first += num_patches


class RowCollator:
    """Turns the number of a micro-batch into its tensors.

    With W ranks, item ((step x micro-batches) + micro-batch) x W + rank is that rank's part: the data loader deals
    items out to ranks in turn, so all ranks work at the same micro-batch.
    """

    def __init__(self, backbone: Backbone, mixture: Mixture, config: SftConfig, world_size: int = 1) -> None:
        self.backbone = backbone
        self.mixture = mixture
        self.config = config
        self.world_size = world_size

    @property
    def num_items(self) -> int:
        return self.config.steps * self.mixture.num_micro_batches * self.world_size

    def __call__(self, items: Sequence[Mapping[str, int]]) -> dict[str, torch.Tensor]:
        (item,) = items
        number, rank = divmod(int(item["item"]), self.world_size)
        step, micro = divmod(number, self.mixture.num_micro_batches)
        rows = self.mixture.micro_batches(step)[micro][rank :: self.world_size]
        return encode_rows(self.backbone, rows, self.config)

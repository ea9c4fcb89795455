"""Which examples a step shows, in which view, and how they become a batch.

A step has image micro-batches and then text micro-batches, each of one modality on every rank: ranks that meet in
an all-reduce with unlike modalities would wait for each other's vision gradients for ever.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch

from pilotage.backbones.encode import encode_with_response, images_of_rows
from pilotage.backbones.load import Backbone
from pilotage.backbones.render import render
from pilotage.records import Example, View
from pilotage.train.sft_config import SftConfig
from pilotage.views import make_view, reference_of_view

IGNORED = -100
"""Label of positions that are not trained on."""

PAD_TO = 16
"""Lengths are padded to multiples of this: every new shape costs a CPU a compilation."""

IMAGE, TEXT, TEXT_VIEW, NOISE, IMAGE_VIEW = 1, 2, 3, 4, 5
"""Streams of chance: rows of either modality, the views of text rows, noise on pixels, the views of image rows."""


@dataclass(frozen=True, kw_only=True)
class SftRow:
    """One row of a batch."""

    example: Example
    view: str
    """Name of the view in `pilotage.views`."""
    answer: str
    """What the model should write, without the end-of-turn token."""
    place: int
    """Running number among all rows of its modality."""


class DataMixture:
    """The rows of every step: a pure function of settings, examples and step."""

    def __init__(
        self,
        config: SftConfig,
        backbone: Backbone,
        examples: Sequence[Example],
        retention: Sequence[Example],
        answers: Mapping[tuple[str, str], str],
    ) -> None:
        self.config = config
        self.backbone = backbone
        self.examples = {IMAGE: examples, TEXT: retention}
        self.answers = answers
        self.num_ranks = 1
        """Every micro-batch has a row for each rank."""
        self._lengths: dict[tuple[str, str], int] = {}
        self._order = lru_cache(maxsize=4)(self._shuffled)
        self.micro_batches = lru_cache(maxsize=2)(self._micro_batches)
        """`micro_batches(step)`: the rows of a step, in micro-batches of one modality and like lengths."""

    def num_parts(self, num_rows: int) -> int:
        """Micro-batches of one modality in a step; none without rows."""
        least = min(self.config.length_groups, num_rows // self.num_ranks)
        return max(least, -(-num_rows // self.config.micro_batch_size))

    @property
    def num_micro_batches(self) -> int:
        """Micro-batches in a step; those with images come first."""
        return self.num_parts(self.config.num_image_rows) + self.num_parts(self.config.num_text_rows)

    def _micro_batches(self, step: int) -> list[list[SftRow]]:
        batches: list[list[SftRow]] = []
        for stream, count in ((IMAGE, self.config.num_image_rows), (TEXT, self.config.num_text_rows)):
            if not count:
                continue
            rows = [self._row(stream, step * count + i) for i in range(count)]
            lengths = {row.place: self._length(row) for row in rows}
            rows.sort(key=lambda row: lengths[row.place])
            batches += cut_where_padding_is_least(
                rows,
                [lengths[row.place] for row in rows],
                self.num_parts(count),
                num_least=self.num_ranks,
                num_most=self.config.micro_batch_size,
            )
        return batches

    def _length(self, row: SftRow) -> int:
        key = (row.example.id, row.view)
        if key not in self._lengths:
            view = make_view(row.view, row.example, self.config.prompts)
            self._lengths[key] = count_tokens(self.backbone, view, row.answer)
        return self._lengths[key]

    def check_lengths(self, num_longest: int = 8) -> None:
        """Encodes the rows that look longest, so that an over-long one is an error before the first step."""
        if self.config.max_length is None:
            return
        text_views = [name for name, _ in self.config.retention_views] if self.config.num_text_rows else []
        image_views = [name for name, _ in self.config.image_views] if self.config.num_image_rows else []
        for stream, names in ((IMAGE, image_views), (TEXT, text_views)):
            for name in names:
                rows = [
                    SftRow(example=example, view=name, answer=self._answer(example, name), place=0)
                    for example in self.examples[stream]
                ]
                for task in sorted({row.example.task for row in rows}):
                    of_task = [row for row in rows if row.example.task == task]
                    of_task.sort(key=lambda row: (row.example.level, len(row.answer)))
                    encode_rows(self.backbone, of_task[-num_longest:], self.config)

    def _row(self, stream: int, place: int) -> SftRow:
        examples = self.examples[stream]
        epoch, within = divmod(place, len(examples))
        example = examples[self._order(stream, epoch, len(examples))[within]]
        view = self._view(stream, place)
        return SftRow(example=example, view=view, answer=self._answer(example, view), place=place)

    def _shuffled(self, stream: int, epoch: int, count: int) -> np.ndarray:
        return np.random.default_rng([self.config.seed, stream, epoch]).permutation(count)

    def _view(self, stream: int, place: int) -> str:
        views = self.config.image_views if stream == IMAGE else self.config.retention_views
        names, shares = zip(*views, strict=True)
        drawn_from = IMAGE_VIEW if stream == IMAGE else TEXT_VIEW
        draw = np.random.default_rng([self.config.seed, drawn_from, place]).random() * sum(shares)
        return names[min(int(np.searchsorted(np.cumsum(shares), draw, side="right")), len(names) - 1)]

    def _answer(self, example: Example, view: str) -> str:
        return self.answers.get((example.id, view)) or reference_of_view(example, view)


def count_tokens(backbone: Backbone, view: View, answer: str) -> int:
    """Columns that the view, its answer and the end of turn take; images by their size before any resizing."""
    text = render(backbone, view) + answer.removeprefix(view.prefill or "")
    num_tokens = len(backbone.tokenizer(text, add_special_tokens=False)["input_ids"]) + 1
    for image in view.images:
        # A PNG says its width and height, 4 bytes each, at byte 16. The text has one token for the image already.
        width, height = (int.from_bytes(image[at : at + 4], "big") for at in (16, 20))
        num_tokens += backbone.family.num_image_tokens(backbone.processor, width, height) - 1
    return num_tokens


def cut_where_padding_is_least(
    rows: Sequence[SftRow], lengths: Sequence[int], num_parts: int, *, num_least: int, num_most: int
) -> list[list[SftRow]]:
    """Rows, sorted by length, in `num_parts` runs of `num_least` to `num_most` rows whose padded size is smallest."""
    # best[end]: padded size of the first `end` rows, and where the parts begin.
    best: dict[int, tuple[int, tuple[int, ...]]] = {0: (0, ())}
    for _ in range(num_parts):
        reached: dict[int, tuple[int, tuple[int, ...]]] = {}
        for begin, (size, begins) in best.items():
            for end in range(begin + num_least, min(begin + num_most, len(rows)) + 1):
                padded = -(-lengths[end - 1] // PAD_TO) * PAD_TO
                candidate = (size + (end - begin) * padded, (*begins, begin))
                if end not in reached or candidate < reached[end]:
                    reached[end] = candidate
        best = reached
    begins = best[len(rows)][1]
    return [list(rows[a:b]) for a, b in zip(begins, (*begins[1:], len(rows)), strict=True)]


def encode_rows(backbone: Backbone, rows: Sequence[SftRow], config: SftConfig) -> dict[str, torch.Tensor]:
    """Model inputs and `labels`: the answer's ids and the end of turn, IGNORED everywhere else."""
    views: list[View] = [make_view(row.view, row.example, config.prompts) for row in rows]
    # A reference holds what the prompt has begun of it.
    texts = [row.answer.removeprefix(view.prefill or "") for row, view in zip(rows, views, strict=True)]
    ids: Any = backbone.tokenizer(texts, add_special_tokens=False, return_attention_mask=False)["input_ids"]
    encoded = encode_with_response(
        backbone,
        views,
        [[*answer, backbone.end_id] for answer in ids],
        pad_to_multiple=PAD_TO,
        max_length=config.max_length,
        names=[row.example.id for row in rows],
    )
    batch: dict[str, Any] = dict(encoded["inputs"])
    # Padding stands on the right: a causal model needs no mask, and attention without one is faster.
    batch.pop("attention_mask")
    batch["labels"] = batch["input_ids"].masked_fill(~encoded["response_mask"], IGNORED)
    if config.pixel_noise and "pixel_values" in batch:
        _add_noise(images_of_rows(encoded), rows, config)
    return batch


def _add_noise(patches_of_row: Sequence[torch.Tensor], rows: Sequence[SftRow], config: SftConfig) -> None:
    """Adds each row's own noise, which depends on its place alone: neither on ranks nor on micro-batches."""
    for row, patches_PF in zip(rows, patches_of_row, strict=True):
        seed = int(np.random.SeedSequence([config.seed, NOISE, row.place]).generate_state(1, np.uint64)[0])
        generator = torch.Generator().manual_seed(seed % 2**63)
        noise = torch.randn(patches_PF.shape, generator=generator)
        patches_PF.add_(noise.to(patches_PF.device), alpha=config.pixel_noise)


class RowCollator:
    """Turns the number of a micro-batch into its tensors.

    With W ranks, item ((step x micro-batches) + micro-batch) x W + rank is that rank's part: the data loader deals
    items out to ranks in turn, so all ranks work at the same micro-batch.
    """

    def __init__(self, mixture: DataMixture) -> None:
        self.mixture = mixture

    @property
    def num_items(self) -> int:
        """Items of the whole run, all ranks together."""
        return self.mixture.config.steps * self.mixture.num_micro_batches * self.mixture.num_ranks

    def __call__(self, items: Sequence[Mapping[str, int]]) -> dict[str, torch.Tensor]:
        (item,) = items
        mixture = self.mixture
        number, rank = divmod(int(item["item"]), mixture.num_ranks)
        step, micro = divmod(number, mixture.num_micro_batches)
        rows = mixture.micro_batches(step)[micro][rank :: mixture.num_ranks]
        return encode_rows(mixture.backbone, rows, mixture.config)

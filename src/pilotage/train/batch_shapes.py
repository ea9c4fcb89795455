"""How large the batches of a stage are: rows, columns and patches, told from its examples before anything is trained.

Where the model comes without a tokenizer, texts count as so many tokens as such texts usually have.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch

from pilotage.backbones.load import Backbone
from pilotage.backbones.prefix import shared_prefix
from pilotage.backbones.render import render
from pilotage.errors import PilotageError
from pilotage.records import Example, View
from pilotage.train.distill_config import DistillConfig
from pilotage.train.sft_config import SftConfig
from pilotage.train.sft_rows import DataMixture, SftRow
from pilotage.train.step.order import ExampleOrder
from pilotage.views import make_view, reference_of_view
from pilotage.views.variants import varied

USUAL_PROMPT_CHARACTERS, USUAL_ANSWER_CHARACTERS = 3.3, 1.4
"""Of one token: of the tasks' prompts and of their reference answers, which are mostly digits and signs."""
NUM_STEPS = 4
"""Steps of supervised fine-tuning whose batches are looked at: each has other rows."""


@dataclass(frozen=True, kw_only=True)
class Batch:
    """What goes through a model at once."""

    num_rows: int
    num_prompt: int
    """Columns of the longest prompt, its pictures' tokens among them."""
    num_answer: int
    """Columns of the longest answer."""
    num_patches: int = 0
    """Of all rows' pictures, as the vision tower takes them."""
    num_active: int = 0
    """Tokens of all rows that reach the head."""
    most_patches: int = 0
    """Those that see each other, of one picture or of one of its tiles."""
    num_shared: int = 0
    """Tokens that are not read, as others' beginnings stand for them."""

    @property
    def num_columns(self) -> int:
        return self.num_prompt + self.num_answer

    @property
    def num_tokens(self) -> int:
        return self.num_rows * self.num_columns


@dataclass(frozen=True, kw_only=True)
class _Length:
    """One view with its answer."""

    prompt: int
    answer: int
    patches: int
    together: int = 0
    """The most patches that see each other."""
    beginning: tuple[int, ...] = ()
    """Ids in front of the first picture; none where the model has no tokenizer."""


def sft_batches(config: SftConfig, backbone: Backbone, examples: Sequence[Example]) -> list[list[Batch]]:
    """Step -> its micro-batches, cut as training cuts them."""
    mixture = _Shapes(config, backbone, examples, examples, {})
    found = []
    for step in range(min(NUM_STEPS, config.steps)):
        batches = []
        for rows in mixture.micro_batches(step):
            lengths = [mixture.lengths(row) for row in rows]
            batches.append(
                Batch(
                    num_rows=len(rows),
                    num_prompt=_padded(max(length.prompt + length.answer for length in lengths))
                    - max(length.answer for length in lengths),
                    num_answer=max(length.answer for length in lengths),
                    num_patches=sum(length.patches for length in lengths),
                    num_active=sum(length.answer for length in lengths),
                    most_patches=max(length.together for length in lengths),
                )
            )
        found.append(batches)
    return found


class _Shapes(DataMixture):
    """The rows of every step by their lengths alone."""

    def lengths(self, row: SftRow) -> _Length:
        view = make_view(row.view, row.example, self.config.prompts)
        return _length(self.backbone, view, row.answer)

    def _length(self, row: SftRow) -> int:
        found = self.lengths(row)
        return found.prompt + found.answer


@dataclass(frozen=True, kw_only=True)
class StepBatches:
    """The batches of one distillation step, longest first."""

    rollouts: Sequence[Batch]
    student: Sequence[Batch]
    teachers: Sequence[Sequence[Batch]]
    """For each view that a teacher reads."""


def distill_batches(
    config: DistillConfig,
    backbone: Backbone,
    examples: Sequence[Example],
    *,
    engine_rows: int,
    num_answer: int | None = None,
) -> StepBatches:
    """A step's batches where every answer has `num_answer` tokens (None: the limit)."""
    num_answer = config.max_new_tokens if num_answer is None else num_answer
    drawn = _drawn(config, examples)
    own = [
        _length(backbone, varied(_view(config.student_view, example, config), prefill=config.student_prefill))
        for example in drawn
    ]
    # As `can_share_prefix` has it.
    shares = backbone.shares_prefixes and not config.gradient_checkpointing
    shares = shares and not (config.lora is not None and config.lora.dropout)
    views = dict.fromkeys(
        (route.weights, route.view, route.images)
        for route in config.router.routes
        if route.view is not None and route.has_teacher
    )
    teachers = []
    for _, view, images in views:
        shown = [varied(_view(str(view), example, config), images=_pictures(images)) for example in drawn]
        lengths = [_length(backbone, each) for each in shown]
        teachers.append(
            _batches(config, lengths, config.teacher_batch_size or config.micro_batch_size, num_answer)
        )
    return StepBatches(
        rollouts=_batches(config, own, engine_rows, num_answer),
        student=_batches(config, own, config.micro_batch_size, num_answer, shares=shares),
        teachers=teachers,
    )


def reference_length(config: DistillConfig, backbone: Backbone, examples: Sequence[Example]) -> int:
    """Mean number of tokens of the reference answers of a step, as far as the limit allows; the limit without any."""
    lengths = []
    for example in {example.id: example for example in _drawn(config, examples)}.values():
        try:
            answer = reference_of_view(example, config.student_view)
        except PilotageError:  # nobody knows one
            continue
        lengths.append(_length(backbone, _view(config.student_view, example, config), answer).answer)
    return min(sum(lengths) // len(lengths), config.max_new_tokens) if lengths else config.max_new_tokens


def _drawn(config: DistillConfig, examples: Sequence[Example]) -> list[Example]:
    """The example of each row of the first step, over all ranks."""
    order = ExampleOrder(examples, prompts_per_step=config.prompts_per_step, seed=config.seed)
    return [slot.example for slot in order.slots(0) for _ in range(config.sources.max_samples)]


def _view(name: str, example: Example, config: DistillConfig) -> View:
    return make_view(name, example, config.prompts)


def _pictures(images: Any) -> Any:
    # Another example's picture has the size of one's own.
    return "none" if images == "none" else "same"


def _batches(
    config: DistillConfig, lengths: Sequence[_Length], size: int, num_answer: int, *, shares: bool = False
) -> list[Batch]:
    ordered = sorted(lengths, key=lambda length: -length.prompt)
    found = []
    for start in range(0, len(ordered), size):
        rows = ordered[start : start + size]
        limit = config.max_prompt_tokens
        prompt = min(rows[0].prompt, limit) if limit else rows[0].prompt
        found.append(
            Batch(
                num_rows=len(rows),
                num_prompt=_padded(prompt + num_answer, config.pad_to_multiple) - num_answer,
                num_answer=num_answer,
                num_patches=sum(row.patches for row in rows),
                num_active=len(rows) * num_answer,
                most_patches=max(row.together for row in rows),
                num_shared=_num_shared(rows, prompt + num_answer) if shares else 0,
            )
        )
    return found


def _num_shared(rows: Sequence[_Length], width: int) -> int:
    """Tokens of these rows, of so many columns, that training does not read."""
    # A limit may be shorter than the beginnings: the row that is too long is refused when it is asked.
    shortest = min(width, *(len(row.beginning) for row in rows))
    if not shortest:
        return 0
    # What follows a beginning differs from row to row.
    ids_BS = torch.arange(len(rows) * width).view(len(rows), width) + 10**9
    for row, ids_S in zip(rows, ids_BS, strict=True):
        ids_S[:shortest] = torch.tensor(row.beginning[:shortest])
    prefix = shared_prefix(ids_BS, limit=shortest)
    return 0 if prefix is None else (len(rows) - len(prefix.rows_K)) * prefix.length


def _padded(length: int, multiple: int = 16) -> int:
    return -(-length // multiple) * multiple


def _length(backbone: Backbone, view: View, answer: str = "") -> _Length:
    answer = answer.removeprefix(view.prefill or "")
    pixels = [
        (int.from_bytes(image[16:20], "big"), int.from_bytes(image[20:24], "big")) for image in view.images
    ]
    beginning: tuple[int, ...] = ()
    if backbone.processor is None:
        text = "".join(part for message in view.messages for part in _texts(message))
        prompt = round(len(text) / USUAL_PROMPT_CHARACTERS)
        num_answer_tokens = round(len(answer) / USUAL_ANSWER_CHARACTERS)
        seen = [_picture_by_config(backbone.model.config, *size) for size in pixels]
    else:
        tokenizer: Any = backbone.tokenizer
        ids = tokenizer(render(backbone, view), add_special_tokens=False)["input_ids"]
        prompt = len(ids) - len(pixels)
        first = ids.index(backbone.image_token_id) if backbone.image_token_id in ids else len(ids)
        beginning = tuple(ids[:first])
        num_answer_tokens = len(tokenizer(answer, add_special_tokens=False)["input_ids"])
        family, processor = backbone.family, backbone.processor
        seen = [(family.num_image_tokens(processor, *size), *_patches(backbone, size)) for size in pixels]
    return _Length(
        prompt=prompt + sum(tokens for tokens, *_ in seen),
        answer=num_answer_tokens + 1,
        patches=sum(patches for _, patches, _ in seen),
        together=max((together for *_, together in seen), default=0),
        beginning=beginning,
    )


_PATCHES: WeakKeyDictionary[Backbone, dict[tuple[int, int], tuple[int, int]]] = WeakKeyDictionary()


def _patches(backbone: Backbone, size: tuple[int, int]) -> tuple[int, int]:
    # Some processors have to be shown a picture before it is known.
    known = _PATCHES.setdefault(backbone, {})
    if size not in known:
        known[size] = backbone.family.num_patches(backbone, *size)
    return known[size]


def _picture_by_config(config: Any, width: int, height: int) -> tuple[int, int, int]:
    """(tokens, patches, patches that see each other) of a picture, where there is no processor to ask.

    A tower of a fixed size is taken to be shown the picture whole: how many tiles there would be besides is not said.
    """
    vision = getattr(config, "vision_config", None)
    patch, merge = _side(getattr(vision, "patch_size", 14)), getattr(vision, "spatial_merge_size", None)
    if merge is not None:
        tokens = width * height // (patch * merge) ** 2
        return tokens, tokens * merge**2, tokens * merge**2
    side = _side(getattr(vision, "image_size", None) or (width, height))
    patches = (side // patch) ** 2
    scale = getattr(config, "scale_factor", None) or 1 / getattr(config, "downsample_ratio", 1)
    num_tokens = getattr(config, "mm_tokens_per_image", None) or getattr(config, "image_seq_length", None)
    return num_tokens or round(patches / scale**2), patches, patches


def _side(size: Any) -> int:
    return int(size[0]) if isinstance(size, list | tuple) else int(size)


def _texts(message: Any) -> list[str]:
    content = message["content"]
    if isinstance(content, str):
        return [content]
    return [part.get("text", "") for part in content]

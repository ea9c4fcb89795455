"""Seconds of an optimiser step on a GPU, from the floating-point operations of its parts.

A product of a weight with a token is two operations forward, and four backward where the weight trains, two where only
something behind it does: 6 N a token of N parameters, 4 N on a frozen base. Attention adds its quadratic part.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from pilotage.backbones.load import Backbone
from pilotage.records import Example
from pilotage.train.batch_shapes import Batch, StepBatches, distill_batches, reference_length, sft_batches
from pilotage.train.distill_config import DistillConfig
from pilotage.train.memory import Block, Shape, shape_of
from pilotage.train.sft_config import SftConfig

H100_TFLOPS = 989.0
"""Dense bfloat16 products of an H100 SXM, by its data sheet."""
UTILISATION = 0.4
"""Share of a GPU's operations that training is taken to reach."""
OPERATIONS_A_BYTE = 295.0
"""Of such a GPU while it reads one byte of its memory: 989 TFLOPS at 3.35 TB/s."""
READING = 0.6
"""Share of the bandwidth that decoding is taken to reach."""

ASSUMPTIONS = (
    "products in bfloat16 at {tflops:g} TFLOPS, of which training reaches {share:.0%}; decoding reads weights and "
    "cache at {reading:.0%} of the bandwidth that goes with them; one turn an episode; launches, worlds and files are "
    "left out"
)


@dataclass(frozen=True, kw_only=True)
class Counts:
    """Parameters that a token goes through."""

    text: int
    vision: int
    """For each patch."""
    adapters: int
    head: int
    trains_text: bool
    trains_vision: bool
    trains_head: bool


def counts_of(backbone: Backbone, shape: Shape) -> Counts:
    """Of the linear layers, of which only the experts that a token takes."""
    found = {"text": 0, "vision": 0, "adapters": 0}
    model = backbone.model
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    head = base.get_output_embeddings()
    for name, module in base.named_modules():
        if not isinstance(module, nn.Linear) or module is head:
            continue
        size = module.in_features * module.out_features
        if "lora_" in name:
            found["adapters"] += size
        else:
            found["vision" if backbone.family.is_vision(name) else "text"] += size
    if any("experts" in name for name, _ in base.named_modules()):
        block = shape.text
        found["text"] = block.number * (
            block.hidden * (2 * block.attention + 2 * block.keys) + 3 * block.hidden * block.mlp
        )
    return Counts(
        **found,
        head=shape.vocabulary * shape.text.hidden,
        trains_text=shape.text.trains,
        trains_vision=shape.vision is not None and shape.vision.trains,
        trains_head=shape.head_trains,
    )


def forward_operations(counts: Counts, shape: Shape, batch: Batch) -> tuple[float, float]:
    """(of the language model, of the vision tower), without the head."""
    text = 2 * (counts.text + counts.adapters) * batch.num_tokens
    text += batch.num_rows * _attention(shape.text, 0, batch.num_columns)
    vision = 0.0
    if shape.vision is not None and batch.num_patches:
        vision = 2.0 * counts.vision * batch.num_patches
        vision += 4 * shape.vision.attention * batch.most_patches * batch.num_patches * shape.vision.number
    return text, vision


def _attention(block: Block, begun: int, ended: int) -> float:
    """Operations of scores and sums of one row's columns from `begun` to `ended`, in all layers."""
    total = 0.0
    for window in block.windows:
        # Column s sees s columns, and no more than its window.
        seen = (ended**2 - begun**2) / 2
        if window is not None and window < ended:
            full = min(max(window, begun), ended)
            seen = (full**2 - begun**2) / 2 + window * (ended - full)
        total += 4 * block.attention * seen
    return total


def training_operations(counts: Counts, shape: Shape, batch: Batch, *, recompute: bool) -> float:
    """Forward and backward of one micro-batch."""
    text, vision = forward_operations(counts, shape, batch)
    again = 1 if recompute else 0
    # A frozen layer hands gradients on (2 N) and has none of its own (2 N more).
    adapters = 2 * counts.adapters * batch.num_tokens
    if counts.trains_text:
        total = text * (3 + again)
    else:
        total = text * (2 + again) + adapters
    total += vision * ((3 + again) if counts.trains_vision else 1)
    return total + 2 * counts.head * batch.num_active * (3 if counts.trains_head else 2)


def decoding_seconds(counts: Counts, shape: Shape, batch: Batch, *, flops: float, bandwidth: float) -> float:
    """Reading the prompts and writing the answers of one batch of rollouts, token after token."""
    prompts = Batch(
        num_rows=batch.num_rows,
        num_prompt=batch.num_prompt,
        num_answer=0,
        num_patches=batch.num_patches,
        most_patches=batch.most_patches,
    )
    seconds = sum(forward_operations(counts, shape, prompts)) / flops
    weights = (counts.text + counts.adapters + counts.head) * shape.computes
    middle = batch.num_prompt + batch.num_answer // 2
    cache = sum(min(middle, window or middle) for window in shape.text.windows) * shape.text.keys
    cache *= shape.residual + shape.computes
    products = 2 * (counts.text + counts.adapters + counts.head) * batch.num_rows
    products += batch.num_rows * _attention(shape.text, middle, middle + 1)
    token = max(products / flops, (weights + batch.num_rows * cache) / bandwidth)
    return seconds + token * batch.num_answer


def step_seconds(
    config: DistillConfig | SftConfig,
    student: Backbone,
    examples: Sequence[Example],
    *,
    tflops: float = H100_TFLOPS,
    engine_rows: int = 64,
    teachers: Sequence[Backbone] = (),
) -> dict[str, dict[str, float]]:
    """Length of the answers -> part of the step -> seconds, of a student as `prepared` leaves it."""
    shape = shape_of(student, bf16=config.bf16)
    counts = counts_of(student, shape)
    flops, bandwidth = tflops * 1e12 * UTILISATION, tflops * 1e12 / OPERATIONS_A_BYTE * READING
    if isinstance(config, SftConfig):
        recompute = config.recomputes(on_gpu=True)
        steps = [
            sum(training_operations(counts, shape, batch, recompute=recompute) for batch in step)
            for step in sft_batches(config, student, examples)
        ]
        return {"reference answers": {"student": sum(steps) / len(steps) / flops}}
    # A teacher that is larger than the student is counted by its own parameters.
    others = [counts_of(teacher, shape_of(teacher, bf16=config.bf16)) for teacher in teachers]
    scorer = max(others, key=lambda other: other.text, default=counts)

    def of(step: StepBatches) -> dict[str, float]:
        parts = {
            "rollouts": sum(
                decoding_seconds(counts, shape, batch, flops=flops, bandwidth=bandwidth)
                for batch in step.rollouts
            )
        }
        read = sum(
            sum(forward_operations(scorer, shape, batch)) + 2 * scorer.head * batch.num_active
            for batches in step.teachers
            for batch in batches
        )
        if read:
            parts["teachers"] = read / flops
        learnt = sum(
            training_operations(counts, shape, batch, recompute=config.gradient_checkpointing)
            for batch in step.student
        )
        return parts | {"student": learnt / flops}

    longest = distill_batches(config, student, examples, engine_rows=engine_rows)
    num = reference_length(config, student, examples)
    usual = distill_batches(config, student, examples, engine_rows=engine_rows, num_answer=num)
    return {
        f"answers of {num} tokens, as the references": of(usual),
        f"answers of {config.max_new_tokens}, the most": of(longest),
    }

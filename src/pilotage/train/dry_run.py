"""A stage of training told instead of made: its settings, the memory it would hold, the prompts of one example."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch

from pilotage.backbones.load import Backbone
from pilotage.backbones.render import render
from pilotage.records import Example, View
from pilotage.rollouts.sources import FromTeacher
from pilotage.train.distill_config import DistillConfig, FrozenCopy
from pilotage.train.distill_setup import memory_estimate, training_memory
from pilotage.train.movement import expects_rounding
from pilotage.train.optimisers import prepared
from pilotage.train.settings import as_settings
from pilotage.train.sft_config import SftConfig
from pilotage.views import make_view, reference_of_view
from pilotage.views.variants import OtherImages, varied

USUAL_PROMPT_TOKENS, USUAL_ROW_TOKENS = 512, 1024
"""Of a prompt, and of prompt and answer, where the settings have no limit."""

Shown = tuple[str, View]
"""Who is shown a view, in words."""


def dry_run(
    config: DistillConfig | SftConfig,
    *,
    student: Backbone,
    load_shape: Callable[[str], Backbone],
    examples: Sequence[Example],
) -> str:
    """The text of a dry run, for the first example. `student` and what `load_shape` gives need no weights in memory."""
    student = prepared(student, config.optimiser, config.lora, seed=config.seed)
    if isinstance(config, DistillConfig):
        parts, notes, shown = _of_distillation(config, student, load_shape, examples)
    else:
        parts, notes, shown = _of_sft(config, student, examples[0])
    lr = config.peak_lr if isinstance(config, SftConfig) else config.lr
    if told := expects_rounding(student.model, lr, config.optimiser):
        notes = [*notes, told]
    sections = [
        "configuration\n" + json.dumps(as_settings(config), indent=1),
        "memory on each rank, about\n"
        + "\n".join(f"  {name:<12} {size / 2**30:9.3f} GiB" for name, size in parts.items()),
        *(f"note: {note}" for note in notes),
        *(
            f"--- {title} ({'with' if seen.images else 'without'} the picture)\n{render(student, seen)}"
            for title, seen in shown
        ),
    ]
    return "\n\n".join(sections)


def _of_distillation(
    config: DistillConfig,
    student: Backbone,
    load_shape: Callable[[str], Backbone],
    examples: Sequence[Example],
) -> tuple[dict[str, int], Sequence[str], list[Shown]]:
    teachers = [
        replace(student) if weights.source is None else load_shape(weights.source)
        for weights in config.all_weights
        if isinstance(weights, FrozenCopy)
    ]
    return (
        memory_estimate(config, student, *teachers),
        [*_rewards(config), *config.notes()],
        _teachers(config, examples),
    )


def _rewards(config: DistillConfig) -> list[str]:
    """What answers are rewarded for, where rewards teach."""
    if config.mix is None or not config.mix.reward:
        return []
    number = config.samples_per_prompt
    return [f"{number} answers to each prompt, rewarded by the judge: {config.credit}"]


def _of_sft(
    config: SftConfig, student: Backbone, example: Example
) -> tuple[dict[str, int], Sequence[str], list[Shown]]:
    parts = training_memory(
        student,
        num_tokens=config.micro_batch_size * (config.max_length or USUAL_ROW_TOKENS),
        recompute=torch.cuda.is_available(),
        bf16=config.bf16 or student.computes_in is not None,
        optimiser=config.optimiser,
        others={},
    )
    views = (
        *(config.image_views if config.num_image_rows else ()),
        *(config.retention_views if config.num_text_rows else ()),
    )
    names = [name for name, _ in views]
    note = f"a step has {config.num_image_rows} rows with a picture and {config.num_text_rows} of text alone"
    shown = []
    for name in names:
        view = make_view(name, example, config.prompts)
        answer = reference_of_view(example, name).removeprefix(view.prefill or "")
        shown.append((f"{example.id}, view {name}, is taught to answer {answer!r}", view))
    return parts, [note], shown


def _teachers(config: DistillConfig, examples: Sequence[Example]) -> list[Shown]:
    """The student, each route's teacher, and the teachers that answer."""
    example = examples[0]

    def view(name: str) -> View:
        return make_view(name, example, config.prompts)

    shown = [
        (
            f"the student of {example.id}, view {config.student_view}",
            varied(view(config.student_view), prefill=config.student_prefill),
        )
    ]
    for route in config.routes:
        if route.view is None:
            continue
        other = OtherImages(examples).pick(example, seed=config.seed) if route.images == "other" else None
        seen = varied(
            view(route.view),
            images=route.images,
            other=other,
            seed=config.seed,
            prefill=route.prefill or None,
        )
        taught = route.spans if isinstance(route.spans, str) else ", ".join(route.spans)
        title = f"route {route.name}, view {route.view}, teaches {taught} of {route.rows} rows"
        shown.append((title, seen))
    for source in config.mixture.sources:
        if isinstance(source, FromTeacher):
            shown.append((f"a teacher that answers, view {source.view}", view(source.view)))
    return shown

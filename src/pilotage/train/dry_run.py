"""A distillation run told instead of made: its settings, the memory it would hold, and the prompts of one example."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace

from pilotage.backbones.encode import render
from pilotage.backbones.load import Backbone, with_lora
from pilotage.records import Prompted, View
from pilotage.rollouts.sources import FromTeacher
from pilotage.train.distill_config import DistillConfig, FrozenCopy, as_settings
from pilotage.train.distill_setup import memory_estimate
from pilotage.views import make_view
from pilotage.views.variants import OtherImages, varied


def dry_run(
    config: DistillConfig,
    *,
    student: Backbone,
    load_shape: Callable[[str], Backbone],
    examples: list[Prompted],
) -> str:
    """The text of a dry run, for the first example. `student` and what `load_shape` gives need no weights in memory."""
    if config.lora is not None and not hasattr(student.model, "disable_adapter"):
        student = with_lora(student, config.lora)
    teachers = [
        replace(student) if weights.source is None else load_shape(weights.source)
        for weights in config.all_weights
        if isinstance(weights, FrozenCopy)
    ]
    parts = memory_estimate(config, student, *teachers)
    sections = [
        "configuration\n" + json.dumps(as_settings(config), indent=1),
        "memory on each rank, about\n"
        + "\n".join(f"  {name:<12} {size / 2**30:9.3f} GiB" for name, size in parts.items()),
        *(f"note: {note}" for note in config.notes()),
        *(f"{title}\n{text}" for title, text in _prompts(config, student, examples)),
    ]
    return "\n\n".join(sections)


def _prompts(config: DistillConfig, backbone: Backbone, examples: list[Prompted]) -> list[tuple[str, str]]:
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
    return [
        (
            f"--- {title} ({'with' if seen.image is not None else 'without'} the picture)",
            render(backbone, seen),
        )
        for title, seen in shown
    ]

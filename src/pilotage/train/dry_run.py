"""A stage of training told instead of made: its settings, its memory and time on a GPU, the prompts of one example."""

from __future__ import annotations

import json
from collections.abc import Sequence

from pilotage.backbones.render import render
from pilotage.records import Example, View
from pilotage.rollouts.sources import FromTeacher
from pilotage.train.distill_config import DistillConfig
from pilotage.train.fit import Plan
from pilotage.train.memory import ROUNDING, gib
from pilotage.train.movement import expects_rounding
from pilotage.train.settings import as_settings
from pilotage.train.sft_config import SftConfig
from pilotage.train.step_time import ASSUMPTIONS, H100_TFLOPS, READING, UTILISATION
from pilotage.views import make_view, reference_of_view
from pilotage.views.variants import OtherImages, varied

NO_TOKENIZER = (
    "the model comes without a tokenizer: prompts cannot be shown, and texts count as many tokens as such texts "
    "usually have"
)

Shown = tuple[str, View]
"""Who is shown a view, in words."""


def dry_run(plan: Plan, *, gpu_bytes: int | None = None, tflops: float = H100_TFLOPS) -> str:
    """The text of a dry run; prompts are those of the first example."""
    config, student, examples = plan.config, plan.student, plan.examples
    if isinstance(config, DistillConfig):
        notes, shown = [*_rewards(config), *config.notes()], _teachers(config, examples)
    else:
        notes, shown = _of_sft(config, examples[0])
    if warning := expects_rounding(student.model, config.lr, config.optimiser):
        notes = [*notes, warning]
    if student.processor is None:
        notes, shown = [*notes, NO_TOKENIZER], []
    sections = [
        "configuration\n" + json.dumps(as_settings(config), indent=1),
        _memory(plan, gpu_bytes),
        _time(plan, tflops),
        *(f"note: {note}" for note in notes),
        *(
            f"--- {title} ({'with' if seen.images else 'without'} the picture)\n{render(student, seen)}"
            for title, seen in shown
        ),
    ]
    return "\n\n".join(sections)


def _memory(plan: Plan, gpu_bytes: int | None) -> str:
    memory = plan.memory(gpu_bytes=gpu_bytes)
    lines = [f"  {name:<16} {gib(size):9.3f} GiB" for name, size in memory.parts.items()]
    lines.append(f"  {'together':<16} {gib(memory.together):9.3f} GiB")
    lines.append(
        f"  {'on the GPU':<16} {gib(memory.on_gpu):9.3f} GiB, {ROUNDING:.0%} and half a GiB more: allocator and driver"
    )
    others = [
        f"{name} {gib(sum(memory.lasting.values()) + sum(parts.values())):.3f}"
        for name, parts in memory.phases.items()
        if name != memory.phase
    ]
    beside = f"; the others come to: {', '.join(others)}" if others else ""
    return (
        f"memory on a GPU that shares nothing out, about, at the largest moment ({memory.phase}{beside})\n"
        + "\n".join(lines)
    )


def _time(plan: Plan, tflops: float) -> str:
    lines = []
    for length, parts in plan.seconds(tflops).items():
        text = ", ".join(f"{name} {seconds:.3g}" for name, seconds in parts.items())
        lines.append(f"  {length}: {sum(parts.values()):.3g} s ({text})")
    assumed = ASSUMPTIONS.format(tflops=tflops, share=UTILISATION, reading=READING)
    return f"an optimiser step, about, if all goes as assumed: {assumed}\n" + "\n".join(lines)


def _rewards(config: DistillConfig) -> list[str]:
    """What answers are rewarded for, where rewards teach."""
    if config.mix is None or not config.mix.reward:
        return []
    number = config.sources.max_samples
    return [f"{number} answers to each prompt, rewarded by the judge: {config.credit}"]


def _of_sft(config: SftConfig, example: Example) -> tuple[list[str], list[Shown]]:
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
    return [note], shown


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
    for source in config.sources.sources:
        if isinstance(source, FromTeacher):
            shown.append((f"a teacher that answers, view {source.view}", view(source.view)))
    return shown

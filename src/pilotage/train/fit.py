"""Whether a stage fits a GPU, and which settings would make it fit: each is estimated again before it is named."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from pilotage.backbones.load import Backbone, LoraSettings, QLoraSettings, freeze_vision
from pilotage.errors import PilotageError
from pilotage.records import Example
from pilotage.rollouts.engines import EngineSettings, InVllm
from pilotage.train.disk import Disk, stage_disk
from pilotage.train.distill_config import AdapterOff, DistillConfig, FrozenCopy
from pilotage.train.distill_setup import with_weights
from pilotage.train.memory import Memory, gib, stage_memory
from pilotage.train.optimisers import AdamW, AdamW8bit, AdamWKahan, prepared
from pilotage.train.sft_config import SftConfig
from pilotage.train.step.teacher_models import check_tokenizer
from pilotage.train.step_time import H100_TFLOPS, step_seconds

RANK = 16
"""Of the adapter that is proposed."""
VLLM_ROOM = 4 * 2**30
"""Bytes that vLLM is left beside a model's weights: for keys and values of answers, and for its graphs."""
_ADAPTER, _OFF = "adapter", {"teacher": "--teacher adapter-off"}


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A stage as it would be trained: all that an estimate needs, and no weight."""

    config: DistillConfig | SftConfig
    engine: EngineSettings
    start: str
    """The weights that it begins with."""
    load: Callable[[str], Backbone]
    """A model's shape, in the precision that the recipe has."""
    attention: str
    examples: Sequence[Example]

    known: dict[Any, Backbone] = field(default_factory=dict, repr=False)
    """Students that were made already, for this plan and those derived from it."""

    @property
    def student(self) -> Backbone:
        """As the stage trains it."""
        config = self.config
        frozen = isinstance(config, SftConfig) and config.freeze_vision
        key = (config.optimiser, config.lora)
        if key not in self.known:
            student = prepared(self.load(self.start), config.optimiser, config.lora, seed=config.seed)
            if frozen:
                freeze_vision(student)
            self.known[key] = student
        return self.known[key]

    @property
    def teachers(self) -> list[Backbone]:
        """The models that stand beside the student."""
        found = []
        for weights in getattr(self.config, "all_weights", ()):
            if isinstance(weights, FrozenCopy):
                source = weights.source or self.start
                if source not in self.known:
                    self.known[source] = self.load(source)
                    if self.known[source].tokenizer is not None and self.student.tokenizer is not None:
                        check_tokenizer(self.known[source], self.student)
                found.append(self.known[source])
        return found

    def memory(self, *, gpu_bytes: int | None = None, on_gpu: bool = True) -> Memory:
        """On a GPU, or on a CPU.

        Where rollouts have an engine of their own beside the student, it takes its share of `gpu_bytes`.
        """
        found = stage_memory(
            self.config,
            self.student,
            self.teachers,
            self.examples,
            on_gpu=on_gpu,
            engine_rows=self.engine.batch_size,
            engine_weights=self.engine.has_own_weights,
            attention=self.attention,
        )
        share = getattr(self.engine, "gpu_memory_utilization", None)
        if share and gpu_bytes and isinstance(self.config, DistillConfig):
            found = replace(found, lasting={**found.lasting, "vLLM": int(share * gpu_bytes)})
        return found

    def disk(self) -> Disk:
        """What the stage leaves on disk."""
        return stage_disk(self.config, self.load(self.start), self.student)

    def seconds(self, tflops: float = H100_TFLOPS) -> dict[str, dict[str, float]]:
        """Length of the answers -> part of an optimiser step -> seconds."""
        return step_seconds(
            self.config,
            self.student,
            self.examples,
            tflops=tflops,
            engine_rows=self.engine.batch_size,
            teachers=self.teachers,
        )


@dataclass(frozen=True, kw_only=True)
class _Change:
    """One setting in place of another."""

    options: Mapping[str, str]
    """What is set -> as it is given to `pilotage train`."""
    make: Callable[[Plan], Plan]


def check_fits(plan: Plan, gpu_gib: float) -> str:
    """One line that says how much of the GPU the stage takes.

    Raises PilotageError for one that does not fit: how much is missing, what is largest, and what would make it fit.
    """
    gpu_bytes = int(gpu_gib * 2**30)
    memory = plan.memory(gpu_bytes=gpu_bytes)
    name = plan.config.stage
    if memory.on_gpu <= gpu_bytes:
        return f"{name} fits on a GPU of {gpu_gib:g} GiB: about {gib(memory.on_gpu):.1f} are taken"
    part, size = next(iter(memory.parts.items()))
    message = (
        f"{name} does not fit on a GPU of {gpu_gib:g} GiB: about {gib(memory.on_gpu):.1f} would be taken, "
        f"{gib(memory.on_gpu - gpu_bytes):.1f} too many; the largest part is {part} ({gib(size):.1f})"
    )
    options, then = remedy(plan, gpu_bytes)
    if then.on_gpu <= gpu_bytes:
        raise PilotageError(f"{message}; with {options} it takes {gib(then.on_gpu):.1f} and fits")
    least = f"{gib(then.on_gpu):.1f} with {options}" if options else f"{gib(then.on_gpu):.1f}"
    raise PilotageError(
        f"{message}; the least that is known of is {least}: take a larger GPU or a smaller model"
    )


def remedy(plan: Plan, gpu_bytes: int) -> tuple[str, Memory]:
    """The options that make a stage fit, none of which can be left out, and its memory then; else those that help."""
    taken: list[_Change] = []
    now = plan.memory(gpu_bytes=gpu_bytes)

    def after(changes: Sequence[_Change]) -> Memory:
        changed = plan
        for change in changes:
            changed = change.make(changed)
        return changed.memory(gpu_bytes=gpu_bytes)

    helped = True
    while helped and now.on_gpu > gpu_bytes:
        helped = False
        changed = plan
        for change in taken:
            changed = change.make(changed)
        for levels in _families(changed, gpu_bytes):
            # The first that is enough, else the one that helps most.
            tried = [(change, after([*taken, change])) for change in levels]
            if not tried:
                continue
            enough = [one for one in tried if one[1].on_gpu <= gpu_bytes]
            change, then = enough[0] if enough else min(tried, key=lambda one: one[1].on_gpu)
            if then.on_gpu < now.on_gpu:
                taken, now, helped = [*taken, change], then, True
                break
    for change in list(taken):
        left = [other for other in taken if other is not change]
        if now.on_gpu <= gpu_bytes and (then := after(left)).on_gpu <= gpu_bytes:
            taken, now = left, then
    # What was set twice is told once.
    last: dict[str, str] = {}
    for change in taken:
        last |= change.options
    return " ".join(last.values()), now


def _families(plan: Plan, gpu_bytes: int) -> Iterator[list[_Change]]:
    """What could be changed, what costs least first: time alone, then precision, then what is trained."""
    config, stage = plan.config, plan.config.stage
    is_sft = isinstance(config, SftConfig)
    if not (config.recomputes(on_gpu=True) if is_sft else config.gradient_checkpointing):
        yield [_setting(stage, "gradient_checkpointing", True)]
    if not is_sft and isinstance(plan.engine, InVllm):
        yield list(_vllm_shares(plan, gpu_bytes))
    if not is_sft and not plan.engine.has_own_weights:
        yield [
            _of_engine("batch_size", rows)
            for rows in _halves(plan.engine.batch_size, config.prompts_per_step)
        ]
    yield [_setting(stage, "micro_batch_size", size) for size in _halves(config.micro_batch_size)]
    if not is_sft and config.teacher_batch_size is not None:
        yield [_setting(stage, "teacher_batch_size", size) for size in _halves(config.teacher_batch_size)]
    if config.lora is None:
        if type(config.optimiser) is AdamW:
            in_bf16 = plan.student.computes_in is not None
            yield [_setting(stage, "optimiser", AdamWKahan() if in_bf16 else AdamW8bit())]
        lora = {_ADAPTER: f"--lora {RANK}"}
        yield [_Change(options=lora, make=lambda plan: _adapted(plan, LoraSettings))]
        if _has_copies(config):
            yield [
                _Change(
                    options=lora | _OFF,
                    make=lambda plan: _adapter_off(_adapted(plan, LoraSettings)),
                )
            ]
    elif _has_copies(config):
        yield [_Change(options=_OFF, make=_adapter_off)]
    if not isinstance(config.lora, QLoraSettings):
        qlora = {_ADAPTER: f"--qlora {RANK}"}
        yield [_Change(options=qlora, make=lambda plan: _adapted(plan, QLoraSettings))]


def _halves(number: int, most: int | None = None) -> list[int]:
    number = number if most is None else min(number, most)
    found = []
    while number > 1:
        number = (number + 1) // 2
        found.append(number)
    return found


def _setting(stage: str, field: str, value: Any) -> _Change:
    text = f"{value}" if not isinstance(value, bool) else str(value).lower()
    if isinstance(value, AdamW):
        text = f"{type(value).__name__}()"
    return _Change(
        options={field: f"--set {shlex.quote(f'{stage}.{field}={text}')}"},
        make=lambda plan: replace(plan, config=replace(plan.config, **{field: value})),
    )


def _of_engine(field: str, value: Any) -> _Change:
    return _Change(
        options={f"engine.{field}": f"--set engine.{field}={value}"},
        make=lambda plan: replace(plan, engine=replace(plan.engine, **{field: value})),  # pyright: ignore
    )


def _vllm_shares(plan: Plan, gpu_bytes: int) -> Iterator[_Change]:
    """Smaller shares of the GPU for vLLM, as long as they hold the model and some room for answers beside it."""
    model = plan.load(plan.start).model
    least = sum(p.numel() for p in model.parameters()) * 2 + VLLM_ROOM
    share = round(getattr(plan.engine, "gpu_memory_utilization", 0.0) - 0.1, 2)
    while share > 0 and share * gpu_bytes >= least:
        yield _of_engine("gpu_memory_utilization", share)
        share = round(share - 0.05, 2)


def _adapted(plan: Plan, kind: type[LoraSettings]) -> Plan:
    return replace(plan, config=replace(plan.config, lora=kind(rank=RANK, alpha=2.0 * RANK)))


def _has_copies(config: DistillConfig | SftConfig) -> bool:
    return isinstance(config, DistillConfig) and any(
        isinstance(weights, FrozenCopy) for weights in config.all_weights
    )


def _adapter_off(plan: Plan) -> Plan:
    assert isinstance(plan.config, DistillConfig)
    copies = [weights for weights in plan.config.all_weights if isinstance(weights, FrozenCopy)]
    replaced = [weights for weights in copies if weights.source is not None] or copies
    changed = with_weights(plan.config, lambda known: AdapterOff() if known in replaced else known)
    return replace(plan, config=changed)

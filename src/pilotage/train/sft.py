"""Supervised fine-tuning with images: stage 1 (perception) and the visual baseline (reference answers).

The engine is TRL's SFTTrainer. Every step's rows depend on the seed and the step alone, so that a run that was
killed and started again ends in the same weights.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import torch

from pilotage.backbones.load import Backbone, LoraSettings, with_lora
from pilotage.backbones.nano import save_backbone
from pilotage.errors import PilotageError
from pilotage.records import Example
from pilotage.views import VIEWS, PromptSet

logger = logging.getLogger(__name__)

Schedule = Literal["one_cycle", "cosine", "constant"]


@dataclass(frozen=True, kw_only=True)
class SftConfig:
    """One run of supervised fine-tuning."""

    stage: str = "stage1"
    """Name in `metrics.jsonl`, and of the folder in the run that holds checkpoints and the model."""
    image_view: Literal["perception", "student"] = "perception"
    """What image rows ask for: the perception answer (stage 1), or the whole reference response (the baseline)."""
    prompts: PromptSet
    steps: int
    """Optimiser steps."""
    batch_size: int = 64
    """Rows in a step, of all ranks and both modalities together."""
    micro_batch_size: int = 32
    """At most so many rows in one forward; a step has image micro-batches and text micro-batches, never mixed ones."""
    retention_share: float = 1 / 3
    """Share of the rows that are text only, so that planning from words is not forgotten. 0 for none."""
    retention_views: tuple[tuple[str, float], ...] = (("symbolic", 0.7), ("teacher", 0.3))
    """Text views of the retention rows, with how often each is drawn."""
    peak_lr: float = 1e-3
    schedule: Schedule = "one_cycle"
    """`one_cycle`: cosine from peak / 25 up to the peak and down to nearly 0; `cosine`: linear up, cosine down to 0;
    `constant`: linear up, then flat."""
    warmup_share: float = 0.1
    """Share of the steps in which the learning rate rises."""
    weight_decay: float = 0.01
    betas: tuple[float, float] = (0.9, 0.98)
    clip: float = 1.0
    """Largest gradient norm; 0 for no clipping."""
    pixel_noise: float = 0.0
    """Standard deviation of the noise on normalised pixels (black is -1 and white 1 for nano)."""
    freeze_vision: bool = False
    """Leaves the vision tower and its merger as they are."""
    lora: LoraSettings | None = None
    """Trains an adapter, which the saved model has merged in. None trains all parameters."""
    bf16: bool = False
    """Matrix products in bfloat16; weights and optimiser stay in float32."""
    max_length: int | None = None
    """Prompt and answer may have so many tokens; a longer row is an error that names its example."""
    checkpoint_every: int = 100
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.retention_share < 1:
            raise PilotageError(f"retention_share {self.retention_share} must be at least 0 and below 1")
        if self.steps < 1 or self.micro_batch_size < 1 or self.num_image_rows < 1:
            raise PilotageError(
                f"steps {self.steps}, micro_batch_size {self.micro_batch_size} and the image rows in a step "
                f"({self.num_image_rows} of {self.batch_size}) must be at least 1"
            )
        for name, share in self.retention_views:
            if name not in VIEWS or share <= 0 or name in ("student", "perception"):
                raise PilotageError(
                    f"retention view {name!r} with share {share} must be a text view, share > 0"
                )
        if not 0 <= self.warmup_share <= 1:
            raise PilotageError(f"warmup_share {self.warmup_share} must be between 0 and 1")

    @property
    def num_text_rows(self) -> int:
        """Retention rows in every step."""
        return round(self.batch_size * self.retention_share)

    @property
    def num_image_rows(self) -> int:
        """Image rows in every step."""
        return self.batch_size - self.num_text_rows


def lr_factor(config: SftConfig, step: int) -> float:
    """The learning rate of a step (counted from 0) as a share of the peak."""
    rising = max(1, round(config.steps * config.warmup_share))
    if config.schedule == "one_cycle":
        if step < rising:
            return 1 / 25 + (1 - 1 / 25) * (1 - math.cos(math.pi * step / rising)) / 2
    elif step < rising:
        return (step + 1) / rising
    if config.schedule == "constant":
        return 1.0
    done = (step - rising) / max(1, config.steps - rising)
    return (1 + math.cos(math.pi * min(done, 1.0))) / 2


OnStep = Callable[[int, int, dict[str, float]], None]
"""Called after each step with steps done, steps in all and the step's figures."""


def run_sft(
    config: SftConfig,
    backbone: Backbone,
    examples: Sequence[Example],
    run_dir: str | Path,
    on_step: OnStep | None = None,
    *,
    retention: Sequence[Example] | None = None,
    answers: Mapping[tuple[str, str], str] | None = None,
) -> Path:
    """Trains the backbone's model in place and returns the folder of the saved model.

    `retention` are the examples of the text rows (the same ones by default); `answers` replaces the reference answer
    of `(example id, view name)`, e.g. by the base model's own. Writes to `run_dir/metrics.jsonl` and
    `run_dir/<stage>/`; run again after a kill, it goes on from the last checkpoint and ends the same.
    Raises PilotageError when the folder holds a run with other settings.
    """
    if not examples or (retention is not None and not retention):
        raise PilotageError("there are no examples to train on")
    # TRL takes seconds to import.
    from pilotage.train.sft_rows import Mixture, RowCollator
    from pilotage.train.sft_trainer import make_trainer

    folder = Path(run_dir) / config.stage
    folder.mkdir(parents=True, exist_ok=True)
    _claim(folder / "sft.json", config, backbone, [*examples, *(retention or ())])
    directory = folder / "model"
    if directory.is_dir():
        logger.info("%s is finished already", directory)
        return directory
    mixture = Mixture(config, examples, retention if retention is not None else examples, answers or {})
    mixture.check_lengths(backbone)
    was_trainable = {id(parameter): parameter.requires_grad for parameter in backbone.model.parameters()}
    if config.lora is not None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            backbone = with_lora(backbone, config.lora)
    if config.freeze_vision:
        for parameter in vision_parameters(backbone.model):
            parameter.requires_grad_(False)
    trainer = make_trainer(
        config,
        backbone,
        RowCollator(backbone, mixture, config),
        Path(run_dir) / "metrics.jsonl",
        folder,
        on_step,
    )
    trainer.run()
    trained = backbone.model
    if config.lora is not None:
        trained = trained.merge_and_unload()
    for parameter in trained.parameters():
        parameter.requires_grad_(was_trainable.get(id(parameter), True))
    trained.eval()
    if trainer.is_world_process_zero():
        partial = folder / "model.partial"
        save_backbone(trained, backbone.processor, partial)
        os.replace(partial, directory)
    trainer.accelerator.wait_for_everyone()
    return directory


def vision_parameters(model: torch.nn.Module) -> list[torch.nn.Parameter]:
    """Parameters of the vision tower and its mergers."""
    return [parameter for name, parameter in model.named_parameters() if ".visual." in f".{name}"]


def _claim(path: Path, config: SftConfig, backbone: Backbone, examples: Sequence[Example]) -> None:
    """Ties the folder to settings, model and data; a folder with others is an error."""
    ids = hashlib.sha256("\n".join(example.id for example in examples).encode()).hexdigest()
    claim = {"config": asdict(config), "model": backbone.name, "examples": len(examples), "ids_sha256": ids}
    claim = json.loads(json.dumps(claim))
    if path.exists():
        kept = json.loads(path.read_text())
        if kept != claim:
            differ = [
                f"{k}.{n}"
                for k in claim
                if isinstance(claim[k], dict)
                for n in claim[k]
                if kept.get(k, {}).get(n) != claim[k][n]
            ]
            differ += [k for k in claim if not isinstance(claim[k], dict) and kept.get(k) != claim[k]]
            raise PilotageError(
                f"{path} holds a run with other {', '.join(differ)}; name another folder or remove {path.parent}"
            )
        return
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(claim, indent=1))
    os.replace(partial, path)

"""Supervised fine-tuning with images: stage 1 (perception) and the visual baseline (reference answers).

The engine is TRL's SFTTrainer. Every step's rows depend on the seed and the step alone, so that a run that was
killed and started again ends in the same weights.
"""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pilotage.backbones.load import Backbone, freeze_vision, is_sharded
from pilotage.errors import PilotageError
from pilotage.files import clear_partial
from pilotage.records import Example
from pilotage.train import checkpoints
from pilotage.train.distill_setup import save_whole
from pilotage.train.movement import expects_rounding
from pilotage.train.optimisers import prepared, settle
from pilotage.train.settings import LATER
from pilotage.train.sft_config import OnBegin, OnStep, SftConfig, Validate

if TYPE_CHECKING:
    from pilotage.train.sft_rows import DataMixture

__all__ = ["OnStep", "SftConfig", "run_sft"]

logger = logging.getLogger(__name__)


def run_sft(
    config: SftConfig,
    backbone: Backbone,
    examples: Sequence[Example],
    run_dir: str | Path,
    on_step: OnStep | None = None,
    *,
    retention: Sequence[Example] | None = None,
    answers: Mapping[tuple[str, str], str] | None = None,
    on_begin: OnBegin | None = None,
    validate: Validate | None = None,
) -> Path:
    """Trains the backbone's model in place and returns the folder of the saved model.

    `retention` are the examples of the text rows (the same ones by default); `answers` replaces the reference answer
    of `(example id, view name)`, e.g. by the base model's own; `on_begin` is called once nothing can be refused,
    before the first step; `validate` on every rank, between steps. Writes to `run_dir/metrics.jsonl` and
    `run_dir/<stage>/`; run again after a kill, it goes on from the last checkpoint and ends the same. Raises
    PilotageError when the folder holds a run with other settings.
    """
    if not examples or (retention is not None and not retention):
        raise PilotageError("there are no examples to train on")
    # TRL takes seconds to import.
    from pilotage.train.sft_rows import DataMixture

    folder = Path(run_dir) / config.stage
    is_first = os.environ.get("RANK", "0") == "0"
    settings = _settings(config, backbone, [*examples, *(retention or ())], answers or {})
    directory = folder / "model"
    if directory.is_dir():
        if is_first:
            checkpoints.claim(folder, settings)
        logger.info("%s is finished already", directory)
        return directory
    mixture = DataMixture(
        config, backbone, examples, retention if retention is not None else examples, answers or {}
    )
    mixture.check_lengths()
    with checkpoints.training_in(Path(run_dir), is_first=is_first):
        if is_first:
            checkpoints.claim(folder, settings)
            if on_begin is not None:
                on_begin()
        return _train(config, backbone, mixture, Path(run_dir), on_step, validate, is_first=is_first)


def _train(
    config: SftConfig,
    backbone: Backbone,
    mixture: DataMixture,
    run_dir: Path,
    on_step: OnStep | None,
    validate: Validate | None,
    *,
    is_first: bool,
) -> Path:
    from pilotage.train.sft_rows import RowCollator
    from pilotage.train.sft_trainer import make_trainer

    folder = run_dir / config.stage
    directory = folder / "model"
    was_trainable = {id(parameter): parameter.requires_grad for parameter in backbone.model.parameters()}
    backbone = prepared(backbone, config.optimiser, config.lora, seed=config.seed)
    if config.freeze_vision:
        freeze_vision(backbone)
    if is_first and (warning := expects_rounding(backbone.model, config.lr, config.optimiser)):
        logger.warning("%s", warning)
    trainer = make_trainer(
        config, backbone, RowCollator(mixture), run_dir=run_dir, on_step=on_step, validate=validate
    )
    trainer.run()
    settle(backbone.model, config.optimiser, trainer.optimizer)
    save_whole(backbone, directory, writes=is_first)
    if is_first:
        clear_partial(folder)
    trained = backbone.model
    if config.lora is not None and not is_sharded(trained):
        trained = trained.merge_and_unload()
    for parameter in trained.parameters():
        if parameter.is_floating_point():  # in 4 bits none can be trained
            parameter.requires_grad_(was_trainable.get(id(parameter), True))
    trained.eval()
    trainer.accelerator.wait_for_everyone()
    return directory


def _settings(
    config: SftConfig,
    backbone: Backbone,
    examples: Sequence[Example],
    answers: Mapping[tuple[str, str], str],
) -> dict[str, Any]:
    data = repr([example.id for example in examples]) + repr(sorted(answers.items()))
    digest = hashlib.sha256(data.encode()).hexdigest()[:16]
    settings = asdict(config)
    for field in fields(config):
        if field.metadata == LATER and getattr(config, field.name) == field.default:
            del settings[field.name]
    masters = {} if backbone.computes_in is None else {"masters": "float32"}
    return settings | {"model": backbone.name, "examples": f"{len(examples)}, {digest}"} | masters

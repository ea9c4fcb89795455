"""What stages on TRL's trainers share: exact resumption, a line of figures per step, a model left as it came."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn
from transformers.training_args import TrainingArguments

from pilotage.backbones.load import Backbone
from pilotage.train import checkpoints
from pilotage.train.movement import MovementWatch
from pilotage.train.settings import check_finite
from pilotage.train.sft_config import OnStep

logger = logging.getLogger(__name__)

RECOMPUTE = next(
    name
    for name in ("activation_checkpointing", "gradient_checkpointing")
    if name in TrainingArguments.__dataclass_fields__
)
"""What transformers calls recomputing activations in the backward; the older name warns where there is a newer."""


def shared_arguments(backbone: Backbone) -> dict[str, Any]:
    """Arguments that every stage gives to its trainer."""
    on_cpu = backbone.device.type == "cpu"
    return {
        RECOMPUTE: not on_cpu,
        "logging_steps": 1,
        "logging_nan_inf_filter": False,
        "save_strategy": "steps",
        "remove_unused_columns": False,
        "dataloader_pin_memory": False,
        "disable_tqdm": True,
        "report_to": "none",
        "use_cpu": on_cpu,
        "ddp_backend": "gloo" if on_cpu and "LOCAL_RANK" in os.environ else None,
    }


class TrlStage(checkpoints.WholeCheckpoints):
    """One stage of a run on a trainer of TRL, named after this class among the bases.

    A line per step goes to `metrics.jsonl`; call `begin` before the trainer's own `__init__`.
    """

    model: Any

    def begin(self, config: Any, model: nn.Module, *, run_dir: Path, on_step: OnStep | None) -> None:
        """Takes note of the stage (`config` has `stage`, `steps`) and of the model before it is wrapped."""
        self.stage_config = config
        self.stage_dir = run_dir / config.stage
        self.metrics_path = run_dir / "metrics.jsonl"
        self.on_step = on_step
        self._began_s = time.monotonic()
        self._had_own_forward = {module for module in model.modules() if "forward" in module.__dict__}

    def run(self: Any) -> None:
        """Trains to the end, from the last checkpoint if there is one."""
        done, resume = 0, None
        if found := self.checkpoint_to_go_on_from():
            done, resume = found[0], str(found[1])
            logger.info("going on from step %d", done)
        self.add_callback(MovementWatch(self.model, self.stage_config.optimiser))
        self._began_s = time.monotonic()
        if self.is_world_process_zero():
            rows = checkpoints.trim_rows(self.metrics_path, stage=self.stage_config.stage, last_step=done)
            self._began_s -= rows[-1].get("time_s", 0.0) if rows else 0.0
        try:
            self.train(resume_from_checkpoint=resume)
        finally:
            # TRL and accelerate wrap the forward; a copy of a wrapped model would run the original's weights.
            for module in set(self.model.modules()) - self._had_own_forward:
                for name in ("forward", "_original_forward"):
                    module.__dict__.pop(name, None)

    def tell(self: Any, figures: Mapping[str, float]) -> None:
        """A step is done: its line, and whoever watches. Raises PilotageError where it is not a number."""
        step = self.state.global_step
        told = {"time_s": time.monotonic() - self._began_s} | dict(figures)
        check_finite(told["loss"], told["grad_norm"], step=step)
        if self.is_world_process_zero():
            row = {"stage": self.stage_config.stage, "step": step} | told
            checkpoints.append_row(self.metrics_path, row)
        if self.on_step is not None:
            self.on_step(step, self.stage_config.steps, told)

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """None is written: the page of a run says what was done."""

    def _send_telemetry(self) -> None:
        """None is sent."""

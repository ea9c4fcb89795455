"""TRL's SFTTrainer, fed with ready batches, with exact resumption and our metrics."""

from __future__ import annotations

import json
import logging
import os
import shutil
import time
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from torch.optim.lr_scheduler import LambdaLR
from trl.trainer.sft_config import SFTConfig
from trl.trainer.sft_trainer import SFTTrainer

from pilotage.backbones.load import Backbone
from pilotage.errors import PilotageError
from pilotage.train.sft import OnStep, SftConfig, lr_factor
from pilotage.train.sft_rows import IGNORED, RowCollator

logger = logging.getLogger(__name__)

COMPLETE = "complete"
"""A checkpoint folder without this file was being written when the run was killed."""


def make_trainer(
    config: SftConfig,
    backbone: Backbone,
    collator: RowCollator,
    metrics: Path,
    folder: Path,
    on_step: OnStep | None,
) -> StageTrainer:
    """The trainer of a run; its checkpoints are in `folder/checkpoints`."""
    args = SFTConfig(
        output_dir=str(folder / "checkpoints"),
        max_steps=config.steps,
        per_device_train_batch_size=1,  # one item is a whole micro-batch
        gradient_accumulation_steps=collator.mixture.num_micro_batches,
        learning_rate=config.peak_lr,
        weight_decay=config.weight_decay,
        adam_beta1=config.betas[0],
        adam_beta2=config.betas[1],
        max_grad_norm=config.clip,
        optim="adamw_torch_fused",
        bf16=config.bf16,
        gradient_checkpointing=backbone.device.type != "cpu",
        logging_steps=1,
        logging_nan_inf_filter=False,
        save_strategy="steps",
        save_steps=config.checkpoint_every,
        # The one before is kept until the newest is complete.
        save_total_limit=2,
        train_sampling_strategy="sequential",
        remove_unused_columns=False,
        dataset_kwargs={"skip_prepare_dataset": True},
        max_length=None,
        completion_only_loss=True,
        average_tokens_across_devices=True,
        dataloader_pin_memory=False,
        disable_tqdm=True,
        report_to="none",
        use_cpu=backbone.device.type == "cpu",
        seed=config.seed,
    )
    collator.world_size = args.world_size
    smallest = min(
        config.num_image_rows, config.num_text_rows or config.num_image_rows, config.micro_batch_size
    )
    if smallest < args.world_size:
        raise PilotageError(
            f"{args.world_size} ranks need that many rows in every micro-batch, the smallest has {smallest}; raise "
            "batch_size or micro_batch_size"
        )
    return StageTrainer(config, backbone, collator, metrics, args, on_step)


class StageTrainer(SFTTrainer):
    """Runs the steps of one stage and writes a line per step to `metrics.jsonl`."""

    def __init__(
        self,
        config: SftConfig,
        backbone: Backbone,
        collator: RowCollator,
        metrics: Path,
        args: SFTConfig,
        on_step: OnStep | None,
    ) -> None:
        self.stage_config = config
        self.metrics_path = metrics
        self.on_step = on_step
        self._began = time.monotonic()
        self._sums = torch.zeros(4, dtype=torch.float64)
        super().__init__(
            model=backbone.model,
            args=args,
            data_collator=collator,
            train_dataset=Dataset.from_dict({"item": range(collator.num_items)}),
            processing_class=backbone.processor,
        )
        # Its default callbacks print every log line.
        from transformers.trainer_callback import PrinterCallback

        self.remove_callback(PrinterCallback)

    def run(self) -> None:
        """Trains to the end, from the last complete checkpoint if there is one."""
        checkpoint = last_checkpoint(Path(self.args.output_dir or ""), self.is_world_process_zero())
        first = int(checkpoint.name.rpartition("-")[2]) if checkpoint else 0
        self._began = time.monotonic() - (self._cut_metrics(first) if self.is_world_process_zero() else 0.0)
        if checkpoint:
            logger.info("going on from step %d", first)
        try:
            self.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
        finally:
            # TRL and accelerate wrap the forward; a copy of a wrapped model would run the original's weights.
            for module in self.model.modules():
                for name in ("forward", "_original_forward"):
                    module.__dict__.pop(name, None)

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        if self.lr_scheduler is None:
            self.lr_scheduler = LambdaLR(
                optimizer or self.optimizer, lambda step: lr_factor(self.stage_config, step)
            )
            self._created_lr_scheduler = True
        return self.lr_scheduler

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        is_image = "pixel_values" in inputs
        num_tokens = int((inputs["labels"][:, 1:] != IGNORED).sum())
        loss = super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        value = loss[0] if return_outputs else loss
        total = num_items_in_batch if num_items_in_batch is not None else num_tokens
        self._sums[0 if is_image else 2] += (
            float(value.detach()) * float(total) / self.accelerator.num_processes
        )
        self._sums[1 if is_image else 3] += num_tokens
        return loss

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        super().log(logs, start_time)
        if "loss" not in logs:
            return
        sums = self.accelerator.reduce(self._sums.to(self.accelerator.device), "sum").tolist()
        self._sums.zero_()
        figures: dict[str, float] = {"loss": (sums[0] + sums[2]) / (sums[1] + sums[3])}
        if sums[1]:
            figures["loss/image"] = sums[0] / sums[1]
        if sums[3]:
            figures["loss/text"] = sums[2] / sums[3]
        figures["lr"] = logs["learning_rate"]
        figures["grad_norm"] = logs["grad_norm"]
        step = self.state.global_step
        if figures["loss"] != figures["loss"] or figures["grad_norm"] != figures["grad_norm"]:
            raise PilotageError(f"the loss or its gradient is not a number at step {step}; lower peak_lr")
        if self.is_world_process_zero():
            line = {"stage": self.stage_config.stage, "step": step}
            line |= {"time_s": round(time.monotonic() - self._began, 3)} | figures
            with self.metrics_path.open("a") as file:
                file.write(json.dumps(line) + "\n")
        if self.on_step is not None:
            self.on_step(step, self.stage_config.steps, figures)

    def _cut_metrics(self, first: int) -> float:
        """Drops this stage's lines after step `first`; returns the time of the last one kept, in seconds."""
        if not self.metrics_path.exists():
            return 0.0
        kept, time_s = [], 0.0
        for text in self.metrics_path.read_text().splitlines():
            try:
                line = json.loads(text)
            except json.JSONDecodeError:  # the kill cut the last line
                continue
            if line.get("stage") == self.stage_config.stage:
                if line["step"] > first:
                    continue
                time_s = line["time_s"]
            kept.append(text + "\n")
        partial = self.metrics_path.with_suffix(".partial")
        partial.write_text("".join(kept))
        os.replace(partial, self.metrics_path)
        return time_s

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        super()._save_checkpoint(model, trial)
        if self.is_world_process_zero():
            folder = Path(self.args.output_dir or "") / f"checkpoint-{self.state.global_step}"
            (folder / COMPLETE).touch()

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """None is written: the page of a run says what was done."""

    def _send_telemetry(self) -> None:
        """None is sent."""


def last_checkpoint(folder: Path, remove_partial: bool) -> Path | None:
    """The newest complete checkpoint; those that a kill left unfinished are removed."""
    found = sorted(folder.glob("checkpoint-*"), key=lambda path: int(path.name.rpartition("-")[2]))
    complete = [path for path in found if (path / COMPLETE).exists()]
    if remove_partial:
        for path in found:
            if path not in complete:
                shutil.rmtree(path)
    return complete[-1] if complete else None

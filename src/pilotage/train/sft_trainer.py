"""TRL's SFTTrainer, fed with ready batches, with exact resumption and our metrics."""

from __future__ import annotations

import logging
import os
import time
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from datasets import Dataset
from torch.optim.lr_scheduler import LambdaLR
from transformers.trainer_callback import PrinterCallback
from transformers.training_args import TrainingArguments
from trl.trainer.sft_config import SFTConfig
from trl.trainer.sft_trainer import SFTTrainer

from pilotage.backbones.load import Backbone
from pilotage.errors import PilotageError
from pilotage.train import checkpoints
from pilotage.train.beginning import ValidatesBeginning
from pilotage.train.movement import MovementWatch
from pilotage.train.optimisers import refuse_sharing, shares_weights, trained, trainer_optimiser
from pilotage.train.settings import check_finite
from pilotage.train.sft_config import OnStep, SftConfig, Validate
from pilotage.train.sft_rows import IGNORED, RowCollator

logger = logging.getLogger(__name__)

RECOMPUTE = next(
    name
    for name in ("activation_checkpointing", "gradient_checkpointing")
    if name in TrainingArguments.__dataclass_fields__
)
"""What transformers calls recomputing activations in the backward; the older name warns where there is a newer."""
MOST_LOGITS = 2**26
"""Above so many logits in a micro-batch (256 MiB), TRL's kernel works through them in chunks."""


def make_trainer(
    config: SftConfig,
    backbone: Backbone,
    collator: RowCollator,
    *,
    run_dir: Path,
    on_step: OnStep | None,
    validate: Validate | None = None,
) -> StageTrainer:
    """The trainer of a run; its checkpoints are in `run_dir/<stage>`."""
    mixture = collator.mixture
    mixture.num_ranks = int(os.environ.get("WORLD_SIZE", "1"))
    for num_rows in filter(None, (config.num_image_rows, config.num_text_rows)):
        if num_rows < mixture.num_ranks * max(1, mixture.num_parts(num_rows)):
            raise PilotageError(
                f"{num_rows} rows of one modality in a step do not give each of {mixture.num_ranks} ranks one in each "
                f"micro-batch; raise batch_size {config.batch_size} or micro_batch_size {config.micro_batch_size}"
            )
    on_cpu = backbone.device.type == "cpu"
    recompute: Any = {RECOMPUTE: config.recomputes(on_gpu=not on_cpu)}
    args = SFTConfig(
        output_dir=str(run_dir / config.stage),
        max_steps=config.steps,
        per_device_train_batch_size=1,  # one item is a whole micro-batch
        gradient_accumulation_steps=mixture.num_micro_batches,
        learning_rate=config.lr,
        weight_decay=config.weight_decay,
        adam_beta1=config.betas[0],
        adam_beta2=config.betas[1],
        max_grad_norm=config.max_grad_norm,
        bf16=config.bf16 or backbone.computes_in is not None,
        save_strategy="steps",
        save_steps=config.checkpoint_every,
        train_sampling_strategy="sequential",
        dataset_kwargs={"skip_prepare_dataset": True},
        max_length=None,
        completion_only_loss=True,
        average_tokens_across_devices=True,
        seed=config.seed,
        logging_steps=1,
        logging_nan_inf_filter=False,
        remove_unused_columns=False,
        dataloader_pin_memory=False,
        disable_tqdm=True,
        report_to="none",
        use_cpu=on_cpu,
        ddp_backend="gloo" if on_cpu and "LOCAL_RANK" in os.environ else None,
        **recompute,
    )
    return StageTrainer(config, backbone, collator, args, run_dir=run_dir, on_step=on_step, validate=validate)


class StageTrainer(checkpoints.WholeCheckpoints, SFTTrainer):
    """Runs the steps of one stage of supervised fine-tuning."""

    model: Any

    def __init__(
        self,
        config: SftConfig,
        backbone: Backbone,
        collator: RowCollator,
        args: SFTConfig,
        *,
        run_dir: Path,
        on_step: OnStep | None,
        validate: Validate | None,
    ) -> None:
        self.stage_config = config
        self.backbone = backbone
        self.run_dir, self.stage_dir = run_dir, run_dir / config.stage
        self.on_step = on_step
        self.validate = validate
        self._began_s = time.monotonic()
        self._had_own_forward = {
            module for module in backbone.model.modules() if "forward" in module.__dict__
        }
        self._sums = torch.zeros(4, dtype=torch.float64)
        """Negative log-likelihood and tokens of the step so far: images, then text."""
        own_numbers = {name: parameter.data for name, parameter in trained(backbone.model).items()}
        super().__init__(
            model=backbone.model,
            args=args,
            data_collator=collator,
            train_dataset=Dataset.from_dict({"item": range(collator.num_items)}),
            processing_class=backbone.processor,
            optimizer_cls_and_kwargs=trainer_optimiser(config.optimiser, lr=config.lr, betas=config.betas),
        )
        # TRL rounds an adapter on 4 bits to bfloat16, where small updates of it would be rounded away.
        for name, parameter in trained(backbone.model).items():
            parameter.data = own_numbers[name].to(parameter.device)
        self.remove_callback(PrinterCallback)
        if validate is not None:
            self.add_callback(ValidatesBeginning(validate, backbone))
        if shares_weights(self.accelerator):
            refuse_sharing(config.optimiser, config.lora)
        # The Trainer reads the model's signature and concludes that it cannot take the number of tokens in a step;
        # it would then average the means of the micro-batches, in which a token of a short row weighs more.
        self.model_accepts_loss_kwargs = True

    def run(self) -> None:
        """Trains to the end, from the last checkpoint if there is one."""
        done, resume = 0, None
        if found := self.checkpoint_to_go_on_from():
            done, resume = found[0], str(found[1])
            logger.info("going on from step %d", done)
        self.add_callback(MovementWatch(self.model, self.stage_config.optimiser))
        self._began_s = time.monotonic()
        if self.is_world_process_zero():
            rows = checkpoints.trim_rows(
                self.run_dir / "metrics.jsonl", stage=self.stage_config.stage, last_step=done
            )
            self._began_s -= rows[-1].get("time_s", 0.0) if rows else 0.0
        try:
            self.train(resume_from_checkpoint=resume)
        finally:
            # TRL and accelerate wrap the forward; a copy of a wrapped model would run the original's weights.
            for module in set(self.model.modules()) - self._had_own_forward:
                for name in ("forward", "_original_forward"):
                    module.__dict__.pop(name, None)

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        if self.lr_scheduler is None:
            self.lr_scheduler = LambdaLR(
                optimizer or self.optimizer,  # pyright: ignore[reportArgumentType]
                self.stage_config.rate_share,
            )
            self._created_lr_scheduler = True
        return self.lr_scheduler

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """The sum of the answers' negative log-likelihoods over the number of answer tokens in the step."""
        active_BS = inputs["labels"][:, 1:] != IGNORED
        num_tokens = int(active_BS.sum())
        assert num_items_in_batch is not None, "the Trainer counts the answer tokens of the step"
        total = int(num_items_in_batch)
        num_logits = num_tokens * self.model.config.get_text_config().vocab_size
        if inputs["labels"].device.type == "cpu" and not return_outputs and num_logits <= MOST_LOGITS:
            # On a CPU, TRL's kernel projects prompt and padding too: a quarter of a small model's step.
            loss = self._sum_over_active(model, inputs, active_BS) / total * self.accelerator.num_processes
        else:
            loss = super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        value = float((loss[0] if return_outputs else loss).detach())
        first = 0 if "pixel_values" in inputs else 2
        self._sums[first] += value * total / self.accelerator.num_processes
        self._sums[first + 1] += num_tokens
        return loss

    def _sum_over_active(self, model: Any, inputs: Any, active_BS: torch.Tensor) -> torch.Tensor:
        """Negative log-likelihood in nats, summed; only the active positions reach the output layer."""

        def keep_active(_: torch.nn.Module, args: tuple[torch.Tensor]) -> tuple[torch.Tensor]:
            return (args[0][:, :-1][active_BS],)

        hook = self.model.get_output_embeddings().register_forward_pre_hook(keep_active)
        try:
            shown = {name: value for name, value in inputs.items() if name != "labels"}
            logits_MV = model(**shown, use_cache=False).logits
        finally:
            hook.remove()
        return F.cross_entropy(logits_MV.float(), inputs["labels"][:, 1:][active_BS], reduction="sum")

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        super().log(logs, start_time)
        if "loss" not in logs:
            return
        total: Any = self.accelerator.reduce(self._sums.to(self.accelerator.device), "sum")
        sums = total.tolist()
        self._sums.zero_()
        figures = {"time_s": time.monotonic() - self._began_s}
        figures["loss"] = (sums[0] + sums[2]) / (sums[1] + sums[3])
        if sums[1]:
            figures["loss/image"] = sums[0] / sums[1]
        if sums[3]:
            figures["loss/text"] = sums[2] / sums[3]
        figures["lr"] = logs["learning_rate"]
        figures["grad_norm"] = logs["grad_norm"]
        step = self.state.global_step
        check_finite(figures["loss"], figures["grad_norm"], step=step)
        if self.is_world_process_zero():
            row = {"stage": self.stage_config.stage, "step": step} | figures
            checkpoints.append_row(self.run_dir / "metrics.jsonl", row)
        if self.validate is not None:
            self.validate(self.backbone, step, figures["time_s"])
        if self.on_step is not None:
            self.on_step(step, self.stage_config.steps, figures)

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """None is written: the page of a run says what was done."""

    def _send_telemetry(self) -> None:
        """None is sent."""

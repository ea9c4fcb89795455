"""On-policy distillation as one `transformers.Trainer`: the student writes, the teacher reads with more to go on.

Each optimiser step samples rollouts from the student's view, scores the same ids under the teacher's view with the
teacher's weights, and lowers the divergence on the rollouts' tokens. Which method it is, the configuration says.

M response tokens of a micro-batch, B its rows, H hidden.
"""

from __future__ import annotations

import copy
import logging
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate.utils import gather_object
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader
from transformers import PrinterCallback, Trainer

from pilotage.backbones.encode import EncodedResponses
from pilotage.backbones.load import Backbone, load_backbone
from pilotage.distill.align import predicting_positions, response_tokens, split_rows
from pilotage.distill.estimators import TokenLoss
from pilotage.distill.reduce import count_step, global_counts, row_weights
from pilotage.errors import PilotageError
from pilotage.records import Example, Rollout
from pilotage.rollouts.engine import RolloutEngine
from pilotage.rollouts.transformers_engine import TransformersEngine
from pilotage.train import checkpoints
from pilotage.train.distill_config import AdapterOff, DistillConfig, FrozenCopy, as_settings, lr_share
from pilotage.train.distill_order import ExampleOrder
from pilotage.train.distill_scoring import (
    can_share_prefix,
    encode_rollouts,
    head_of,
    micro_batches,
    predicting_states,
    score_rows,
    take_rows,
)
from pilotage.train.distill_setup import (
    checkpoint_activations,
    example_digest,
    fingerprint,
    gathered_weights,
    memory_estimate,
    save_whole,
    training_arguments,
)
from pilotage.train.monitors import RowRecord, SpanFinder, row_record, step_metrics
from pilotage.views import VIEWS

logger = logging.getLogger(__name__)

OnStep = Callable[[dict[str, Any]], None]
"""Called with each step's row of `metrics.jsonl`, on the first rank."""


def distill(
    config: DistillConfig,
    *,
    student: Backbone,
    examples: Sequence[Example],
    run_dir: Path,
    teacher: Backbone | None = None,
    engine: RolloutEngine | None = None,
    on_step: OnStep | None = None,
) -> Path:
    """Trains the student (its weights in memory too) and returns the directory of the trained model.

    Called again after a kill, with the same arguments and the student as it was at first, it goes on from the last
    checkpoint and ends in the same weights. It trains where the student is, on the ranks that torchrun or accelerate
    started; the loss is that of one rank. `teacher` stands in for what `FrozenCopy` names; `engine` defaults to
    decoding with the student's own model. Writes `metrics.jsonl`, `rollouts.jsonl` and the folder of the stage.
    """
    trainer = DistillTrainer(
        config,
        student=student,
        teacher=teacher,
        examples=examples,
        engine=engine,
        run_dir=Path(run_dir),
        on_step=on_step,
    )
    return trainer.run()


@dataclass(frozen=True, kw_only=True)
class _StepRow:
    """One rollout of the step on this rank."""

    slot: int
    example: Example
    rollout: Rollout
    asks_perception: bool = False


class DistillTrainer(checkpoints.WholeCheckpoints, Trainer):
    """`transformers.Trainer` whose training step is a whole on-policy step; see `distill` for the arguments."""

    def __init__(
        self,
        config: DistillConfig,
        *,
        student: Backbone,
        examples: Sequence[Example],
        run_dir: Path,
        teacher: Backbone | None = None,
        engine: RolloutEngine | None = None,
        on_step: OnStep | None = None,
    ) -> None:
        self.config = config
        self.student = student
        self.run_dir = run_dir
        self.stage_dir = run_dir / config.stage
        self.on_step = on_step
        self.order = ExampleOrder(examples, prompts_per_step=config.prompts_per_step, seed=config.seed)
        self._settings = as_settings(config) | {
            "student": fingerprint(student),
            "examples": example_digest(examples),
            "teacher": None if teacher is None else fingerprint(teacher),
        }
        self._spans = SpanFinder(student)
        self._metrics: dict[str, Any] = {}
        self._time_before_s, self._began_s = 0.0, time.monotonic()
        self.num_checkpoints = config.num_checkpoints
        super().__init__(
            model=student.model, args=training_arguments(config, self.stage_dir, student), train_dataset=None
        )
        self.remove_callback(PrinterCallback)
        if self.order.prompts_per_step % self.args.world_size:
            self.order.slots(0, num_ranks=self.args.world_size)
        if self.is_deepspeed_enabled and self._rows_per_rank() > config.micro_batch_size:
            raise PilotageError(
                f"DeepSpeed updates after every backward, so a step must be one micro-batch: set micro_batch_size to "
                f"{self._rows_per_rank()}"
            )
        self.teacher = self._frozen_teacher(teacher)
        self.engine = engine or TransformersEngine(
            student, batch_size=max(64, config.micro_batch_size), max_prompt_tokens=config.max_prompt_tokens
        )
        if config.gradient_checkpointing:
            checkpoint_activations(student.model)

    def _rows_per_rank(self) -> int:
        return self.config.prompts_per_step * self.config.samples_per_prompt // self.args.world_size

    # -- the run ------------------------------------------------------------------------------------------------------

    def run(self) -> Path:
        """Trains from the last checkpoint, or from the start, to the end; returns the model's directory."""
        metrics_path, rollouts_path = self.run_dir / "metrics.jsonl", self.run_dir / "rollouts.jsonl"
        done, resume = 0, None
        if self.is_world_process_zero():
            checkpoints.claim(self.stage_dir, self._settings)
        self.accelerator.wait_for_everyone()
        if kept := checkpoints.checkpoints(self.stage_dir):
            done, resume = kept[-1][0], str(kept[-1][1])
            logger.info("going on from step %d", done)
        if self.is_world_process_zero():
            rows = checkpoints.trim_rows(metrics_path, stage=self.config.stage, last_step=done)
            checkpoints.trim_rows(rollouts_path, stage=self.config.stage, last_step=done)
            self._time_before_s = rows[-1]["time_s"] if rows else 0.0
            parts = memory_estimate(self.config, self.student, self.teacher)
            told = ", ".join(f"{name} {size / 2**30:.2f}" for name, size in parts.items())
            logger.info("memory on each rank, about, in GiB: %s", told)
        self._began_s = time.monotonic()
        model_dir = self.stage_dir / "model"
        self.train(resume_from_checkpoint=resume)
        self.student.model.eval()
        self._save_student(model_dir)
        return model_dir

    def _save_student(self, directory: Path) -> None:
        weights = gathered_weights(self.student.model)
        if self.is_world_process_zero():
            save_whole(self.student, directory, state_dict=weights)
        self.accelerator.wait_for_everyone()

    def get_train_dataloader(self) -> DataLoader:
        """Numbers of the steps that are left: examples follow from them (`ExampleOrder`)."""
        return DataLoader(
            range(self.config.steps),  # pyright: ignore[reportArgumentType]
            batch_size=None,
            sampler=_StepsLeft(self),
            collate_fn=lambda step: {"step": step},
            # Its own generator: the global one must stand where the checkpoint left it.
            generator=torch.Generator(),
        )

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> LambdaLR:
        if self.lr_scheduler is None:
            self.lr_scheduler = LambdaLR(
                optimizer or self.optimizer,  # pyright: ignore[reportArgumentType]
                lambda step: lr_share(self.config, step),
            )
            self._created_lr_scheduler = True
        return self.lr_scheduler  # pyright: ignore[reportReturnType]

    def floating_point_ops(self, inputs: Any) -> int:
        return 0

    # -- one step -----------------------------------------------------------------------------------------------------

    def training_step(self, model: Any, inputs: dict[str, Any], num_items_in_batch: Any = None) -> Tensor:
        """Rollouts, the teacher's scores, the student's gradients: everything of a step but the update."""
        step = inputs["step"]
        assert step == self.state.global_step, "the loader and the optimiser count the same steps"
        torch.manual_seed(_mixed(self.config.seed, step, self.args.process_index))
        clock = _Clock()
        rows = self._sample(step)
        clock.mark("time/rollout_s")
        teacher_states = self._score_by_teacher(rows)
        clock.mark("time/teacher_s")
        records = self._learn(model, rows, teacher_states, step)
        clock.mark("time/student_s")
        everyone = gather_object(records) if self.args.world_size > 1 else records
        self._metrics = step_metrics(everyone) | clock.seconds
        self._write_rollouts(rows, records, step + 1)
        return torch.tensor(self._metrics["loss"], device=self.args.device)

    def _sample(self, step: int) -> list[_StepRow]:
        config = self.config
        slots = self.order.slots(step, rank=self.args.process_index, num_ranks=self.args.world_size)
        asks_perception = [self.order.is_drawn(step, slot.index, config.perception_share) for slot in slots]
        with self._autocast():
            rollouts = self.engine.generate(
                [
                    VIEWS["perception" if asked else "student"](slot.example, config.prompts)
                    for slot, asked in zip(slots, asks_perception, strict=True)
                ],
                example_ids=[slot.example.id for slot in slots],
                max_new_tokens=config.max_new_tokens,
                temperature=config.temperature,
                top_p=config.top_p,
                top_k=config.top_k,
                seed=_mixed(config.seed, step),
                num_return=config.samples_per_prompt,
            )
        num = config.samples_per_prompt
        return [
            _StepRow(
                slot=slot.index * num + sample,
                example=slot.example,
                rollout=rollouts[place * num + sample],
                asks_perception=asks_perception[place],
            )
            for place, slot in enumerate(slots)
            for sample in range(num)
        ]

    def _encode(
        self, reader: Backbone, planning_view: str, perception_view: str, rows: Sequence[_StepRow]
    ) -> EncodedResponses:
        return encode_rollouts(
            reader,
            [
                VIEWS[perception_view if row.asks_perception else planning_view](
                    row.example, self.config.prompts
                )
                for row in rows
            ],
            [row.rollout for row in rows],
            max_prompt_tokens=self.config.max_prompt_tokens,
            pad_to_multiple=self.config.pad_to_multiple,
        )

    def _score_by_teacher(self, rows: Sequence[_StepRow]) -> list[Tensor]:
        """Each row's predicting states under the teacher's view [T, H]."""
        reader = self.teacher
        planning_view = self.config.teacher_view
        perception_view = "perception" if planning_view == "student" else "description"
        encoded = self._encode(reader, planning_view, perception_view, rows)
        was_training = reader.model.training
        reader.model.eval()
        with self._teaching(), self._autocast():
            states = score_rows(
                reader.model,
                encoded,
                batch_size=self.config.teacher_batch_size or self.config.micro_batch_size,
                pad_to_multiple=self.config.pad_to_multiple,
                share_prefix=self._can_share_prefix(reader.model),
            )
        reader.model.train(was_training)
        return states

    def _learn(
        self, model: Any, rows: Sequence[_StepRow], teacher_states: Sequence[Tensor], step: int
    ) -> list[RowRecord]:
        """Adds the step's gradients to the student's parameters and returns one record per row."""
        model.train()
        row_weights = self._row_weights(rows)
        encoded = self._encode(self.student, "student", "perception", rows)
        if self.config.pixel_noise:
            self._add_noise(encoded, rows, step)
        batches = micro_batches(encoded, self.config.micro_batch_size)
        share_prefix = self._can_share_prefix(self.student.model)
        records: list[RowRecord] = []
        for number, chosen in enumerate(batches):
            batch = take_rows(encoded, chosen, pad_to_multiple=self.config.pad_to_multiple)
            last = number == len(batches) - 1
            with nullcontext() if last else self.accelerator.no_sync(model):
                with self._autocast():
                    hidden_MH = predicting_states(
                        model,
                        self.student.model,
                        batch,
                        share_prefix=share_prefix,
                        pad_to_multiple=self.config.pad_to_multiple,
                    )
                weights_B = torch.tensor([row_weights[row] for row in chosen], device=hidden_MH.device)
                loss = self._token_loss(
                    batch, hidden_MH, torch.cat([teacher_states[row] for row in chosen]), weights_B
                )
                # Ranks average their gradients; the weights already divide by the counts of all ranks.
                self.accelerator.backward(loss.value_M.sum() * self.args.world_size)
            records += self._records([rows[row] for row in chosen], batch, loss)
        return records

    def _token_loss(
        self, batch: EncodedResponses, hidden_MH: Tensor, teacher_MH: Tensor, weights_B: Tensor
    ) -> TokenLoss:
        rows_M, _ = predicting_positions(batch["response_mask"])
        return self.config.estimator(
            student=head_of(self.student.model, hidden_MH),
            teacher=head_of(self.teacher.model, teacher_MH.to(hidden_MH.dtype)),
            token_ids_M=response_tokens(batch["inputs"]["input_ids"], batch["response_mask"]),
            weight_M=weights_B[rows_M],
        )

    def _can_share_prefix(self, model: Any) -> bool:
        return not (self.is_fsdp_enabled or self.is_deepspeed_enabled) and can_share_prefix(model)

    def _row_weights(self, rows: Sequence[_StepRow]) -> list[float]:
        """What each token of a row weighs in the loss: the one division by the step's counts, over all ranks."""
        num_tokens_R = [len(row.rollout.token_ids) for row in rows]
        tasks_R = [row.example.task for row in rows]
        own = count_step(num_tokens_R, tasks_R, task_names=self.order.tasks)
        counts = global_counts(own, self._sum_over_ranks) if self.args.world_size > 1 else own
        return row_weights(self.config.reduction, num_tokens_R, tasks_R, counts)

    def _sum_over_ranks(self, values: Tensor) -> Tensor:
        summed: Any = self.accelerator.reduce(values.to(self.args.device), reduction="sum")
        return summed.cpu()

    def _records(self, rows: Sequence[_StepRow], batch: EncodedResponses, loss: TokenLoss) -> list[RowRecord]:
        lengths = batch["response_lengths"].cpu()

        def by_row(values_M: Tensor) -> list[Any]:
            return [part.numpy() for part in split_rows(values_M.detach().double().cpu(), lengths)]

        values, nats, entropies = by_row(loss.value_M), by_row(loss.divergence_M), by_row(loss.entropy_M)
        capped = by_row(loss.capped_M)
        agreed = [None] * len(rows) if loss.agreement_M is None else by_row(loss.agreement_M)
        return [
            row_record(
                row.example,
                row.rollout,
                slot=row.slot,
                owners=None if row.asks_perception else self._spans.owners(row.rollout.token_ids),
                loss_T=values[place],
                nats_T=nats[place],
                entropy_T=entropies[place],
                capped_T=capped[place],
                agreed_T=agreed[place],
            )
            for place, row in enumerate(rows)
        ]

    def _add_noise(self, encoded: EncodedResponses, rows: Sequence[_StepRow], step: int) -> None:
        inputs = encoded["inputs"]
        assert "pixel_values" in inputs and "image_grid_thw" in inputs, "the student's views have pictures"
        counts = inputs["image_grid_thw"].prod(-1).tolist()
        for row, patches_PF in zip(rows, torch.split(inputs["pixel_values"], counts), strict=True):
            rng = np.random.default_rng([self.config.seed, step, row.slot, 1])
            noise = torch.from_numpy(rng.standard_normal(tuple(patches_PF.shape), dtype=np.float32))
            patches_PF.add_(noise.to(patches_PF), alpha=self.config.pixel_noise)

    # -- the teacher --------------------------------------------------------------------------------------------------

    def _frozen_teacher(self, given: Backbone | None) -> Backbone:
        weights = self.config.teacher_weights
        if isinstance(weights, AdapterOff):
            if not hasattr(self.student.model, "disable_adapter"):
                raise PilotageError(
                    f"AdapterOff needs a student with a LoRA adapter, and {self.student.name} has none; load it with "
                    "lora=LoraSettings(...), or use FrozenCopy()"
                )
            return self.student
        if given is not None:
            frozen = given
        elif weights.source is not None:
            frozen = load_backbone(
                weights.source,
                dtype=self.student.model.dtype,
                attn_implementation=self.student.model.config._attn_implementation,
                device=self.student.device,
            )
        else:
            frozen = replace(self.student, model=copy.deepcopy(self.student.model))
        if len(frozen.tokenizer) != len(self.student.tokenizer) or frozen.eos_ids != self.student.eos_ids:
            raise PilotageError(
                f"teacher {frozen.name} and student {self.student.name} do not share a tokenizer: rollouts are scored "
                "id by id"
            )
        frozen.model.to(self.args.device).eval().requires_grad_(False)
        return frozen

    def _teaching(self) -> AbstractContextManager[Any]:
        if isinstance(self.config.teacher_weights, FrozenCopy):
            return nullcontext()
        return self.student.model.disable_adapter()

    def _autocast(self) -> AbstractContextManager[Any]:
        return torch.autocast(self.args.device.type, dtype=torch.bfloat16, enabled=self.config.bf16)

    # -- files --------------------------------------------------------------------------------------------------------

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Completes the step's row and writes it; the Trainer calls this before it saves a checkpoint."""
        super().log(logs, start_time)
        if "loss" not in logs or not self.is_world_process_zero():
            return
        row = {"stage": self.config.stage, "step": self.state.global_step}
        row |= {"time_s": self._time_before_s + time.monotonic() - self._began_s}
        row |= self._metrics | {"lr": logs["learning_rate"], "grad_norm": logs["grad_norm"]}
        checkpoints.append_row(self.run_dir / "metrics.jsonl", row)
        if self.on_step is not None:
            self.on_step(row)

    def _write_rollouts(self, rows: Sequence[_StepRow], records: Sequence[RowRecord], step: int) -> None:
        every = self.config.rollouts_every
        if not every or (step % every and step != 1) or not self.is_world_process_zero():
            return
        record_of = {record.slot: record for record in records}
        for row in rows[: self.config.num_kept_rollouts]:
            record = record_of[row.slot]
            checkpoints.append_row(
                self.run_dir / "rollouts.jsonl",
                {
                    "stage": self.config.stage,
                    "step": step,
                    "id": row.example.id,
                    "task": row.example.task,
                    "level": row.example.level,
                    "response": row.rollout.text,
                    "finished": row.rollout.finished,
                    "num_tokens": record.num_tokens,
                    "kl_nats": record.kl_nats["all"] / max(record.num_tokens, 1),
                    "verdict": record.verdict.as_dict() if record.verdict is not None else None,
                    "described": record.described,
                },
            )


class _StepsLeft(torch.utils.data.Sampler[int]):
    """Step numbers from the one that the Trainer's state stands at."""

    def __init__(self, trainer: DistillTrainer) -> None:
        self.trainer = trainer

    def __iter__(self) -> Any:
        return iter(range(self.trainer.state.global_step, self.trainer.config.steps))

    def __len__(self) -> int:
        return self.trainer.config.steps


class _Clock:
    """Seconds between marks."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._last_s = time.perf_counter()

    def mark(self, name: str) -> None:
        now_s = time.perf_counter()
        self.seconds[name] = now_s - self._last_s
        self._last_s = now_s


def _mixed(*numbers: int) -> int:
    """One 63-bit seed from several numbers."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> np.uint64(1))

"""On-policy distillation as one `transformers.Trainer`: the student writes, the teacher reads with more to go on.

Each optimiser step samples rollouts, decides which route teaches which of their tokens, scores the same ids under the
routes' views with their teachers' weights, and lowers the divergences on those tokens. Which method it is, the
configuration says.

N response tokens of a micro-batch, H hidden.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate.utils import gather_object
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader
from transformers import PrinterCallback, Trainer, TrainerCallback

from pilotage.backbones.encode import EncodedResponses, images_of_rows
from pilotage.backbones.load import Backbone, is_sharded
from pilotage.distill.align import response_tokens
from pilotage.distill.route_loss import RoutedLoss, routed_loss
from pilotage.distill.routes import RoutedRow
from pilotage.errors import PilotageError
from pilotage.files import clear_partial
from pilotage.records import Example
from pilotage.rollouts.engine import Engine
from pilotage.rollouts.engines import EngineSettings, InProcess
from pilotage.rollouts.play import Open, open_in_process
from pilotage.train import checkpoints
from pilotage.train.answer_leak import leak_meter
from pilotage.train.beginning import ValidatesBeginning
from pilotage.train.collapse import CollapseGuard, CollapseWatch
from pilotage.train.distill_config import DistillConfig, as_settings
from pilotage.train.distill_setup import (
    check_sharing,
    checkpoint_activations,
    example_digest,
    fingerprint,
    save_whole,
    training_arguments,
)
from pilotage.train.memory import gib, stage_memory
from pilotage.train.movement import MovementWatch, expects_rounding
from pilotage.train.optimisers import prepared, refuse_sharing, settle, shares_weights, trainer_optimiser
from pilotage.train.seeds import mixed
from pilotage.train.settings import check_finite
from pilotage.train.sft_config import OnBegin, Validate
from pilotage.train.step.monitors import RowRecord, SpanFinder, row_record, step_metrics, taught_by_row
from pilotage.train.step.order import ExampleOrder
from pilotage.train.step.routes import RoutedStep, StepFacts, StepRouter, nothing_routed
from pilotage.train.step.rows import RolloutMaker, StepRow
from pilotage.train.step.scores import RowScores, StepScorer
from pilotage.train.step.scoring import (
    can_share_prefix,
    encode_in_batches,
    head_of,
    predicting_states,
    take_rows,
)
from pilotage.train.step.teacher_models import TeacherModel, TeacherModels, check_sharded
from pilotage.views.variants import OtherImages
from pilotage.worlds import get_world, world_names

logger = logging.getLogger(__name__)

WATCH = "collapse.json"
"""File of a checkpoint: the figures that a collapse is judged by."""

NUM_LOOKED_AT = 24
"""Examples of each task whose lengths the log's figures of memory are told by."""

OnStep = Callable[[dict[str, Any]], None]
"""Called with each step's row of `metrics.jsonl`, on the first rank."""


def distill(
    config: DistillConfig,
    *,
    student: Backbone,
    examples: Sequence[Example],
    run_dir: Path,
    teacher: Backbone | None = None,
    engine: Engine | None = None,
    answers: EngineSettings | None = None,
    open_session: Open = open_in_process,
    on_step: OnStep | None = None,
    on_begin: OnBegin | None = None,
    validate: Validate | None = None,
) -> Path:
    """Trains the student (its weights in memory too) and returns the directory of the trained model.

    Called again after a kill, with the same arguments and the student as it was at first, it goes on from the last
    checkpoint and ends in the same weights. It trains where the student is, on the ranks that torchrun or accelerate
    started; the loss is that of one rank. `teacher` stands in for what `FrozenCopy` names; `answers` says what the
    student answers in, by default its own model, and `engine` is one that is there already; `open_session` opens the
    sessions of its episodes (`pilotage.rollouts.sessions`); `on_begin` is called once nothing can be refused, before
    the first step; `validate` on every rank, between steps.
    Writes `metrics.jsonl`, `rollouts.jsonl` and the folder of the stage.
    """
    student = prepared(student, config.optimiser, config.lora, seed=config.seed)
    trainer = DistillTrainer(
        config,
        student=student,
        teacher=teacher,
        examples=examples,
        engine=engine,
        answers=answers,
        open_session=open_session,
        run_dir=Path(run_dir),
        on_step=on_step,
        validate=validate,
    )
    return trainer.run(on_begin)


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
        engine: Engine | None = None,
        answers: EngineSettings | None = None,
        open_session: Open = open_in_process,
        on_step: OnStep | None = None,
        validate: Validate | None = None,
    ) -> None:
        self.config = config
        self.student = student
        self.run_dir = run_dir
        self.stage_dir = run_dir / config.stage
        self.on_step = on_step
        self.validate = validate
        self.order = ExampleOrder(examples, prompts_per_step=config.prompts_per_step, seed=config.seed)
        # What ends a run early does not shape it: a stopped run may go on under another guard.
        self._settings = as_settings(replace(config, collapse=CollapseGuard())) | {
            "student": fingerprint(student),
            "examples": example_digest(examples),
            "teacher": None if teacher is None else fingerprint(teacher),
        }
        if student.computes_in is not None:
            self._settings["masters"] = "float32"
        self._metrics: dict[str, Any] = {}
        self._time_before_s, self._began_s = 0.0, time.monotonic()
        self.num_checkpoints = config.num_checkpoints
        super().__init__(
            model=student.model,
            args=training_arguments(config, self.stage_dir, student),
            train_dataset=None,
            optimizer_cls_and_kwargs=trainer_optimiser(config.optimiser, lr=config.lr, betas=config.betas),
        )
        self.remove_callback(PrinterCallback)
        check_sharing(self.accelerator)
        if shares_weights(self.accelerator):
            refuse_sharing(config.optimiser, config.lora)
        if self.order.prompts_per_step % self.args.world_size:
            self.order.slots(0, num_ranks=self.args.world_size)
        self._check_deepspeed(self._rows_per_rank())
        self.teachers = TeacherModels(config, student=student, given=teacher, device=self.args.device)
        answers = answers or InProcess(batch_size=max(64, config.micro_batch_size))
        self.engine = engine or answers.open(student, max_prompt_tokens=config.max_prompt_tokens)
        self.rollouts = RolloutMaker(
            config,
            student=student,
            engine=self.engine,
            teachers=self.teachers,
            autocast=self._autocast,
            open_session=open_session,
        )
        self.router = StepRouter(config, spans=SpanFinder(student), tasks=self.order.tasks)
        self.scorer = StepScorer(
            config,
            teachers=self.teachers,
            router=self.router,
            others=OtherImages(examples),
            autocast=self._autocast,
            can_share_prefix=self._can_share_prefix,
        )
        self.leak_meter = None
        if config.palr_every:
            self.leak_meter = leak_meter(
                config,
                student=student,
                teachers=self.teachers,
                examples=examples,
                num_examples=config.palr_examples,
                num_wrong=config.palr_wrong_answers,
                engine=self.engine,
                autocast=self._autocast,
                share_prefix=self._can_share_prefix,
            )
        self.watch = CollapseWatch(config.collapse)
        self.add_callback(_AfterStep(self))
        self.add_callback(MovementWatch(student.model, config.optimiser))
        if validate is not None:
            self.add_callback(ValidatesBeginning(validate, student))
        for note in config.notes():
            logger.info("%s", note)
        if config.gradient_checkpointing:
            checkpoint_activations(student.model)

    @property
    def teacher(self) -> Backbone:
        """The teacher of the first route that has one."""
        return next(
            self.teachers[route.weights] for route in self.router.routes if route.has_teacher
        ).backbone

    def _rows_per_rank(self) -> int:
        return self.config.prompts_per_step * self.config.sources.max_samples // self.args.world_size

    def _check_deepspeed(self, num_rows: int) -> None:
        if self.is_deepspeed_enabled and num_rows > self.config.micro_batch_size:
            raise PilotageError(
                f"DeepSpeed updates after every backward, so a step must be one micro-batch: set micro_batch_size to "
                f"{num_rows}"
            )

    # -- the run ------------------------------------------------------------------------------------------------------

    def run(self, on_begin: OnBegin | None = None) -> Path:
        """Trains from the last checkpoint, or from the start, to the end; returns the model's directory."""
        with checkpoints.training_in(self.run_dir, is_first=self.is_world_process_zero()):
            return self._run(on_begin)

    def _run(self, on_begin: OnBegin | None) -> Path:
        metrics_path, rollouts_path = self.run_dir / "metrics.jsonl", self.run_dir / "rollouts.jsonl"
        done, resume = 0, None
        if self.is_world_process_zero():
            checkpoints.claim(self.stage_dir, self._settings)
            if on_begin is not None:
                on_begin()
            if warning := expects_rounding(self.student.model, self.config.lr, self.config.optimiser):
                logger.warning("%s", warning)
        self.accelerator.wait_for_everyone()
        if found := self.checkpoint_to_go_on_from():
            done, resume = found[0], str(found[1])
            logger.info("going on from step %d", done)
        if self.is_world_process_zero():
            rows = checkpoints.trim_rows(metrics_path, stage=self.config.stage, last_step=done)
            checkpoints.trim_rows(rollouts_path, stage=self.config.stage, last_step=done)
            self._time_before_s = rows[-1].get("time_s", 0.0) if rows else 0.0
            self._log_memory()
        if resume is not None:
            self.teachers.load(Path(resume))
            if (watch := Path(resume) / WATCH).exists():
                self.watch.load(json.loads(watch.read_text()))
        self._began_s = time.monotonic()
        model_dir = self.stage_dir / "model"
        self.train(resume_from_checkpoint=resume)
        settle(self.student.model, self.config.optimiser, self.optimizer)
        self.student.model.eval()
        self._save_student(model_dir)
        return model_dir

    def _log_memory(self) -> None:
        examples = [one for of_task in self.order.examples_of.values() for one in of_task[:NUM_LOOKED_AT]]
        try:
            memory = stage_memory(
                self.config,
                self.student,
                self.teachers.backbones,
                examples,
                on_gpu=self.student.device.type != "cpu",
                engine_rows=getattr(self.engine, "batch_size", 1),
                engine_weights=not hasattr(self.engine, "backbone"),
            )
        except (PilotageError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
            # A view that the examples' beginnings do not have, or a family whose layers say nothing that is known: what
            # is told beside a run must not end it.
            logger.info("memory is not estimated: %s: %s", type(error).__name__, error)
            return
        parts = ", ".join(f"{name} {gib(size):.2f}" for name, size in memory.parts.items())
        logger.info("memory on each rank, about, in GiB: %s, together %.2f", parts, gib(memory.together))

    def _save_student(self, directory: Path) -> None:
        save_whole(self.student, directory, writes=self.is_world_process_zero())
        if self.is_world_process_zero():
            clear_partial(self.stage_dir)
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
                self.config.rate_share,
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
        if is_sharded(self.student.model):
            check_sharded(self.config)
        torch.manual_seed(mixed(self.config.seed, step, self.args.process_index))
        self.teachers.begin_step()
        clock = _Clock()
        rows = self._sample(step)
        clock.mark("time/rollout_s")
        signals = self.scorer.signals(TeacherModel(self.student), rows)
        facts = [self.router.facts(row, known) for row, known in zip(rows, signals, strict=True)]
        step_routes = self.router.route(rows, facts, self._sum_over_ranks)
        scores = self.scorer.scores(rows, facts, step_routes.routed, step=step, all_sum=self._sum_over_ranks)
        clock.mark("time/teacher_s")
        records = self._learn(model, rows, facts, step_routes, scores, step)
        clock.mark("time/student_s")
        everyone = gather_object(records) if self.args.world_size > 1 else records
        with_reward = self.config.mix is not None and bool(self.config.mix.reward)
        if not everyone:
            logger.warning("step %d: the worlds broke off every episode; nothing is taught", step + 1)
        self._metrics = step_metrics(everyone, with_reward=with_reward) | clock.seconds
        if num_failed := float(self._sum_over_ranks(torch.tensor(float(self.rollouts.num_failed)))):
            self._metrics["episode/world_failed"] = num_failed
        if self.leak_meter is not None and step % self.config.palr_every == 0:
            self._metrics |= self.leak_meter.measure().as_dict()
        self._write_rollouts(rows, records, step + 1)
        return torch.tensor(self._metrics["loss"], device=self.args.device)

    def _sample(self, step: int) -> list[StepRow]:
        slots = self.order.slots(step, rank=self.args.process_index, num_ranks=self.args.world_size)
        share = self.config.perception_share
        return self.rollouts.rows(
            step, slots, [self.order.is_drawn(step, slot.index, share) for slot in slots]
        )

    def _learn(
        self,
        model: Any,
        rows: Sequence[StepRow],
        facts: Sequence[StepFacts],
        step_routes: RoutedStep,
        scores: Mapping[str, RowScores],
        step: int,
    ) -> list[RowRecord]:
        """Adds the step's gradients to the student's parameters and returns one record per row."""
        model.train()
        if not rows and self.args.world_size == 1:
            return []
        # Ranks play episodes of their own lengths, and meet in each forward or at the last backward: who has no more
        # rows goes on with one that stands for nothing.
        encoded, batches = encode_in_batches(
            self.student,
            [row.view for row in rows],
            [row.rollout for row in rows],
            batch_size=self.config.micro_batch_size,
            max_prompt_tokens=self.config.max_prompt_tokens,
            pad_to_multiple=self.config.pad_to_multiple,
            together=self.args.world_size > 1,
        )
        self._check_deepspeed(len(batches) * self.config.micro_batch_size)
        if self.config.pixel_noise and batches:
            self._add_noise(encoded, rows, step)
        share_prefix = self._can_share_prefix(self.student.model)
        records: list[RowRecord] = []
        for number, chosen in enumerate(batches):
            batch = take_rows(encoded, chosen, pad_to_multiple=self.config.pad_to_multiple)
            own = [row for row in chosen if row < len(rows)]
            last = number == len(batches) - 1
            with nullcontext() if last else self.accelerator.no_sync(model):
                with self._autocast():
                    hidden_NH = predicting_states(
                        model,
                        self.student.model,
                        batch,
                        share_prefix=share_prefix,
                        pad_to_multiple=self.config.pad_to_multiple,
                    )
                routed, row_weights = step_routes.of_rows(own)
                if len(own) < len(chosen):
                    routed = {name: [*of_route, nothing_routed(1)] for name, of_route in routed.items()}
                    row_weights = {name: [*of_route, 0.0] for name, of_route in row_weights.items()}
                loss = routed_loss(
                    self.router,
                    routed,
                    row_weights,
                    student=head_of(self.student.model, hidden_NH).first(self.teachers.num_entries),
                    teachers={name: score.of_rows(own, hidden_NH) for name, score in scores.items()},
                    token_ids_N=response_tokens(batch["inputs"]["input_ids"], batch["response_mask"]),
                )
                # Ranks average their gradients; the weights already divide by the counts of all ranks.
                self.accelerator.backward(loss.total * self.args.world_size)
            records += self._records([(rows[row], facts[row]) for row in own], routed, loss)
        return records

    def _can_share_prefix(self, model: Any) -> bool:
        return not (self.is_fsdp_enabled or self.is_deepspeed_enabled) and can_share_prefix(model)

    def _sum_over_ranks(self, values: Tensor) -> Tensor:
        if self.args.world_size == 1:
            return values
        summed: Any = self.accelerator.reduce(values.to(self.args.device), reduction="sum")
        return summed.cpu()

    def _records(
        self,
        rows: Sequence[tuple[StepRow, StepFacts]],
        routed: Mapping[str, Sequence[RoutedRow]],
        loss: RoutedLoss,
    ) -> list[RowRecord]:
        taught = {name: taught_by_row(loss.by_route[name], of_route) for name, of_route in routed.items()}
        return [
            row_record(
                row.example,
                row.rollout,
                slot=row.slot,
                origin=row.origin,
                is_own=row.source.origin == "student",
                spans=known.spans,
                role=row.turn.role,
                prompt=row.prompt,
                sample=row.episode.sample,
                number=row.number,
                num_turns=len(row.episode.turns),
                credit=known.reward,
                is_last=row.is_last,
                outcome=known.outcome,
                taught={route.name: taught[route.name][place] for route in self.router.router_of(row).routes},
                content_T=self.router.spans.holds_content(row.rollout.token_ids, _actions_of(row.example)),
            )
            for place, (row, known) in enumerate(rows)
        ]

    def _add_noise(self, encoded: EncodedResponses, rows: Sequence[StepRow], step: int) -> None:
        for row, patches_PF in zip(rows, images_of_rows(encoded), strict=False):
            rng = np.random.default_rng([self.config.seed, step, row.slot, 1])
            noise = torch.from_numpy(rng.standard_normal(tuple(patches_PF.shape), dtype=np.float32))
            patches_PF.add_(noise.to(patches_PF), alpha=self.config.pixel_noise)

    def after_update(self, step: int) -> None:
        """Called when the optimiser has made the update of a step, counted from 1."""
        self._metrics |= self.teachers.after_step(self.student.model, step, self._metrics)
        self._metrics |= self.watch.after_step(step, self._metrics)

    def _autocast(self) -> AbstractContextManager[Any]:
        enabled = self.config.bf16 or self.student.computes_in is not None
        return torch.autocast(self.args.device.type, dtype=torch.bfloat16, enabled=enabled)

    # -- files --------------------------------------------------------------------------------------------------------

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Completes the step's row and writes it; the Trainer calls this before it saves a checkpoint."""
        super().log(logs, start_time)
        if "loss" not in logs:
            return
        check_finite(logs["loss"], logs["grad_norm"], step=self.state.global_step)
        row = {"stage": self.config.stage, "step": self.state.global_step}
        row |= {"time_s": self._time_before_s + time.monotonic() - self._began_s}
        row |= self._metrics | {"lr": logs["learning_rate"], "grad_norm": logs["grad_norm"]}
        if self.is_world_process_zero():
            checkpoints.append_row(self.run_dir / "metrics.jsonl", row)
        if self.validate is not None:
            self.validate(self.student, row["step"], row["time_s"])
        if self.on_step is not None and self.is_world_process_zero():
            self.on_step(row)
        self.watch.check()

    def _write_rollouts(self, rows: Sequence[StepRow], records: Sequence[RowRecord], step: int) -> None:
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
                    "origin": row.origin,
                    "valid": record.valid,
                    "response": row.rollout.text,
                    "finished": row.rollout.finished,
                    "num_tokens": record.num_tokens,
                    "kl_nats": record.kl_nats["all"] / max(record.span_tokens["all"], 1),
                    "role": row.turn.role,
                    "turn": row.number,
                    "outcome": record.outcome.as_dict(),
                },
            )

    def write_beside_checkpoint(self, directory: Path) -> None:
        self.teachers.save(directory)
        (directory / WATCH).write_text(json.dumps(self.watch.state()))


def _actions_of(example: Example) -> Sequence[str]:
    """The words of action of the world that the example is of or about; none for a question from elsewhere."""
    world = get_world(example.task if example.task in world_names() else example.world)
    return getattr(world, "actions", ())


class _StepsLeft(torch.utils.data.Sampler[int]):
    """Step numbers from the one that the Trainer's state stands at."""

    def __init__(self, trainer: DistillTrainer) -> None:
        self.trainer = trainer

    def __iter__(self) -> Any:
        return iter(range(self.trainer.state.global_step, self.trainer.config.steps))

    def __len__(self) -> int:
        return self.trainer.config.steps


class _AfterStep(TrainerCallback):
    """Tells the trainer that a step's update is made, before the step is logged and saved."""

    def __init__(self, trainer: DistillTrainer) -> None:
        self.trainer = trainer

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.trainer.after_update(state.global_step)


class _Clock:
    """Seconds between marks."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._last_s = time.perf_counter()

    def mark(self, name: str) -> None:
        now_s = time.perf_counter()
        self.seconds[name] = now_s - self._last_s
        self._last_s = now_s

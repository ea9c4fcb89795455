"""The models that score rollouts: each set of teachers' weights once, whichever routes use it.

M positions, H hidden, V vocabulary.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pilotage.backbones.load import Backbone, is_sharded, load_backbone
from pilotage.distill.chunked import Head, gathered
from pilotage.errors import PilotageError
from pilotage.rollouts.remote_scores import RemoteScorer
from pilotage.train.distill_config import (
    EMA,
    AdapterOff,
    DistillConfig,
    FrozenCopy,
    GatedRefresh,
    Live,
    Remote,
    TeacherWeights,
)
from pilotage.train.optimisers import refuse_sharing
from pilotage.train.step.moves import TeacherTurns
from pilotage.train.step.scoring import head_of
from pilotage.train.teachers import MovingTeacher
from pilotage.views import shows_picture

logger = logging.getLogger(__name__)


class TeacherModel:
    """One set of weights, and the model that scores with it: a teacher's, or the student's own."""

    def __init__(
        self,
        backbone: Backbone,
        *,
        moving: MovingTeacher | None = None,
        scorer: RemoteScorer | None = None,
    ) -> None:
        self.backbone = backbone
        """Its model is the student's own where the teacher's weights are put inside for reading. Of a remote teacher
        it is the student too, which renders and tokenises."""
        self.moving = moving
        self.scorer = scorer
        """Set for a remote teacher, which has no head."""
        self.num_entries: int | None = None
        """First entries of the vocabulary that it is asked about, where it has more of them than others; None: all."""
        self._head: Head | None = None

    def _inside(self) -> AbstractContextManager[Any]:
        if self.moving is not None:
            return self.moving.shadow.inside(self.backbone.model)
        return nullcontext()

    @contextmanager
    def activated(self) -> Iterator[Any]:
        """The model, in eval mode with the teacher's weights inside."""
        model = self.backbone.model
        was_training = model.training
        model.eval()
        try:
            with self._inside():
                yield model
        finally:
            model.train(was_training)

    def begin_step(self) -> None:
        """Weights may have moved since the last step; within one they do not."""
        self._head = None

    @property
    def is_sharded(self) -> bool:
        """Whether ranks have to read together."""
        return self.scorer is None and is_sharded(self.backbone.model)

    def gather_head(self) -> None:
        """From here on this step's head is whole: a copy, which outlives the forward. All ranks must call this."""
        if self._head is None:
            weight_VH = self.backbone.model.get_output_embeddings().weight
            weight_VH = gathered(weight_VH.detach()).clone()
            own = head_of(self.backbone.model, weight_VH[:0])
            bias_V = None if own.bias_V is None else gathered(own.bias_V.detach()).clone()
            whole = Head(hidden_MH=weight_VH[:0], weight_VH=weight_VH, bias_V=bias_V)
            self._head = whole.first(self.num_entries)

    def head(self, hidden_MH: Tensor) -> Head:
        """The teacher's head over hidden states; all of a step share its tensors, so that routes can be merged."""
        if self._head is None:
            own = head_of(self.backbone.model, hidden_MH[:0])
            if self.moving is not None:
                bias_V = None if own.bias_V is None else self.moving.shadow.of(own.bias_V)
                own = replace(own, weight_VH=self.moving.shadow.of(own.weight_VH), bias_V=bias_V)
            self._head = own.first(self.num_entries)
        return replace(self._head, hidden_MH=hidden_MH)

    def head_of_none(self, like: Tensor) -> Head:
        """The teacher's head over no token at all; precision and place as `like`."""
        width = self.backbone.model.get_output_embeddings().weight.shape[1]
        return self.head(like.new_zeros(0, width))


class AdapterOffTeacher(TeacherModel):
    """The student without its adapter."""

    def _inside(self) -> AbstractContextManager[Any]:
        return self.backbone.model.disable_adapter()


class TeacherModels:
    """All teachers of a run."""

    def __init__(
        self, config: DistillConfig, *, student: Backbone, given: Backbone | None, device: torch.device
    ) -> None:
        frozen = [weights for weights in config.all_weights if isinstance(weights, FrozenCopy)]
        if given is not None and len(frozen) > 1:
            raise PilotageError(
                f"a teacher was given, but {len(frozen)} frozen copies are asked for: {frozen}"
            )
        self._of = {
            weights: _teacher_model(weights, student=student, given=given, device=device)
            for weights in config.all_weights
        }
        for weights in frozen:
            check_sees(self._of[weights].backbone, config, weights)
        # Models of one tokenizer round its size up differently: Qwen2.5-VL-3B to 151,936, the 7B to 152,064.
        sizes = {num_entries(backbone) for backbone in (student, *self.backbones)}
        self.num_entries = min(sizes) if len(sizes) > 1 else None
        """First entries of the vocabulary that student and teachers all have, where they differ in how many."""
        for teacher in self._of.values():
            teacher.num_entries = self.num_entries

    def __getitem__(self, weights: Any) -> TeacherModel:
        return self._of[weights]

    @property
    def backbones(self) -> list[Backbone]:
        """The distinct models that score, in the order of the routes; a moving teacher's is the student's."""
        return list({id(teacher.backbone): teacher.backbone for teacher in self._of.values()}.values())

    @property
    def moving(self) -> list[MovingTeacher]:
        return [teacher.moving for teacher in self._of.values() if teacher.moving is not None]

    def begin_step(self) -> None:
        for teacher in self._of.values():
            teacher.begin_step()

    def after_step(self, model: Any, step: int, metrics: Mapping[str, float]) -> dict[str, float]:
        """Brings moving teachers up to date after the update of a step, counted from 1; figures for the log."""
        figures: dict[str, float] = {}
        for teacher in self.moving:
            decision = teacher.after_step(model, step, metrics)
            if decision is not None and not decision.refresh:
                logger.info("step %d: the teacher stays: %s", step, "; ".join(decision.reasons))
            if teacher.gate is not None:
                figures["teacher/refreshes"] = float(teacher.gate.num_refreshes)
        return figures

    def save(self, directory: Path) -> None:
        """Moving teachers into a checkpoint."""
        for number, teacher in enumerate(self.moving):
            teacher.save(directory / f"teacher-{number}")

    def load(self, directory: Path) -> None:
        """Goes on from a checkpoint; raises PilotageError when it has no teacher, or another."""
        for number, teacher in enumerate(self.moving):
            teacher.load(directory / f"teacher-{number}")


def check_sharded(config: DistillConfig) -> None:
    """Raises PilotageError for a teacher that would need the whole parameters of a student that ranks share out."""
    if moving := [weights for weights in config.all_weights if isinstance(weights, EMA | GatedRefresh)]:
        raise PilotageError(
            f"the student is sharded, and {type(moving[0]).__name__} keeps its weights whole; use FrozenCopy()"
        )
    refuse_sharing(config.optimiser, config.lora)
    moves = config.moves
    if isinstance(moves, TeacherTurns) and isinstance(moves.teacher.weights, Live | AdapterOff):
        # Each rank would ask the two in an order of its own, and both are the same shards.
        raise PilotageError(
            f"the student is sharded, and {moves.teacher.weights} would write turns with its parameters; use "
            "FrozenCopy()"
        )


def check_tokenizer(teacher: Backbone, student: Backbone) -> None:
    """Raises PilotageError for a teacher that reads other words than the student writes by the same ids."""
    if teacher.tokenizer.get_vocab() != student.tokenizer.get_vocab() or teacher.eos_ids != student.eos_ids:
        raise PilotageError(
            f"teacher {teacher.name} and student {student.name} do not share a tokenizer: rollouts are scored id by id"
        )


def num_entries(backbone: Backbone) -> int:
    """Of the vocabulary, as many as the model's head has."""
    return backbone.model.get_output_embeddings().weight.shape[0]


def check_sees(teacher: Backbone, config: DistillConfig, weights: TeacherWeights) -> None:
    """Raises PilotageError for a teacher that reads text only, where a route shows it a picture."""
    for route in config.routes:
        shows = route.view is not None and route.images != "none" and shows_picture(route.view)
        if shows and route.weights == weights and not teacher.supports_images:
            raise PilotageError(
                f"{config.stage}: teacher {teacher.name} reads text only, and view {route.view!r} of route "
                f"{route.name!r} shows the picture; use a text view, images='none' or a teacher that sees"
            )


def _teacher_model(
    weights: TeacherWeights, *, student: Backbone, given: Backbone | None, device: torch.device
) -> TeacherModel:
    if isinstance(weights, Live):
        return TeacherModel(student)
    if isinstance(weights, EMA | GatedRefresh):
        return TeacherModel(student, moving=MovingTeacher(weights, student.model))
    if isinstance(weights, Remote):
        return TeacherModel(student, scorer=weights.scorer())
    if isinstance(weights, AdapterOff):
        if not hasattr(student.model, "disable_adapter"):
            raise PilotageError(
                f"AdapterOff needs a student with a LoRA adapter, and {student.name} has none; load it with "
                "lora=LoraSettings(...), or use FrozenCopy()"
            )
        return AdapterOffTeacher(student)
    frozen = given or _frozen_copy(weights, student)
    check_tokenizer(frozen, student)
    frozen.model.to(device).eval().requires_grad_(False)
    return TeacherModel(frozen)


def _frozen_copy(weights: FrozenCopy, student: Backbone) -> Backbone:
    if weights.source is None:
        return replace(
            student, model=copy.deepcopy(student.model).to(student.computes_in or student.model.dtype)
        )
    return load_backbone(
        weights.source,
        dtype=student.computes_in or student.model.dtype,
        attn_implementation=student.model.config._attn_implementation,
        device=student.device,
    )

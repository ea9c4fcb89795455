"""The rollouts of one optimiser step: planned by the mixture, made by the student, the data set or a teacher.

T tokens of one rollout.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

from pilotage.backbones.load import Backbone
from pilotage.records import Example, Rollout, View
from pilotage.rollouts.engine import Engine, samples_of
from pilotage.rollouts.sources import (
    FromDataSet,
    FromTeacher,
    Row,
    Sampling,
    Source,
    by_source,
    plan_rows,
    text_rollout,
)
from pilotage.rollouts.transformers_engine import TransformersEngine
from pilotage.train.distill_config import DistillConfig
from pilotage.train.seeds import mixed
from pilotage.train.step.order import Slot
from pilotage.train.step.readers import Readers
from pilotage.views import make_view, reference_of_view
from pilotage.views.variants import varied

PERCEPTION = "perception"
"""The view that asks a student to describe the picture."""


@dataclass(frozen=True, kw_only=True)
class StepRow:
    """One rollout of the step on this rank."""

    slot: int
    """A number that no other row of the step has, on any rank."""
    prompt: int
    """The prompt's place in the step; its samples share it."""
    example: Example
    view: View
    """What the student is shown, with its prefill."""
    rollout: Rollout
    source: Source
    asks_perception: bool = False


class RolloutMaker:
    """Makes a step's rollouts, one call of an engine per source."""

    def __init__(
        self,
        config: DistillConfig,
        *,
        student: Backbone,
        engine: Engine,
        readers: Readers,
        autocast: Callable[[], AbstractContextManager[Any]],
    ) -> None:
        self.config = config
        self.mixture = config.mixture
        self._student = student
        self._engine = engine
        self._readers = readers
        self._autocast = autocast

    def rows(self, step: int, slots: Sequence[Slot], asks_perception: Sequence[bool]) -> list[StepRow]:
        """The rollouts of these prompts of a step, prompt by prompt."""
        example_of = {slot.index: slot.example for slot in slots}
        asks = {slot.index: asked for slot, asked in zip(slots, asks_perception, strict=True)}
        view_of = {
            index: self._student_view(example, asks_perception=asks[index])
            for index, example in example_of.items()
        }
        planned = plan_rows(self.mixture, seed=self.config.seed, step=step, slots=example_of)
        rollouts: dict[int, Rollout] = {}
        for source, places in by_source(planned).items():
            first = [planned[place] for place in places if planned[place].sample == 0]
            made = self._made(source, first, example_of, view_of, asks, seed=mixed(self.config.seed, step))
            rollouts |= zip(places, made, strict=True)
        return [
            StepRow(
                slot=row.number(self.mixture),
                prompt=row.slot,
                example=example_of[row.slot],
                view=view_of[row.slot],
                rollout=rollouts[place],
                source=row.source,
                asks_perception=asks[row.slot],
            )
            for place, row in enumerate(planned)
        ]

    def _student_view(self, example: Example, *, asks_perception: bool) -> View:
        if asks_perception:
            return make_view(PERCEPTION, example, self.config.prompts)
        view = make_view(self.config.student_view, example, self.config.prompts)
        return varied(view, prefill=self.config.student_prefill)

    def _made(
        self,
        source: Source,
        prompts: Sequence[Row],
        example_of: dict[int, Example],
        view_of: dict[int, View],
        asks: dict[int, bool],
        *,
        seed: int,
    ) -> list[Rollout]:
        """All samples of these prompts, prompt by prompt."""
        examples = [example_of[row.slot] for row in prompts]
        views = [view_of[row.slot] for row in prompts]
        if isinstance(source, FromDataSet):
            return [self._reference(example, view) for example, view in zip(examples, views, strict=True)]
        if not isinstance(source, FromTeacher):
            self._engine.sync(self._student.model)
            with self._autocast():
                return self._sampled(self._engine, examples, views, source.sampling, seed)
        reader = self._readers[source.weights]
        assert reader.scorer is None, "the configuration checks that no remote teacher writes"
        described = [asks[row.slot] for row in prompts]
        views = [
            make_view("description" if asked else source.view, example, self.config.prompts)
            for example, asked in zip(examples, described, strict=True)
        ]
        with reader.reading(), self._autocast():
            engine = TransformersEngine(
                reader.backbone,
                batch_size=max(64, self.config.micro_batch_size),
                max_prompt_tokens=self.config.max_prompt_tokens,
            )
            return self._sampled(engine, examples, views, source.sampling, seed)

    def _sampled(
        self,
        engine: Engine,
        examples: Sequence[Example],
        views: Sequence[View],
        sampling: Sampling,
        seed: int,
    ) -> list[Rollout]:
        ids = [example.id for example in examples]
        requests = samples_of(views, ids, num=sampling.num_samples, seed=seed)
        return engine.generate(requests, sampling.decoding(self.config.max_new_tokens))

    def _reference(self, example: Example, view: View) -> Rollout:
        tokenizer: Any = self._student.tokenizer
        end_id = tokenizer.eos_token_id
        return text_rollout(
            reference_of_view(example, view.name),
            example_id=example.id,
            encode=lambda text: tokenizer(text, add_special_tokens=False)["input_ids"],
            decode=self._student.decode,
            end_id=self._student.eos_ids[-1] if end_id is None else end_id,
            prefill=view.prefill,
            max_new_tokens=self.config.max_new_tokens,
        )

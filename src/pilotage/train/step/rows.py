"""The rollouts of one optimiser step: planned by the mixture, made by the student, the data set or a teacher.

T tokens of one rollout.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from pilotage.backbones.load import Backbone, is_sharded
from pilotage.errors import PilotageError
from pilotage.records import WORLD_ENDS, Episode, Example, Moment, Rollout, Turn, View
from pilotage.rollouts.engine import Decoding, Engine, JoiningEngine, Request
from pilotage.rollouts.play import Limits, Open, Start, Writer, open_in_process, play
from pilotage.rollouts.sources import (
    FromDataSet,
    FromTeacher,
    PlannedRollout,
    Source,
    by_source,
    plan_rollouts,
    text_rollout,
)
from pilotage.rollouts.transformers_engine import TransformersEngine
from pilotage.train.distill_config import DistillConfig
from pilotage.train.seeds import mixed
from pilotage.train.step.moves import Mover, TeacherTurns
from pilotage.train.step.order import Slot
from pilotage.train.step.teacher_models import TeacherModel, TeacherModels
from pilotage.views import make_view, reference_of_view
from pilotage.views.variants import varied
from pilotage.worlds.registry import get_world
from pilotage.worlds.score import DESCRIBE

PERCEPTION = "perception"
"""The view that asks a student to describe the picture."""
DESCRIPTION = "description"
"""The view by which a teacher describes it, from words."""
_TURNS, _MOVES = 0x7475726E, 0x6D6F7665
"""Keep the draws of turns and of who moves apart from others of the same seed and step."""


@dataclass(frozen=True, kw_only=True)
class StepRow:
    """One turn of an episode of the step on this rank: what is taught."""

    slot: int
    """A number that no other row of the step has, on any rank."""
    prompt: int
    """The example's place in the step; its episodes share it."""
    episode: Episode
    number: int
    """Which of the episode's turns, from 0."""
    source: Source
    is_last: bool = True
    """Whether it is the last of the episode's taught turns: it stands for the episode where those are counted."""

    @property
    def turn(self) -> Turn:
        return self.episode.turns[self.number]

    @property
    def origin(self) -> str:
        """Who wrote it: `student`, `dataset` or `teacher`, both of which may write in a student's episode, too."""
        written = self.rollout.origin
        return written if written in ("teacher", "dataset") else self.source.origin

    @property
    def example(self) -> Example:
        return self.episode.example

    @property
    def view(self) -> View:
        """What the student is shown, with its prefill."""
        return self.turn.view

    @property
    def rollout(self) -> Rollout:
        rollout = self.turn.rollout
        assert rollout is not None, "an engine that fails in training ends the step"
        return rollout

    @property
    def moment(self) -> Moment:
        """What there was at this turn, for views of it."""
        return self.episode.moment(self.number)

    def of_example(self, example: Example) -> StepRow:
        """The same first turn, of an example that says something else: another plan, another picture."""
        assert self.number == 0, "only what an example begins with can be exchanged"
        turn = replace(self.turn, seen=example.start)
        return replace(
            self, episode=replace(self.episode, example=example, turns=(turn, *self.episode.turns[1:]))
        )


class RolloutMaker:
    """Makes a step's episodes, all those of a source together."""

    def __init__(
        self,
        config: DistillConfig,
        *,
        student: Backbone,
        engine: Engine,
        teachers: TeacherModels,
        autocast: Callable[[], AbstractContextManager[Any]],
        open_session: Open = open_in_process,
    ) -> None:
        self.config = config
        self.mixture = config.sources
        self.num_failed = 0
        """Episodes of the last step that their worlds broke off for good; nothing of them is taught."""
        self._student = student
        self._engine = engine
        self._teachers = teachers
        self._autocast = autocast
        self._open_session = open_session

    def rows(self, step: int, slots: Sequence[Slot], asks_perception: Sequence[bool]) -> list[StepRow]:
        """The turns of the episodes of these prompts of a step, prompt by prompt, turn by turn."""
        example_of = {slot.index: slot.example for slot in slots}
        asks = {slot.index: asked for slot, asked in zip(slots, asks_perception, strict=True)}
        planned = plan_rollouts(self.mixture, seed=self.config.seed, step=step, slots=example_of)
        seed = mixed(self.config.seed, step)
        episodes: dict[int, Episode] = {}
        start_of = [_start(row, example_of, asks, seed) for row in planned]
        places_of = by_source(planned)
        # Ranks that share out the student's parameters meet in each source, in one order.
        sources = self.mixture.sources if is_sharded(self._student.model) else places_of
        for source in sources:
            places = places_of.get(source, [])
            starts = [start_of[place] for place in places]
            episodes |= zip(places, self._played(source, starts, step), strict=True)
        self.num_failed = sum(episode.end in WORLD_ENDS for episode in episodes.values())
        num_numbers = self.config.prompts_per_step * self.mixture.max_samples
        return [
            StepRow(
                slot=row.number(self.mixture) + number * num_numbers,
                prompt=row.slot,
                episode=episodes[place],
                number=number,
                source=row.source,
                is_last=number == chosen[-1],
            )
            for place, row in enumerate(planned)
            if episodes[place].end not in WORLD_ENDS
            for chosen in [self._taught_turns(row, episodes[place], start_of[place], step)]
            for number in chosen
        ]

    def _taught_turns(self, row: PlannedRollout, episode: Episode, start: Start, step: int) -> list[int]:
        rng = np.random.default_rng([self.config.seed, step, row.number(self.mixture), _TURNS])
        movers: list[Mover] = [self._mover(start, number, step) for number in range(len(episode.turns))]
        return self.config.turns.chosen(movers, step=step, rng=rng)

    def _mover(self, start: Start, number: int, step: int) -> Mover:
        """Who moves in a turn: a pure function of the run's seed, the step, the episode and the turn."""
        seed = [start.seed, zlib.crc32(start.example.id.encode()), start.sample, number, _MOVES]
        privileged = start.example.start.privileged
        return self.config.moves.by(
            turn=number,
            plan_length=0 if privileged is None else len(privileged.plan),
            step=step,
            num_steps=self.config.steps,
            rng=np.random.default_rng(seed),
        )

    def _played(self, source: Source, starts: Sequence[Start], step: int) -> list[Episode]:
        """The episodes of these starts, in their order."""
        if isinstance(source, FromDataSet):
            return self._play(starts, Writer(write=self._reference), step)
        if not isinstance(source, FromTeacher):
            self._engine.sync(self._student.model)
            decoding = source.sampling.decoding(self.config.max_new_tokens)
            student = Writer(engine=self._engine, decoding=decoding, raises=True)
            moves = self.config.moves
            writers: dict[Mover, Writer] = {"student": student}
            if isinstance(moves, TeacherTurns):
                writers["teacher"] = self._teacher(moves.teacher)

            def writer(start: Start, number: int) -> Writer:
                # Where the expert moves, the student still writes.
                return writers.get(self._mover(start, number, step), student)

            with self._autocast():
                episodes = self._play(starts, student if len(writers) == 1 else writer, step)
                _join(student)
            return episodes
        teacher = self._teacher(source)
        episodes = self._play(starts, teacher, step)
        _join(teacher)
        return episodes

    def _teacher(self, source: FromTeacher) -> Writer:
        """A teacher that writes."""
        teacher = self._teachers[source.weights]
        assert teacher.scorer is None, "the configuration checks that no remote teacher writes"

        def show(moment: Moment) -> View:
            name = DESCRIPTION if moment.role == DESCRIBE else source.view
            return make_view(name, moment, self.config.prompts)

        engine = TransformersEngine(
            teacher.backbone,
            batch_size=max(64, self.config.micro_batch_size),
            max_prompt_tokens=self.config.max_prompt_tokens,
            origin="teacher",
        )
        return Writer(
            engine=_WithTeacherInside(engine, teacher, self._autocast),
            decoding=source.sampling.decoding(self.config.max_new_tokens),
            show=show,
            raises=True,
        )

    def _play(
        self, starts: Sequence[Start], writer: Writer | Callable[[Start, int], Writer], step: int
    ) -> list[Episode]:
        horizon = self.config.turns.horizon(step) or self.config.max_turns
        found = {
            (id(episode.example), episode.sample): relabelled(episode, self._reference)
            if self.config.relabel
            else episode
            for episode in play(
                starts,
                writer=writer,
                show=self._shown,
                read=self._reading(step),
                limits=Limits(max_turns=min(horizon, self.config.max_turns)),
                open_session=self._open_session,
            )
        }
        return [found[id(start.example), start.sample] for start in starts]

    def _shown(self, moment: Moment) -> View:
        """What the student is shown."""
        if moment.role == DESCRIBE:
            return make_view(PERCEPTION, moment, self.config.prompts)
        view = make_view(self.config.student_view, moment, self.config.prompts)
        return varied(view, prefill=self.config.student_prefill)

    def _reading(self, step: int) -> Callable[[Start, int, Turn], str]:
        """What the world is told of a turn: the answer, or where the expert moves, its first action from there."""
        config = self.config

        def read(start: Start, number: int, turn: Turn) -> str:
            if self._mover(start, number, step) == "expert":
                privileged = turn.seen.privileged
                if privileged is None or not privileged.plan:
                    raise PilotageError(
                        f"{start.example.id}: moves {config.moves} need an expert's plan at every turn"
                    )
                return f"<answer>{privileged.plan[0]}</answer>"
            return self._read(start.example, turn)

        return read

    def _read(self, example: Example, turn: Turn) -> str:
        """An answer in the form that the world reads: layouts may have words of their own for the answer."""
        assert turn.rollout is not None
        text, layout = turn.rollout.text, self.config.router_of(turn.role).layout
        if getattr(get_world(example.world), "answer_form", "block") != "block":
            return text
        return layout.answer(text, prefill=turn.view.prefill)

    def _reference(self, moment: Moment, view: View) -> Rollout:
        tokenizer: Any = self._student.tokenizer
        return text_rollout(
            reference_of_view(moment, view.name),
            example_id=moment.example.id,
            encode=lambda text: tokenizer(text, add_special_tokens=False)["input_ids"],
            decode=self._student.decode,
            end_id=self._student.end_id,
            prefill=view.prefill,
            max_new_tokens=self.config.max_new_tokens,
        )


class _WithTeacherInside:
    """An engine whose model has the teacher's weights inside while it decodes, and no longer.

    A teacher that takes turns with the student may be the same model with other weights.
    """

    def __init__(
        self,
        engine: TransformersEngine,
        teacher: TeacherModel,
        autocast: Callable[[], AbstractContextManager[Any]],
    ) -> None:
        self._engine, self._teacher, self._autocast = engine, teacher, autocast

    def generate(self, requests: Sequence[Request], decoding: Decoding) -> list[Rollout]:
        with self._teacher.activated(), self._autocast():
            return self._engine.generate(requests, decoding)

    def sync(self, model: Any) -> None:
        """Nothing: the teacher knows its weights."""

    def join(self, decoding: Decoding) -> None:
        with self._teacher.activated(), self._autocast():
            self._engine.join(decoding)


def _join(writer: Writer) -> None:
    """Decodes along until no rank has anything to ask of this writer."""
    if isinstance(writer.engine, JoiningEngine):
        assert writer.decoding is not None, "it has an engine"
        writer.engine.join(writer.decoding)


def relabelled(episode: Episode, expert: Callable[[Moment, View], Rollout]) -> Episode:
    """The episode with the expert's answer at each of its states, as rows of DAgger: the moves stay as they were made.

    Three turns in which the student went astray at the second give three rows, each with the reference answer from the
    state that the student was in.
    """
    turns = tuple(
        replace(turn, rollout=expert(episode.moment(number), turn.view))
        for number, turn in enumerate(episode.turns)
    )
    return replace(episode, turns=turns)


def _start(row: PlannedRollout, example_of: dict[int, Example], asks: dict[int, bool], seed: int) -> Start:
    example = example_of[row.slot]
    role = DESCRIBE if asks[row.slot] else get_world(example.world).roles[0]
    return Start(example=example, sample=row.sample, draw=row.sample, seed=seed, role=role)

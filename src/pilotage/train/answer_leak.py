"""How much of what is taught hangs on the answer: PALR and the privilege gap of a run's own teachers, on a fixed probe.

T tokens of one rollout, K wrong answers.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from pilotage.backbones.load import Backbone
from pilotage.data.store import in_turn
from pilotage.distill.palr import Palr, PalrRow, palr
from pilotage.distill.routes import Route, RoutedRow
from pilotage.errors import ImpossibleRequestError, PilotageError
from pilotage.records import Example
from pilotage.rollouts.engine import Engine
from pilotage.rollouts.sources import FromStudent, only
from pilotage.rollouts.transformers_engine import TransformersEngine
from pilotage.train.distill_config import EMA, AdapterOff, DistillConfig, FrozenCopy, GatedRefresh, Live
from pilotage.train.distill_setup import with_weights
from pilotage.train.step.monitors import SpanFinder
from pilotage.train.step.order import Slot
from pilotage.train.step.routes import StepFacts, StepRouter, nothing_routed
from pilotage.train.step.rows import RolloutMaker, StepRow
from pilotage.train.step.scores import StepScorer
from pilotage.train.step.scoring import can_share_prefix, sampled_logprobs
from pilotage.train.step.teacher_models import TeacherModel, TeacherModels
from pilotage.views import make_view, view_names, without_plan
from pilotage.views.variants import OtherImages
from pilotage.worlds.registry import get_world
from pilotage.worlds.world import HasWrongAnswers

logger = logging.getLogger(__name__)

PROBE_SEED = 2606_19120
"""The same rollouts' noise, wrong answers and other pictures whenever a probe is measured."""
SEES_IMAGE = ("same", "crop")


@dataclass(frozen=True, kw_only=True)
class Leak:
    """What the answer is to what is taught."""

    palr: Palr
    gap_nats: Mapping[str, float]
    """Span -> mean over taught tokens of log q(y) - log q(y) by the same teacher without the answer; `all` too."""

    def as_dict(self) -> dict[str, float]:
        """`palr/<group>` and `privilege_gap/<span>`."""
        return self.palr.as_dict() | {f"privilege_gap/{name}": gap for name, gap in self.gap_nats.items()}


@dataclass(frozen=True, kw_only=True)
class _Probed:
    example: Example
    wrong: tuple[Example, ...]
    """The same, told another answer each."""
    other_image: bytes


class LeakProbe:
    """A fixed set of examples, each with at most K wrong answers and another example's picture."""

    def __init__(
        self, config: DistillConfig, examples: Sequence[Example], *, num_examples: int, num_wrong: int
    ) -> None:
        """Takes examples in turn from each task. An example with fewer wrong answers than `num_wrong` has those it has.

        One with none, and one whose task has no other picture, are left out; one line says how many. Raises
        PilotageError where none is left.
        """
        if num_examples < 1 or num_wrong < 1:
            raise PilotageError(
                f"num_examples {num_examples} and num_wrong {num_wrong} must be at least 1: a probe is made of both"
            )
        self.config = _student_alone(config)
        self.others = OtherImages(examples)
        self.probed: list[_Probed] = []
        unknown, alone, fewer = [], [], []
        for example in _tasks_in_turn(examples):
            if len(self.probed) == num_examples:
                break
            if not (wrong := _wrong_answers(example, num_wrong)):
                unknown.append(example)
                continue
            try:
                (other,) = self.others.pick(example, seed=PROBE_SEED)
            except ImpossibleRequestError:
                alone.append(example)
                continue
            fewer += [example] if len(wrong) < num_wrong else []
            self.probed.append(_Probed(example=example, wrong=wrong, other_image=other))
        left_out = [
            f"{len(found)} {why} ({', '.join(sorted(set(map(_kind, found))))})"
            for found, why in (
                (unknown, "without a known wrong answer"),
                (alone, "whose task has no other picture to compare with"),
            )
            if found
        ]
        if not self.probed:
            raise PilotageError(
                f"PALR has nothing to compare with in {len(examples)} examples: "
                f"{'; '.join(left_out) or 'there are none'}; give more examples, of kinds whose wrong answers are known"
            )
        if left_out:
            logger.warning("PALR leaves out %s", "; ".join(left_out))
        if fewer:
            logger.warning(
                "PALR takes fewer than %d wrong answers of %d of %d examples, as many as are known (%s)",
                num_wrong,
                len(fewer),
                len(self.probed),
                ", ".join(sorted(set(map(_kind, fewer)))),
            )

    @torch.no_grad()
    def measure(self, student: TeacherModel, *, rollouts: RolloutMaker, scorer: StepScorer) -> Leak:
        """One rollout of the student for each example, as it samples in training, and all that is asked of it.

        `rollouts` and `scorer` are made for `self.config`. Moves no parameter and draws from no global generator.
        """
        slots = [Slot(index=i, example=probed.example) for i, probed in enumerate(self.probed)]
        rows = rollouts.rows(0, slots, [False] * len(slots))
        router = scorer.router
        signals = scorer.signals(student, rows)
        facts = [router.facts(row, known) for row, known in zip(rows, signals, strict=True)]
        routed = router.route(rows, facts, lambda sums: sums).routed
        sees_answer = {route.name: self._sees_answer(route) for route in router.plans.routes}
        seeing = {route.name: self._sees_image(route) for route in router.plans.routes}
        telling = _only(routed, sees_answer)
        looking = _only(routed, seeing)
        places = list(range(len(rows)))
        student_logp = scorer.student_logprobs(student, rows, places, "same", 1.0)
        teacher_logp = _logps(scorer, rows, facts, routed)
        wrong_logp = [
            _logps(scorer, self._with_answers(rows, number), facts, telling)
            for number in range(self.most_wrong if any(sees_answer.values()) else 0)
        ]
        other_logp = _logps(scorer, self._with_other_images(rows), facts, looking)
        # A teacher without such a view would be compared with itself: a gap of 0 that nobody measured.
        bare = _without_plans()
        baring = _only(routed, {r.name: sees_answer[r.name] and r.view in bare for r in router.plans.routes})
        blind_logp = _logps(scorer, rows, facts, baring, instead=bare)
        leak_rows, gaps = [], _Gaps()
        for place, row in enumerate(rows):
            taught_T = _union(routed, place, row)
            sees_answer_T = _union(telling, place, row)
            leak_rows.append(
                PalrRow(
                    spans=facts[place].spans,
                    student_logp_T=student_logp[place],
                    teacher_logp_T=teacher_logp[place],
                    taught_T=taught_T,
                    sees_answer_T=sees_answer_T,
                    wrong_answer_logp_KT=np.array(
                        [logp[place] for logp in wrong_logp[: len(self.probed[place].wrong)]]
                    ).reshape(-1, len(taught_T)),
                    sees_image_T=_union(looking, place, row),
                    other_image_logp_T=other_logp[place],
                )
            )
            if facts[place].spans.valid:
                gaps.add(facts[place], teacher_logp[place] - blind_logp[place], _union(baring, place, row))
        return Leak(palr=palr(leak_rows, _groups(router)), gap_nats=gaps.means())

    @property
    def most_wrong(self) -> int:
        return max(len(probed.wrong) for probed in self.probed)

    def _with_answers(self, rows: Sequence[StepRow], number: int) -> list[StepRow]:
        """Each told its wrong answer of this number; the last again where it has fewer, which is not read."""
        return [
            row.of_example(probed.wrong[min(number, len(probed.wrong) - 1)])
            for row, probed in zip(rows, self.probed, strict=True)
        ]

    def _with_other_images(self, rows: Sequence[StepRow]) -> list[StepRow]:
        return [
            row.of_example(row.example.with_images((probed.other_image,)))
            for row, probed in zip(rows, self.probed, strict=True)
        ]

    def _sees_answer(self, route: Route) -> bool:
        """Whether another plan changes what the teacher is shown."""
        if route.view is None:
            return False
        probed = self.probed[0]
        right = make_view(route.view, probed.example, self.config.prompts)
        wrong = make_view(route.view, probed.wrong[0], self.config.prompts)
        return (right.messages, right.prefill) != (wrong.messages, wrong.prefill)

    def _sees_image(self, route: Route) -> bool:
        if route.view is None:
            return False
        view = make_view(route.view, self.probed[0].example, self.config.prompts)
        return bool(view.images) and route.images in SEES_IMAGE


@dataclass(frozen=True, kw_only=True)
class LeakMeter:
    """A probe with all that it takes to measure it."""

    probe: LeakProbe
    student: Backbone
    rollouts: RolloutMaker
    scorer: StepScorer

    def measure(self) -> Leak:
        return self.probe.measure(TeacherModel(self.student), rollouts=self.rollouts, scorer=self.scorer)


def leak_meter(
    config: DistillConfig,
    *,
    student: Backbone,
    teachers: TeacherModels,
    examples: Sequence[Example],
    num_examples: int,
    num_wrong: int,
    engine: Engine | None = None,
    autocast: Callable[[], AbstractContextManager[Any]] = nullcontext,
    share_prefix: Callable[[Any], bool] = can_share_prefix,
) -> LeakMeter:
    """A meter of what `config`'s routes teach this student; `engine` defaults to decoding with its own model."""
    probe = LeakProbe(config, examples, num_examples=num_examples, num_wrong=num_wrong)
    engine = engine or TransformersEngine(
        student, batch_size=max(64, config.micro_batch_size), max_prompt_tokens=config.max_prompt_tokens
    )
    tasks = sorted({probed.example.task for probed in probe.probed})
    return LeakMeter(
        probe=probe,
        student=student,
        rollouts=RolloutMaker(
            probe.config, student=student, engine=engine, teachers=teachers, autocast=autocast
        ),
        scorer=StepScorer(
            probe.config,
            teachers=teachers,
            router=StepRouter(probe.config, spans=SpanFinder(student), tasks=tasks),
            others=probe.others,
            autocast=autocast,
            can_share_prefix=share_prefix,
        ),
    )


def leak_of_trained(
    config: DistillConfig,
    *,
    start: Backbone,
    trained: Backbone,
    examples: Sequence[Example],
    num_examples: int,
    num_wrong: int,
) -> Leak:
    """PALR of a finished stage: what its teachers would go on teaching the model that it left.

    `start` is what the stage began with: an adapter that is off, or a copy of the student as it began, reads with its
    weights. Raises PilotageError for teachers that moved with training, whose weights are not kept.
    """
    config = replace(config, lora=None)
    if moving := [
        weights for weights in config.all_weights if isinstance(weights, Live | EMA | GatedRefresh)
    ]:
        raise PilotageError(
            f"the teacher {moving[0]} moved with the student; measure it while it trains: palr_every"
        )
    config = with_weights(config, lambda weights: FrozenCopy() if weights == AdapterOff() else weights)
    teachers = TeacherModels(config, student=start, given=None, device=start.device)
    return leak_meter(
        config,
        student=trained,
        teachers=teachers,
        examples=examples,
        num_examples=num_examples,
        num_wrong=num_wrong,
    ).measure()


class _Gaps:
    """Sums of log-probability differences by span."""

    def __init__(self) -> None:
        self._sums: dict[str, tuple[float, int]] = {}

    def add(self, facts: StepFacts, gap_T: np.ndarray, mask_T: np.ndarray) -> None:
        masks = {name: np.array(facts.spans.mask(name), dtype=bool) for name in facts.spans.names}
        for name, span_T in (masks | {"all": np.ones_like(mask_T)}).items():
            chosen_T = span_T & mask_T
            total, count = self._sums.get(name, (0.0, 0))
            self._sums[name] = (total + float(gap_T[chosen_T].sum()), count + int(chosen_T.sum()))

    def means(self) -> dict[str, float]:
        return {name: total / count for name, (total, count) in self._sums.items() if count}


def _logps(
    scorer: StepScorer,
    rows: Sequence[StepRow],
    facts: Sequence[StepFacts],
    routed: Mapping[str, Sequence[RoutedRow]],
    *,
    instead: Mapping[str, str] | None = None,
) -> list[np.ndarray]:
    """Each row's taught tokens as their teachers find them, float64 [T] in nats at temperature 1; 0 elsewhere."""
    logps = [np.zeros(len(row.rollout.token_ids)) for row in rows]
    scores = scorer.scores(rows, facts, routed, step=0, all_sum=lambda sums: sums, instead=instead)
    for name, of_route in scores.items():
        for place, part in enumerate(of_route.by_row):
            if part is None or of_route.teacher is None:
                continue
            mask_T = routed[name][place].mask_T
            if of_route.teacher.scorer is None:
                ids_M = torch.tensor(np.array(rows[place].rollout.token_ids)[mask_T], device=part.device)
                part = sampled_logprobs(of_route.teacher.head(part), ids_M, temperature=1.0)
            logps[place][mask_T] = part.double().cpu().numpy()
    return logps


def _without_plans() -> dict[str, str]:
    """View that tells of the plan -> the same view without it."""
    return {name: blind for name in view_names() if (blind := without_plan(name)) is not None}


def _only(
    routed: Mapping[str, Sequence[RoutedRow]], kept: Mapping[str, bool]
) -> dict[str, Sequence[RoutedRow]]:
    """The same, with nothing to teach for routes that are not kept (descriptions' are never)."""
    return {
        name: rows if kept.get(name) else [nothing_routed(len(row.mask_T)) for row in rows]
        for name, rows in routed.items()
    }


def _union(routed: Mapping[str, Sequence[RoutedRow]], place: int, row: StepRow) -> np.ndarray:
    taught_T = np.zeros(len(row.rollout.token_ids), dtype=bool)
    for rows in routed.values():
        taught_T |= rows[place].mask_T
    return taught_T


def _groups(router: StepRouter) -> dict[str, tuple[str, ...]]:
    """The format's first span, which tells what is seen, and what follows from it."""
    names = router.plans.layout.names
    return {"description": names[:1], "reasoning_answer": names[1:]} if len(names) > 1 else {}


def _student_alone(config: DistillConfig) -> DistillConfig:
    """The configuration with one rollout of the student's own for each prompt: what PALR is defined over."""
    sampling = next((s.sampling for s in config.sources.sources if isinstance(s, FromStudent)), None)
    if sampling is None:
        raise PilotageError("no source is the student, and PALR is of the student's own rollouts")
    source = FromStudent(sampling=replace(sampling, num_samples=1))
    mix = config.mix
    if mix is not None and mix.reward_baseline == "group":
        mix = replace(mix, reward_baseline="batch", scale_by_spread=False)
    return replace(
        config,
        sources=only(source),
        # What is exchanged is what an episode begins with: its first turn is probed.
        max_turns=1,
        seed=PROBE_SEED,
        mix=mix,
    )


def _wrong_answers(example: Example, num: int) -> tuple[Example, ...]:
    """At most `num`. Raises PilotageError for a world that knows none of any example."""
    world = get_world(example.world)
    if not isinstance(world, HasWrongAnswers):
        raise PilotageError(f"{world.title} knows no wrong answers, which PALR compares the right one with")
    try:
        return world.wrong(example, num, seed=PROBE_SEED)
    except ImpossibleRequestError as error:
        return world.wrong(example, error.num_found, seed=PROBE_SEED) if 0 < error.num_found < num else ()


def _kind(example: Example) -> str:
    """What tells apart which examples have few wrong answers: a question's kind, else the task."""
    return str(example.axes.get("kind", example.task))


def _tasks_in_turn(examples: Sequence[Example]) -> list[Example]:
    by_task: dict[str, list[Example]] = {}
    for example in examples:
        by_task.setdefault(example.task, []).append(example)
    return list(in_turn(by_task.values()))

"""What the teachers say of a step's rollouts: one batched forward per set of weights, whatever the routes.

R rows of the step on this rank, T tokens of one of them, M taught tokens of one route (row by row), H hidden.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pilotage.distill.estimators import SampledLogProbs
from pilotage.distill.policy_gradient import Advantages, PolicyGradient, advantage_parts, advantages
from pilotage.distill.reduce import AllSum, global_reduced
from pilotage.distill.route_loss import TeacherScores
from pilotage.distill.routes import Route, RoutedRow, is_likelihood
from pilotage.records import View
from pilotage.rollouts.sources import FromDataSet
from pilotage.train.distill_config import DistillConfig
from pilotage.train.seeds import mixed
from pilotage.train.step.routes import StepFacts, StepRouter
from pilotage.train.step.rows import StepRow
from pilotage.train.step.scoring import encode_in_batches, sampled_logprobs, score_rows
from pilotage.train.step.teacher_models import TeacherModel, TeacherModels
from pilotage.train.teachers import remote_logprobs
from pilotage.views import make_view
from pilotage.views.variants import OtherImages, varied


@dataclass(frozen=True, kw_only=True, eq=False)
class _ScoredPart:
    """One rollout, or a part of it, under one view."""

    row: int
    view: View
    shown: slice
    routes: tuple[Route, ...]


@dataclass(frozen=True, kw_only=True, eq=False)
class RowScores:
    """What one route's teacher says of the taught tokens of each row."""

    teacher: TeacherModel | None
    """None for a route without one, which has advantages, or words that are sure of themselves."""
    by_row: Sequence[Tensor | None]
    """States [taught tokens, H]; log-probabilities [taught tokens] of a remote teacher. None without such tokens."""
    advantages: Sequence[Advantages | None] | None = None
    """By row, for a route whose loss is a policy gradient."""

    def of_rows(self, rows: Sequence[int], hidden_MH: Tensor) -> TeacherScores:
        """What `routed_loss` is given for these rows; `hidden_MH` are the student's states."""
        if self.advantages is not None:
            found = [part for row in rows if (part := self.advantages[row]) is not None]
            empty = hidden_MH.new_zeros(0, dtype=torch.float64)
            return Advantages(
                advantage_M=torch.cat([part.advantage_M for part in found] or [empty]).to(hidden_MH.device),
                sampled_logp_M=torch.cat([part.sampled_logp_M for part in found] or [empty]).to(
                    hidden_MH.device
                ),
            )
        found = [part for row in rows if (part := self.by_row[row]) is not None]
        if self.teacher is None or self.teacher.scorer is not None:
            return SampledLogProbs(logp_M=torch.cat(found or [hidden_MH.new_zeros(0)]).to(hidden_MH.device))
        if not found:
            return self.teacher.head_of_none(hidden_MH)
        return self.teacher.head(torch.cat(found).to(hidden_MH.dtype))


class StepScorer:
    """Scores a step's rollouts by all teachers."""

    def __init__(
        self,
        config: DistillConfig,
        *,
        teachers: TeacherModels,
        router: StepRouter,
        others: OtherImages,
        autocast: Callable[[], AbstractContextManager[Any]],
        can_share_prefix: Callable[[Any], bool],
    ) -> None:
        self.config = config
        self.teachers = teachers
        self.router = router
        self._others = others
        self._autocast = autocast
        self._can_share_prefix = can_share_prefix

    def scores(
        self,
        rows: Sequence[StepRow],
        facts: Sequence[StepFacts],
        routed: Mapping[str, Sequence[RoutedRow]],
        *,
        step: int,
        all_sum: AllSum,
        instead: Mapping[str, str] | None = None,
    ) -> dict[str, RowScores]:
        """Route -> its scores. Views under the same weights are one batch, pictures apart from words.

        `instead` names views to show in place of the routes' own.
        """
        found: dict[str, list[Tensor | None]] = {
            route.name: [None] * len(rows) for route in self.router.routes
        }
        batches = self._batches(rows, routed, step, instead or {})
        for key in dict.fromkeys([*self._keys_of_all_ranks(), *batches]):
            parts, teacher = batches.get(key, []), self.teachers[key[0]]
            for part, scores_T in zip(parts, self._score(teacher, rows, parts), strict=True):
                for route in part.routes:
                    mask_T = routed[route.name][part.row].mask_T[part.shown]
                    if mask_T.any():
                        taught = torch.from_numpy(mask_T).to(scores_T.device)
                        found[route.name][part.row] = scores_T if mask_T.all() else scores_T[taught]
        scores = {
            route.name: RowScores(
                teacher=self.teachers[route.weights] if route.has_teacher else None, by_row=found[route.name]
            )
            for route in self.router.routes
        }
        for route in self.router.routes:
            if is_likelihood(route.estimator) and not route.has_teacher:
                # A reference is sure of its own words.
                sure = [torch.zeros(row.num_tokens) for row in routed[route.name]]
                scores[route.name] = RowScores(teacher=None, by_row=sure)
            if isinstance(route.estimator, PolicyGradient):
                scores[route.name] = self._with_advantages(
                    route, scores[route.name], rows, facts, routed[route.name], all_sum
                )
        return scores

    def _keys_of_all_ranks(self) -> list[tuple[Any, bool]]:
        """What ranks read together, in one order on all: words and pictures with each weights that are sharded."""
        weights = dict.fromkeys(route.weights for route in self.router.routes if route.has_teacher)
        return [
            (each, shows) for each in weights if self.teachers[each].is_sharded for shows in (False, True)
        ]

    def _batches(
        self,
        rows: Sequence[StepRow],
        routed: Mapping[str, Sequence[RoutedRow]],
        step: int,
        instead: Mapping[str, str],
    ) -> dict[tuple[Any, bool], list[_ScoredPart]]:
        batches: dict[tuple[Any, bool], list[_ScoredPart]] = {}
        for router in self.router.routers:
            for group in router.forward_groups():
                if not group[0].has_teacher:
                    continue
                for place, row in enumerate(rows):
                    if not self.router.is_mine(router, row):
                        continue
                    # They all begin with the same token, so the longest holds the others.
                    shown = max((routed[route.name][place].shown for route in group), key=_length)
                    if not _length(shown):
                        continue
                    view = self._view(group[0], row, step, instead)
                    key = (group[0].weights, bool(view.images))
                    batches.setdefault(key, []).append(
                        _ScoredPart(row=place, view=view, shown=shown, routes=group)
                    )
        return batches

    def _view(self, route: Route, row: StepRow, step: int, instead: Mapping[str, str]) -> View:
        assert route.view is not None, "a route without a teacher is not scored"
        seed = mixed(self.config.seed, step)
        return varied(
            make_view(instead.get(route.view, route.view), row.moment, self.config.prompts),
            images=route.images,
            other=self._others.pick(row.example, seed=seed) if route.images == "other" else None,
            seed=seed,
            # A view that begins the turn itself goes on doing so.
            prefill=route.prefill or None,
        )

    def _score(
        self, teacher: TeacherModel, rows: Sequence[StepRow], parts: Sequence[_ScoredPart]
    ) -> list[Tensor]:
        """Per part: states [shown tokens, H], or a remote teacher's log-probabilities [shown tokens]."""
        together = teacher.is_sharded
        if not (parts or together):
            return []
        views = [part.view for part in parts]
        rollouts = [
            replace(rows[part.row].rollout, token_ids=rows[part.row].rollout.token_ids[part.shown])
            for part in parts
        ]
        if teacher.scorer is not None:
            return remote_logprobs(teacher.scorer, teacher.backbone, views, rollouts)
        batch_size = self.config.teacher_batch_size or self.config.micro_batch_size
        encoded, batches = encode_in_batches(
            teacher.backbone,
            views,
            rollouts,
            batch_size=batch_size,
            max_prompt_tokens=self.config.max_prompt_tokens,
            pad_to_multiple=self.config.pad_to_multiple,
            together=together,
        )
        with teacher.activated() as model, self._autocast():
            states = score_rows(
                model,
                encoded,
                batch_size=batch_size,
                pad_to_multiple=self.config.pad_to_multiple,
                share_prefix=self._can_share_prefix(model),
                batches=batches,
            )
        if together:
            teacher.gather_head()
        return states[: len(parts)]

    def _with_advantages(
        self,
        route: Route,
        scores: RowScores,
        rows: Sequence[StepRow],
        facts: Sequence[StepFacts],
        routed: Sequence[RoutedRow],
        all_sum: AllSum,
    ) -> RowScores:
        """Once per step, from log-probabilities as they were recorded and scored: no parameter has moved yet."""
        mix = self.config.mix
        assert mix is not None, "the configuration checks that advantages have their mix"
        router = next(router for router in self.router.routers if route in router.routes)
        mine = [place for place, row in enumerate(rows) if self.router.is_mine(router, row)]
        teacher, sampled = [torch.zeros(0)], [torch.zeros(0)]
        for place in mine:
            rollout, mask_T = rows[place].rollout, routed[place].mask_T
            sampled.append(torch.tensor(np.array(rollout.logprobs, dtype=np.float32)[mask_T]))
            if scores.teacher is None or (part := scores.by_row[place]) is None:
                continue
            if scores.teacher.scorer is None:
                ids_M = torch.tensor(np.array(rollout.token_ids)[mask_T], device=part.device)
                head = scores.teacher.head(part)
                part = sampled_logprobs(head, ids_M, temperature=route.estimator.temperature)
            teacher.append(part.float().cpu())
        num_tokens = [routed[place].num_tokens for place in mine]
        parts = advantage_parts(
            mix,
            teacher_logp_M=None if scores.teacher is None else torch.cat(teacher),
            sampled_logp_M=torch.cat(sampled),
            rewards_R=[facts[place].reward for place in mine],
            num_tokens_R=num_tokens,
            groups_R=[rows[place].prompt for place in mine],
            episodes_R=[(rows[place].prompt, rows[place].episode.sample) for place in mine],
        )
        advantage_M = advantages(mix, parts, global_reduced(parts.sums(), all_sum))
        by_row: list[Advantages | None] = [None] * len(rows)
        pieces = zip(advantage_M.split(num_tokens), torch.cat(sampled).split(num_tokens), strict=True)
        for place, (advantage_T, logp_T) in zip(mine, pieces, strict=True):
            by_row[place] = Advantages(advantage_M=advantage_T, sampled_logp_M=logp_T.double())
        return replace(scores, advantages=by_row)

    # -- signals ------------------------------------------------------------------------------------------------------

    def signals(self, student: TeacherModel, rows: Sequence[StepRow]) -> list[dict[str, np.ndarray]]:
        """What token weights are made of, by row: from passes of the student as it is, only where it is asked for.

        `log_ratio` is log p_now - log p_sampling at the sampling temperature; 0 for a data set's answer.
        `visual_advantage` is log p(token | image) - log p(token | no image) at temperature 1.
        """
        signals: list[dict[str, np.ndarray]] = [{} for _ in rows]
        asked = [self.router.signals_of(row) for row in rows]
        # Ranks that read together do so for every signal that a row of any of them may need.
        together = {name for route in self.router.routes for name in route.signals}
        together = together if together and student.is_sharded else set()
        for source in self.config.sources.sources:
            places = [
                place
                for place, names in enumerate(asked)
                if "log_ratio" in names and rows[place].source == source
            ]
            if isinstance(source, FromDataSet):
                for place in places:
                    signals[place]["log_ratio"] = np.zeros(len(rows[place].rollout.token_ids))
            elif places or "log_ratio" in together:
                now = self.student_logprobs(student, rows, places, "same", source.sampling.temperature)
                for place, now_T in zip(places, now, strict=True):
                    signals[place]["log_ratio"] = now_T - np.array(rows[place].rollout.logprobs)
        places = [place for place, names in enumerate(asked) if "visual_advantage" in names]
        if places or "visual_advantage" in together:
            seeing = self.student_logprobs(student, rows, places, "same", 1.0)
            blind = self.student_logprobs(student, rows, places, "none", 1.0)
            for place, seeing_T, blind_T in zip(places, seeing, blind, strict=True):
                signals[place]["visual_advantage"] = seeing_T - blind_T
        return signals

    def student_logprobs(
        self,
        student: TeacherModel,
        rows: Sequence[StepRow],
        places: Sequence[int],
        images: Any,
        temperature: float,
    ) -> list[np.ndarray]:
        """Of these rows' own tokens under the student's view, float64 [T] each."""
        parts = [
            _ScoredPart(
                row=place,
                view=varied(rows[place].view, images=images),
                shown=slice(0, len(rows[place].rollout.token_ids)),
                routes=(),
            )
            for place in places
        ]
        return [
            sampled_logprobs(
                student.head(states_TH),
                torch.tensor(rows[part.row].rollout.token_ids, dtype=torch.long, device=states_TH.device),
                temperature=temperature,
            )
            .double()
            .cpu()
            .numpy()
            for part, states_TH in zip(parts, self._score(student, rows, parts), strict=True)
        ]


def _length(shown: slice) -> int:
    return shown.stop - shown.start

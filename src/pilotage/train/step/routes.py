"""From a step's rollouts to masks and weights: what is known of each row, and which route teaches which token.

R rows of the step on this rank, T tokens of one of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from pilotage.distill.reduce import AllSum, count_routes, global_route_counts, route_row_weights
from pilotage.distill.routes import Route, RoutedRow, Router, num_tokens_of, route_rows
from pilotage.distill.spans import Spans
from pilotage.distill.token_weights import RowFacts
from pilotage.records import Outcome
from pilotage.train.distill_config import DistillConfig
from pilotage.train.step.monitors import SpanFinder
from pilotage.train.step.rows import StepRow


@dataclass(frozen=True, kw_only=True, eq=False)
class StepFacts:
    """What routing and records need of one rollout."""

    spans: Spans
    outcome: Outcome
    """Of the row's episode."""
    reward: float
    """What its turn gets of it (`pilotage.distill.credit`)."""
    signals: Mapping[str, np.ndarray]


@dataclass(frozen=True, kw_only=True, eq=False)
class RoutedStep:
    """All routes over all rows; a row has nothing from the routes of another role than its turn's."""

    routed: Mapping[str, Sequence[RoutedRow]]
    row_weights: Mapping[str, Sequence[float]]
    """Of each taught token, by row [R]: the one division by the step's counts, over all ranks."""

    def of_rows(self, rows: Sequence[int]) -> tuple[dict[str, list[RoutedRow]], dict[str, list[float]]]:
        """Both, for some rows."""
        return (
            {name: [of_route[row] for row in rows] for name, of_route in self.routed.items()},
            {name: [of_route[row] for row in rows] for name, of_route in self.row_weights.items()},
        )


class StepRouter:
    """The configuration's routers, each for the turns of its roles."""

    def __init__(self, config: DistillConfig, *, spans: SpanFinder, tasks: Sequence[str]) -> None:
        self.config = config
        self.plans, self.routers = config.router, config.routers
        self.routes: tuple[Route, ...] = config.routes
        self._scale_of = {route.name: route.scale for route in self.routes}
        self.spans = spans
        self._tasks = tasks

    def router_of(self, row: StepRow) -> Router:
        return self.config.router_of(row.turn.role)

    def is_mine(self, router: Router, row: StepRow) -> bool:
        return self.router_of(row) is router

    def signals_of(self, row: StepRow) -> set[str]:
        """Signals that the row's routes need."""
        return {name for route in self.router_of(row).routes for name in route.signals}

    def facts(self, row: StepRow, signals: Mapping[str, np.ndarray]) -> StepFacts:
        layout = self.router_of(row).layout
        spans = self.spans.find(layout, row.rollout.token_ids, prefill=row.view.prefill)
        outcome = row.episode.outcome
        assert outcome is not None, "episodes that could not be judged are not taught"
        return StepFacts(
            spans=spans,
            outcome=outcome,
            reward=self.config.credit(row.episode)[row.number],
            signals=signals,
        )

    def route(self, rows: Sequence[StepRow], facts: Sequence[StepFacts], all_sum: AllSum) -> RoutedStep:
        """Masks and weights of the step; `all_sum` sums over ranks."""
        routed: dict[str, list[RoutedRow]] = {}
        for router in self.routers:
            mine = [place for place, row in enumerate(rows) if self.is_mine(router, row)]
            known = [
                RowFacts(
                    spans=facts[place].spans,
                    origin=rows[place].origin,
                    reward=facts[place].reward,
                    signals=facts[place].signals,
                )
                for place in mine
            ]
            for name, of_mine in route_rows(router, known).items():
                row_of = dict(zip(mine, of_mine, strict=True))
                routed[name] = [
                    row_of[place] if place in row_of else nothing_routed(len(row.rollout.token_ids))
                    for place, row in enumerate(rows)
                ]
        means, num_tokens = self.config.means, num_tokens_of(routed)
        tasks_R = [row.example.task for row in rows]
        own = count_routes(means, num_tokens, tasks_R, task_names=self._tasks)
        weights = route_row_weights(
            means,
            self.config.reduction,
            num_tokens,
            tasks_R,
            global_route_counts(own, all_sum),
            scale_of=self._scale_of,
        )
        return RoutedStep(routed=routed, row_weights=weights)


def nothing_routed(num_tokens: int) -> RoutedRow:
    """A row with nothing from a route."""
    return RoutedRow(
        mask_T=np.zeros(num_tokens, dtype=bool), weight_T=np.zeros(num_tokens), shown=slice(0, 0)
    )

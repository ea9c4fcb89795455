"""Routes: which tokens of a rollout are taught by which teacher, as data, and the masks and weights that follow.

    Route:  "these tokens are taught by this view, with these weights, this divergence and this estimator"
    Router: a response format and its routes
    `route_rows`: rollouts' spans, validity and rewards -> for every route and row a mask, weights and what is shown

T tokens of one rollout. Arrays are numpy's and live on the CPU; nothing here knows a model.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, get_args

import numpy as np

from pilotage.distill.estimators import Estimator, Sampled
from pilotage.distill.policy_gradient import PolicyGradient
from pilotage.distill.spans import MgsdLayout, SpanLayout, Spans
from pilotage.distill.token_weights import RowFacts, TokenWeight
from pilotage.errors import PilotageError
from pilotage.views.variants import IMAGES, Images

Rows = Literal["valid", "invalid", "all"]
WrittenBy = Literal["student", "teacher", "dataset", "all"]
Append = Literal["full", "upto_span", "span_only"]
ALL_SPANS = "all"


@dataclass(frozen=True, kw_only=True)
class Weights:
    """Which parameters read a teacher's view. Equal ones can share a forward; the kinds are `pilotage.train`'s."""


@dataclass(frozen=True, kw_only=True)
class Route:
    """One teacher's part of the loss. What it is worth against the others is `scale`."""

    name: str
    view: str | None
    """The view that the teacher is shown, by its name; None for a route without a teacher, taught by rewards alone or
    by the words of references."""
    weights: Weights | None
    """Which parameters score it. None: no teacher."""
    estimator: Estimator | PolicyGradient
    spans: tuple[str, ...] | Literal["all"] = ALL_SPANS
    """Spans whose tokens are taught."""
    rows: Rows = "all"
    """Rows that are taught: those that keep to the format, those that break it, or all."""
    written_by: WrittenBy = field(default="all", metadata={"left_out_at_default": True})
    """Rollouts that are taught: the student's own, those that a teacher or the data set wrote, or all."""
    scale: float = 1.0
    """Lambda, the factor of this route's mean."""
    append: Append = "full"
    """What the teacher sees of the rollout before a taught token: everything; the same, but cut behind the last taught
    token (equal scores for a causal model, fewer tokens); or only the taught spans and what lies between them."""
    token_weights: tuple[TokenWeight, ...] = ()
    """Multiplied. A token whose product is 0 is not taught, and does not count in any mean."""
    images: Images = "same"
    prefill: str = ""
    """Text that begins the teacher's turn, before the appended tokens. The student's own prefill is not added."""

    def __post_init__(self) -> None:
        for name, legal in (
            ("rows", get_args(Rows)),
            ("written_by", get_args(WrittenBy)),
            ("append", get_args(Append)),
            ("images", IMAGES),
        ):
            if getattr(self, name) not in legal:
                raise PilotageError(
                    f"route {self.name!r}: {name} {getattr(self, name)!r} must be one of {', '.join(legal)}"
                )
        if (self.view is None) != (self.weights is None):
            raise PilotageError(
                f"route {self.name!r}: view {self.view!r} and weights {self.weights!r} are both given, or both None"
            )
        if not self.has_teacher and not (
            isinstance(self.estimator, PolicyGradient) or is_likelihood(self.estimator)
        ):
            raise PilotageError(
                f"route {self.name!r} has no teacher (view None), and {type(self.estimator).__name__} needs one; "
                "only PolicyGradient and Sampled(as_='likelihood') do without"
            )
        if not (self.scale > 0.0 and np.isfinite(self.scale)):
            raise PilotageError(
                f"route {self.name!r}: scale {self.scale} must be above 0; leave the route out instead"
            )
        if self.spans != ALL_SPANS and (isinstance(self.spans, str) or not self.spans):
            raise PilotageError(
                f"route {self.name!r}: spans {self.spans!r} must be 'all' or a tuple of span names"
            )

    @property
    def has_teacher(self) -> bool:
        """Whether a teacher is asked anything for this route."""
        return self.weights is not None

    @property
    def signals(self) -> tuple[str, ...]:
        """Names of the per-token signals that its token weights need."""
        return tuple(name for weight in self.token_weights for name in weight.signals)

    @property
    def forward_key(self) -> tuple[Hashable, ...]:
        """Equal for two routes whose teachers see the same text under the same weights: one pass scores both."""
        apart = (self.spans, self.rows) if self.append == "span_only" else ()
        return (self.view, self.images, self.prefill, self.weights, *apart)

    def reads(self, spans: Spans, origin: str) -> bool:
        """Whether rows like this one are the route's."""
        return self.written_by in ("all", origin) and (
            self.rows == "all" or (self.rows == "valid") == spans.valid
        )


def is_likelihood(estimator: Estimator | PolicyGradient) -> bool:
    """Whether an estimator is the cross-entropy of a text that somebody else wrote."""
    return isinstance(estimator, Sampled) and estimator.as_ == "likelihood"


@dataclass(frozen=True, kw_only=True)
class Router:
    """A format of responses and the routes that teach them; no token is taught twice unless that is said."""

    layout: SpanLayout
    routes: tuple[Route, ...]
    overlapping: tuple[tuple[str, str], ...] = ()
    """Pairs of routes that may teach the same token. Any other two that could are an error."""

    def __post_init__(self) -> None:
        if not self.routes:
            raise PilotageError("a router needs at least one route")
        names = [route.name for route in self.routes]
        if len(set(names)) < len(names):
            raise PilotageError(f"routes {', '.join(names)}: two have the same name")
        if unknown := {name for pair in self.overlapping for name in pair} - set(names):
            raise PilotageError(f"overlapping names {sorted(unknown)}, but the routes are {', '.join(names)}")
        for route in self.routes:
            if unknown := self.spans_of(route) - set(self.layout.names):
                raise PilotageError(
                    f"route {route.name!r} teaches {sorted(unknown)}; the format has {', '.join(self.layout.names)}"
                )
        allowed = {frozenset(pair) for pair in self.overlapping}
        for place, one in enumerate(self.routes):
            for other in self.routes[place + 1 :]:
                if frozenset((one.name, other.name)) not in allowed and self._may_meet(one, other):
                    shared = ", ".join(sorted(self.spans_of(one) & self.spans_of(other)))
                    raise PilotageError(
                        f"routes {one.name!r} (rows {one.rows}) and {other.name!r} (rows {other.rows}) both teach "
                        f"{shared}; give them other rows or spans, or name the pair in `overlapping`"
                    )

    def spans_of(self, route: Route) -> set[str]:
        return set(self.layout.names if route.spans == ALL_SPANS else route.spans)

    def _may_meet(self, one: Route, other: Route) -> bool:
        rows_meet = "all" in (one.rows, other.rows) or one.rows == other.rows
        writers = (one.written_by, other.written_by)
        rows_meet = rows_meet and ("all" in writers or one.written_by == other.written_by)
        return rows_meet and bool(self.spans_of(one) & self.spans_of(other))

    @property
    def scale_of(self) -> dict[str, float]:
        return {route.name: route.scale for route in self.routes}

    def forward_groups(self) -> list[tuple[Route, ...]]:
        """Routes in groups whose tokens one pass of one teacher can score, in the order of the routes."""
        groups: dict[tuple[Hashable, ...], list[Route]] = {}
        for route in self.routes:
            groups.setdefault(route.forward_key, []).append(route)
        return [tuple(group) for group in groups.values()]


@dataclass(frozen=True, kw_only=True, eq=False)
class RoutedRow:
    """What one route does with one rollout."""

    mask_T: np.ndarray
    """bool: the tokens that are taught."""
    weight_T: np.ndarray
    """float64: product of the token weights; 0 where the mask does not hold."""
    shown: slice
    """The tokens that are appended to the teacher's prompt; empty when it has nothing to teach."""

    @property
    def num_tokens(self) -> int:
        """Taught tokens."""
        return int(self.mask_T.sum())


def route_rows(router: Router, rows: Sequence[RowFacts]) -> dict[str, list[RoutedRow]]:
    """Route name -> one `RoutedRow` per row, in order.

    Raises ValueError when a row lacks a reward or a signal that a token weight asks for, or a weight is no weight.
    """
    routed = {
        route.name: [_route_row(router, route, row, at) for at, row in enumerate(rows)]
        for route in router.routes
    }
    if not router.overlapping:
        for times_T in times_taught(routed):
            assert times_T.size == 0 or times_T.max() <= 1, (
                "routes without common spans or rows share no token"
            )
    return routed


def _route_row(router: Router, route: Route, row: RowFacts, at: int) -> RoutedRow:
    mask_T = np.zeros(row.num_tokens, dtype=bool)
    if route.reads(row.spans, row.origin):
        mask_T |= np.array(row.spans.mask(*router.spans_of(route)), dtype=bool)
    weight_T = mask_T.astype(np.float64)
    if mask_T.any():
        for token_weight in route.token_weights:
            weight_T *= _factor(route, token_weight, row, at)
    # What a teacher sees does not depend on the weights, unless nothing is left to teach.
    shown = _shown(route.append, mask_T) if weight_T.any() else slice(0, 0)
    return RoutedRow(mask_T=weight_T > 0.0, weight_T=weight_T, shown=shown)


def _factor(route: Route, token_weight: TokenWeight, row: RowFacts, at: int) -> np.ndarray | float:
    where = f"route {route.name!r}, row {at}, {type(token_weight).__name__}"
    for name in token_weight.signals:
        if name not in row.signals:
            raise ValueError(f"{where}: no signal {name!r}; the row has {sorted(row.signals)}")
        if np.shape(row.signals[name]) != (row.num_tokens,):
            raise ValueError(
                f"{where}: signal {name!r} has shape {np.shape(row.signals[name])}, the row {row.num_tokens} tokens"
            )
    factor = token_weight(row)
    if not (np.isfinite(factor).all() and np.min(factor) >= 0.0):
        raise ValueError(f"{where}: weights must be finite and at least 0, and the least is {np.min(factor)}")
    return factor


def _shown(append: Append, mask_T: np.ndarray) -> slice:
    taught = np.flatnonzero(mask_T)
    if not taught.size:
        return slice(0, 0)
    first, stop = int(taught[0]), int(taught[-1]) + 1
    if append == "full":
        return slice(0, len(mask_T))
    return slice(0 if append == "upto_span" else first, stop)


def times_taught(routed: Mapping[str, Sequence[RoutedRow]]) -> list[np.ndarray]:
    """For each row, how many routes teach each token [T]; 0 is a token that nothing teaches."""
    return [
        np.stack([row.mask_T for row in rows]).sum(axis=0, dtype=np.int64)
        for rows in zip(*routed.values(), strict=True)
    ]


def num_tokens_of(routed: Mapping[str, Sequence[RoutedRow]]) -> dict[str, list[int]]:
    """Route -> its taught tokens in each row [R]: what the means divide by (`pilotage.distill.reduce`)."""
    return {name: [row.num_tokens for row in rows] for name, rows in routed.items()}


def one_teacher(
    *, view: str, weights: Weights, estimator: Estimator | PolicyGradient, layout: SpanLayout | None = None
) -> Router:
    """The common case: every token by one teacher, who is shown `view`. The route's name is `plan`."""
    route = Route(name="plan", view=view, weights=weights, estimator=estimator)
    return Router(layout=layout or MgsdLayout(), routes=(route,))

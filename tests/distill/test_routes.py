"""Routes: who teaches which token with what weight, by hand; and the sums that become one step's loss."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pilotage.distill.divergences import DropCap, ForwardKL, ReverseKL
from pilotage.distill.estimators import FullVocabulary
from pilotage.distill.reduce import (
    REDUCTIONS,
    ROUTE_MEANS,
    StepCounts,
    count_routes,
    count_step,
    global_route_counts,
    route_row_weights,
    row_weights,
)
from pilotage.distill.routes import Route, Router, num_tokens_of, route_rows, times_taught
from pilotage.distill.spans import MgsdLayout, Spans, WholeLayout
from pilotage.distill.token_weights import ImportanceCap, RewardGate, RowFacts, VisualAdvantage
from pilotage.distill.vigos_spans import VIGOS_SPANS, VigosLayout
from pilotage.errors import PilotageError
from weights import Given

KL = FullVocabulary(divergence=ForwardKL(), cap=DropCap(tau=0.05))
BASE = "the initial weights"
D, R, A, U = VIGOS_SPANS


def route(name: str = "one", **changes: Any) -> Route:
    return Route(**{"name": name, "view": "teacher", "weights": BASE, "estimator": KL, **changes})


VIGOS = Router(
    layout=VigosLayout(),
    routes=(
        route("perception", spans=(D,), rows="valid", append="span_only"),
        route("reasoning", spans=(R, A), rows="valid", append="span_only", prefill="<think>"),
        route("reference", rows="invalid", scale=2.0, prefill="<description>"),
    ),
)


def row(owners: str, *, valid: bool = True, reward: float | None = None, **signals: Any) -> RowFacts:
    """A row whose tokens' owners are named by their first letters, u for untaught."""
    names = {name[0]: name for name in VIGOS_SPANS}
    spans = Spans(owners=tuple(names[letter] for letter in owners), names=VIGOS_SPANS, valid=valid)
    return RowFacts(
        spans=spans, reward=reward, signals={name: np.array(value) for name, value in signals.items()}
    )


def masks(router: Router, *rows: RowFacts) -> dict[str, list[str]]:
    """Route -> a text per row, `#` for a taught token."""
    return {
        name: ["".join(".#"[int(taught)] for taught in routed.mask_T) for routed in of_rows]
        for name, of_rows in route_rows(router, rows).items()
    }


def test_vigos_routes_by_hand():
    assert masks(VIGOS, row("dduurraa"), row("ddurr", valid=False), row("")) == {
        "perception": ["##......", ".....", ""],
        "reasoning": ["....####", ".....", ""],
        "reference": ["........", "#####", ""],
    }


@given(st.text("drau", max_size=9), st.booleans())
def test_an_invalid_row_gets_its_route_and_no_other_and_no_token_is_taught_twice(owners, valid):
    routed = route_rows(VIGOS, [row(owners, valid=valid)])
    taught = {name for name, (one,) in routed.items() if one.num_tokens}
    assert taught <= ({"perception", "reasoning"} if valid else {"reference"})
    (times_T,) = times_taught(routed)
    assert times_T.tolist() == [0 if valid and owner == "u" else 1 for owner in owners]


@pytest.mark.parametrize(
    ("append", "shown"),
    [("full", slice(0, 8)), ("upto_span", slice(0, 6)), ("span_only", slice(2, 6))],
)
def test_what_the_teacher_is_shown(append, shown):
    """The reasoning runs over tokens 2 to 5 with an untaught one inside, which is shown all the same."""
    router = Router(layout=VigosLayout(), routes=(route(spans=(R,), append=append),))
    ((routed,),) = route_rows(router, [row("ddrurraa")]).values()
    assert routed.shown == shown
    assert routed.mask_T.tolist() == [False, False, True, False, True, True, False, False]


def test_teacher_with_nothing_to_teach_is_shown_nothing():
    for append in ("full", "upto_span", "span_only"):
        router = Router(layout=VigosLayout(), routes=(route(spans=(R,), append=append),))
        ((routed, gated),) = route_rows(router, [row("dda"), row("")]).values()
        assert routed.shown == gated.shown == slice(0, 0)


# -- weights ------------------------------------------------------------------------------------------------------


def weights(token_weights: tuple[Any, ...], facts: RowFacts, **changes: Any) -> list[float]:
    router = Router(layout=VigosLayout(), routes=(route(token_weights=token_weights, **changes),))
    ((routed,),) = route_rows(router, [facts]).values()
    return routed.weight_T.tolist()


def test_reward_gate_teaches_successes_or_failures_alone():
    gate = RewardGate()
    failures = RewardGate(reached=0.0, missed=1.0)
    for reward, of_gate, of_failures in ((1.0, 1.0, 0.0), (0.5, 1.0, 0.0), (0.49, 0.0, 1.0)):
        assert weights((gate,), row("ra", reward=reward)) == [of_gate] * 2
        assert weights((failures,), row("ra", reward=reward)) == [of_failures] * 2


def test_importance_is_truncated():
    """Ratios 1/2, 1, 3 with a cap of 2."""
    facts = row("rra", log_ratio=[np.log(0.5), 0.0, np.log(3.0)])
    assert weights((ImportanceCap(cap=2.0),), facts) == pytest.approx([0.5, 1.0, 2.0])
    assert weights((ImportanceCap(cap=2.0),), row("r", log_ratio=[1000.0])) == pytest.approx([2.0])


def test_visual_advantage_by_hand():
    """Gains -1, 0, 1/2 and 9 nats."""
    facts = row("rrra", visual_advantage=[-1.0, 0.0, 0.5, 9.0])
    assert weights((VisualAdvantage(cap=3.0),), facts) == [0.0, 0.0, 0.5, 3.0]
    assert weights((VisualAdvantage(cap=3.0, base=0.25, slope=2.0),), facts) == [0.25, 0.25, 1.25, 3.0]


def test_weights_multiply_and_zero_takes_the_token_out():
    facts = row("drra", reward=1.0, mine=[5.0, 0.0, 2.0, 3.0])
    both = (RewardGate(reached=0.5), Given(signal="mine"))
    router = Router(
        layout=VigosLayout(), routes=(route(spans=(R, A), append="span_only", token_weights=both),)
    )
    ((routed,),) = route_rows(router, [facts]).values()
    assert routed.weight_T.tolist() == [0.0, 0.0, 1.0, 1.5]
    assert routed.mask_T.tolist() == [False, False, True, True]
    assert routed.num_tokens == 2
    assert routed.shown == slice(1, 4)  # what is read does not depend on the weights
    shut = replace(facts, reward=0.0)
    ((routed,),) = route_rows(router, [shut]).values()
    assert (routed.num_tokens, routed.shown) == (0, slice(0, 0))


@pytest.mark.parametrize(
    ("weight", "facts", "named"),
    [
        (RewardGate(), row("r"), "needs a reward"),
        (Given(signal="mine"), row("r"), "row 0, Given: no signal 'mine'"),
        (Given(signal="mine"), row("rr", mine=[1.0]), r"shape \(1,\), the row 2 tokens"),
        (Given(signal="mine"), row("r", mine=[-1.0]), "at least 0"),
        (Given(signal="mine"), row("r", mine=[np.nan]), "finite"),
    ],
)
def test_weights_that_are_none_are_named(weight, facts, named):
    with pytest.raises(ValueError, match=named):
        weights((weight,), facts)


def test_signals_that_a_route_needs_are_known_beforehand():
    gated = route(token_weights=(RewardGate(), ImportanceCap(cap=2.0), VisualAdvantage(cap=1.0)))
    assert gated.signals == ("log_ratio", "visual_advantage")


# -- what is refused ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda: Router(layout=MgsdLayout(), routes=()), "at least one route"),
        (lambda: Router(layout=MgsdLayout(), routes=(route("a"), route("a"))), "same name"),
        (lambda: Router(layout=MgsdLayout(), routes=(route(spans=(R,)),)), "reasoning.*state, route, answer"),
        (lambda: Router(layout=MgsdLayout(), routes=(route("a"), route("b"))), "'a' .rows all. and 'b'.*both teach"),
        (
            lambda: Router(
                layout=VigosLayout(),
                routes=(route("a", rows="valid", spans=(D, R)), route("b", rows="all", spans=(R, A))),
            ),
            "both teach reasoning",
        ),
        (lambda: Router(layout=MgsdLayout(), routes=(route("a"),), overlapping=(("a", "z"),)), r"\['z'\]"),
        (lambda: route(rows="good"), "'good' must be one of valid, invalid, all"),
        (lambda: route(append="after"), "full, upto_span, span_only"),
        (lambda: route(images="two"), "same, none, crop, other"),
        (lambda: route(scale=0.0), "above 0"),
        (lambda: route(spans="answer"), "tuple of span names"),
        (lambda: route(spans=()), "tuple of span names"),
        (lambda: ImportanceCap(cap=0.0), "above 0"),
        (lambda: VisualAdvantage(cap=1.0, base=-1.0), "at least 0"),
    ],
)  # fmt: skip
def test_routes_that_make_no_sense_are_named(make, named):
    with pytest.raises(ValueError, match=named):
        make()


def test_overlap_is_allowed_where_it_is_said():
    router = Router(
        layout=VigosLayout(),
        routes=(route("a"), route("b", spans=(A,))),
        overlapping=(("b", "a"),),
    )
    (times_T,) = times_taught(route_rows(router, [row("dra")]))
    assert times_T.tolist() == [1, 1, 2]


def test_rows_apart_make_routes_disjoint():
    router = Router(layout=VigosLayout(), routes=(route("a", rows="valid"), route("b", rows="invalid")))
    assert masks(router, row("dra"), row("dra", valid=False)) == {"a": ["###", "..."], "b": ["...", "###"]}


def test_routes_with_the_same_teacher_are_scored_together():
    router = Router(
        layout=VigosLayout(),
        routes=(
            route("reasoning", spans=(R,)),
            route("answer", spans=(A,), scale=3.0, append="upto_span"),
            route("description", spans=(D,), view="image_only"),
            route("rest", spans=(U,), append="span_only"),
        ),
    )
    assert [[one.name for one in group] for group in router.forward_groups()] == [
        ["reasoning", "answer"],
        ["description"],
        ["rest"],
    ]


def test_whole_layout_is_one_span():
    spans = WholeLayout().find([b"a", b"", b"b"], "ab")
    assert (spans.owners, spans.valid) == (("response",) * 3, True)
    Router(layout=WholeLayout(), routes=(route(rows="valid"),))
    with pytest.raises(PilotageError, match="the format has response"):
        Router(layout=WholeLayout(), routes=(route(spans=(A,)),))


# -- sums and means -----------------------------------------------------------------------------------------------

# Two routes over three rows: `a` has 1, 3 and 0 tokens of value 6; 1, 2, 3; and `b` none, none and 2 of 10 and 20.
NUM_TOKENS = {"a": [1, 3, 0], "b": [0, 0, 2]}
VALUES = {"a": [6.0, 1.0, 2.0, 3.0], "b": [10.0, 20.0]}
TASKS = ["maze", "maze", "frozenlake"]
SCALES = {"a": 1.0, "b": 2.0}
BY_HAND = {
    ("apart", "token"): 12 / 4 + 2 * 30 / 2,
    ("apart", "sequence"): (6 + 2) / 2 + 2 * 15,
    ("apart", "task"): 12 / 4 + 2 * 30 / 2,
    ("pooled", "token"): (12 + 2 * 30) / 6,
    ("pooled", "sequence"): (6 + 2 + 2 * 15) / 3,
    ("pooled", "task"): (12 / 4 + 2 * 30 / 2) / 2,
}


def step_loss(means: Any, reduction: Any, counts: dict[str, StepCounts], rows: slice) -> float:
    """The loss of some of the rows, given the counts of all."""
    num_tokens = {name: lengths[rows] for name, lengths in NUM_TOKENS.items()}
    weights_of = route_row_weights(means, reduction, num_tokens, TASKS[rows], counts, scale_of=SCALES)
    total = 0.0
    for name, lengths in NUM_TOKENS.items():
        parts = torch.tensor(VALUES[name]).split(lengths)[rows]
        total += sum(w * float(p.sum()) for w, p in zip(weights_of[name], parts, strict=True))
    return total


@pytest.mark.parametrize(("means", "reduction"), BY_HAND)
def test_means_of_routes_by_hand(means, reduction):
    counts = count_routes(means, NUM_TOKENS, TASKS)
    assert step_loss(means, reduction, counts, slice(None)) == pytest.approx(BY_HAND[means, reduction])


@pytest.mark.parametrize(("means", "reduction"), BY_HAND)
@pytest.mark.parametrize("border", [0, 1, 2, 3])
def test_loss_of_routes_does_not_depend_on_ranks(means, reduction, border):
    cuts = [slice(0, border), slice(border, 3)]
    local = [
        count_routes(
            means,
            {name: lengths[cut] for name, lengths in NUM_TOKENS.items()},
            TASKS[cut],
            task_names=["frozenlake", "maze"],
        )
        for cut in cuts
    ]
    sent: list[torch.Tensor] = []
    for counts in local:
        global_route_counts(counts, lambda flat: sent.append(flat) or flat)
    assert len(sent) == 2  # one call a rank
    everywhere = [global_route_counts(counts, lambda flat: sent[0] + sent[1]) for counts in local]
    assert everywhere[0] == everywhere[1] == count_routes(means, NUM_TOKENS, TASKS)
    total = sum(
        step_loss(means, reduction, counts, cut) for counts, cut in zip(everywhere, cuts, strict=True)
    )
    assert total == pytest.approx(BY_HAND[means, reduction])


@pytest.mark.parametrize("means", ROUTE_MEANS)
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_one_route_is_reduced_as_ever(means: Any, reduction: Any):
    lengths = [1, 3, 0]
    counts = count_routes(means, {"a": lengths}, TASKS)
    weights_of = route_row_weights(means, reduction, {"a": lengths}, TASKS, counts, scale_of={"a": 1.0})
    assert weights_of["a"] == row_weights(reduction, lengths, TASKS, count_step(lengths, TASKS))


@pytest.mark.parametrize("means", ROUTE_MEANS)
def test_route_without_tokens_adds_nothing(means: Any):
    num_tokens = {"a": [2, 1], "b": [0, 0]}
    counts = count_routes(means, num_tokens, ["maze"] * 2)
    weights_of = route_row_weights(
        means, "token", num_tokens, ["maze"] * 2, counts, scale_of={"a": 1.0, "b": 5.0}
    )
    assert weights_of["a"] == pytest.approx([1 / 3, 1 / 3])
    assert weights_of["b"] == [0.0, 0.0]


def test_pooled_means_count_the_tokens_of_all_routes_in_a_row():
    """Tokens per row 2 + 1 and 1 + 0: four in all, two rows."""
    num_tokens, tasks = {"a": [2, 1], "b": [1, 0]}, ["maze"] * 2
    counts = count_routes("pooled", num_tokens, tasks)
    expected: list[tuple[Any, dict[str, list[float]]]] = [
        ("token", {"a": [1 / 4, 1 / 4], "b": [2 / 4, 0.0]}),
        ("sequence", {"a": [1 / 6, 1 / 2], "b": [2 / 6, 0.0]}),
    ]
    for reduction, weights_of in expected:
        found = route_row_weights("pooled", reduction, num_tokens, tasks, counts, scale_of=SCALES)
        assert found == {name: pytest.approx(of_rows) for name, of_rows in weights_of.items()}


def test_one_invalid_row_in_sixteen_outweighs_a_token_of_a_valid_one_by_thirty():
    """ViGOS's own means: 15 valid rows of 20 tokens, one invalid row of 20, lambda 2. Pooled, by lambda alone."""
    rows = [row("r" * 20)] * 15 + [row("r" * 20, valid=False)]
    num_tokens = num_tokens_of(route_rows(VIGOS, rows))
    cases: list[tuple[Any, float]] = [("apart", 30.0), ("pooled", 2.0)]
    for means, times in cases:
        counts = count_routes(means, num_tokens, ["maze"] * 16)
        weights_of = route_row_weights(
            means, "token", num_tokens, ["maze"] * 16, counts, scale_of=VIGOS.scale_of
        )
        assert weights_of["reference"][15] / weights_of["reasoning"][0] == pytest.approx(times)


def test_unknown_means_are_refused():
    with pytest.raises(ValueError, match="apart, pooled"):
        count_routes("mean", NUM_TOKENS, TASKS)  # type: ignore[arg-type]


def test_equal_routes_are_one():
    assert len({*VIGOS.routes, route("perception", spans=(D,), rows="valid", append="span_only")}) == 3
    assert replace(VIGOS.routes[2], estimator=FullVocabulary(divergence=ReverseKL())) != VIGOS.routes[2]

"""The loss of several routes: what must hold of every combination of estimator, weights, means and routes."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from pilotage.distill.advantage import teacher_advantage
from pilotage.distill.chunked import Head
from pilotage.distill.divergences import JSD, DropCap, ElementCap, ForwardKL, ReverseKL
from pilotage.distill.estimators import FullVocabulary, Sampled, SampledLogProbs, TopK
from pilotage.distill.policy_gradient import Advantages, ClipRange, PolicyGradient
from pilotage.distill.reduce import (
    REDUCTIONS,
    ROUTE_MEANS,
    count_routes,
    global_route_counts,
    route_row_weights,
)
from pilotage.distill.route_loss import routed_loss, taught_index
from pilotage.distill.routes import Route, RoutedRow, Router, num_tokens_of, route_rows
from pilotage.distill.spans import Spans
from pilotage.distill.token_weights import RowFacts
from pilotage.distill.vigos_spans import VIGOS_SPANS, VigosLayout
from weights import Given

V, H = 11, 4
D, R, A, U = VIGOS_SPANS
FORWARD = FullVocabulary(divergence=ForwardKL(), cap=DropCap(tau=3.0))
ESTIMATORS: dict[str, Any] = {
    "forward": FORWARD,
    "reverse": FullVocabulary(divergence=ReverseKL()),
    "jsd": FullVocabulary(divergence=JSD(beta=0.5), chunk_size=2),
    "element cap": FullVocabulary(divergence=ForwardKL(), cap=ElementCap(tau=0.05)),
    "tail": TopK(k=3, divergence=ReverseKL()),
    "renormalised": TopK(k=3, divergence=ForwardKL(), mode="renormalise"),
    "advantage": Sampled(as_="advantage"),
    "k3": Sampled(as_="loss"),
    "ppo": PolicyGradient(clip=ClipRange(), cap=2.0),
}


def vigos(estimator: Any = FORWARD, last: Any = None) -> Router:
    def route(name: str, **changes: Any) -> Route:
        return Route(**{"name": name, "view": name, "weights": "off", "estimator": estimator, **changes})

    return Router(
        layout=VigosLayout(),
        routes=(
            route("perception", spans=(D,), rows="valid"),
            route("reasoning", spans=(R, A), rows="valid", token_weights=(Given(signal="mine"),)),
            route("reference", rows="invalid", scale=2.0, estimator=last or estimator),
        ),
    )


MEANS = list(itertools.product(ROUTE_MEANS, REDUCTIONS))
OWNERS = ["ddurraa", "dddra", "", "drraau"]
VALID = [True, True, True, False]
TASKS = ["maze", "lake", "lake", "maze"]
LENGTHS = [len(owners) for owners in OWNERS]
N = sum(LENGTHS)


def facts() -> list[RowFacts]:
    names = {name[0]: name for name in VIGOS_SPANS}
    rng = np.random.default_rng(0)
    return [
        RowFacts(
            spans=Spans(owners=tuple(names[x] for x in owners), names=VIGOS_SPANS, valid=valid),
            signals={"mine": rng.uniform(0.5, 1.5, len(owners))},
        )
        for owners, valid in zip(OWNERS, VALID, strict=True)
    ]


class Models:
    """Heads of a student and of one teacher per route, over all N tokens, in float64."""

    def __init__(self, *, equal: bool = False) -> None:
        generator = torch.Generator().manual_seed(3)

        def normal(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=generator, dtype=torch.float64)

        self.hidden, self.weight = normal(N, H), normal(V, H)
        self.teacher_weight = self.weight if equal else normal(V, H)
        self.teacher_hidden = {
            name: self.hidden if equal else normal(N, H) for name in ("perception", "reasoning", "reference")
        }
        self.other_weight_of: dict[str, Tensor] = {}
        self.ids = torch.randint(V, (N,), generator=generator)

    def scores(self, route: Route, index_M: Tensor) -> Any:
        """Scores of the tokens of the whole step that a route teaches."""
        weight_VH = self.other_weight_of.get(route.name, self.teacher_weight)
        head = Head(hidden_MH=self.teacher_hidden[route.name][index_M], weight_VH=weight_VH)
        if not isinstance(route.estimator, PolicyGradient):
            return head
        ids_M1 = self.ids[index_M][:, None]
        logp_M = (self.hidden[index_M] @ self.weight.t()).log_softmax(-1).gather(1, ids_M1)[:, 0]
        teacher_logp_M = head.logits().log_softmax(-1).gather(1, ids_M1)[:, 0]
        return Advantages(advantage_M=teacher_advantage(teacher_logp_M, logp_M), sampled_logp_M=logp_M)


def step(
    router: Router,
    models: Models,
    *,
    means: Any = "apart",
    reduction: Any = "token",
    ranks: list[list[list[int]]] | None = None,
) -> tuple[float, Tensor, Tensor]:
    """Loss, gradient of the head and of the hidden states [N, H] of a step, spread over ranks and micro-batches."""
    ranks = ranks or [[[0, 1, 2, 3]]]
    rows = facts()
    hidden, weight = models.hidden.clone().requires_grad_(), models.weight.clone().requires_grad_()
    borders = np.cumsum([0, *LENGTHS])
    of_rank = [route_rows(router, [rows[at] for batch in rank for at in batch]) for rank in ranks]
    local = [
        count_routes(
            means,
            num_tokens_of(routed),
            [TASKS[at] for batch in rank for at in batch],
            task_names=["lake", "maze"],
        )
        for rank, routed in zip(ranks, of_rank, strict=True)
    ]
    sent: list[Tensor] = []
    for counts in local:
        global_route_counts(counts, lambda flat: sent.append(flat) or flat)
    total = 0.0
    for rank, routed, counts in zip(ranks, of_rank, local, strict=True):
        everywhere = global_route_counts(counts, lambda _: torch.stack(sent).sum(0))
        tasks = [TASKS[at] for batch in rank for at in batch]
        weights = route_row_weights(
            means, reduction, num_tokens_of(routed), tasks, everywhere, scale_of=router.scale_of
        )
        done = 0
        for batch in rank:
            places = torch.cat([torch.arange(borders[at], borders[at + 1]) for at in batch])
            part: dict[str, list[RoutedRow]] = {
                name: of[done : done + len(batch)] for name, of in routed.items()
            }
            loss = routed_loss(
                router,
                part,
                {name: of[done : done + len(batch)] for name, of in weights.items()},
                student=Head(hidden_MH=hidden[places], weight_VH=weight),
                teachers={
                    route.name: models.scores(route, places[taught_index(part[route.name])])
                    for route in router.routes
                },
                token_ids_N=models.ids[places],
            )
            loss.total.backward()
            total += loss.total.item()
            done += len(batch)
    assert weight.grad is not None and hidden.grad is not None
    return total, weight.grad, hidden.grad


@pytest.mark.parametrize("name", ESTIMATORS)
@pytest.mark.parametrize(("means", "reduction"), MEANS)
def test_teachers_equal_to_the_student_give_no_gradient(name, means, reduction):
    loss, weight_grad, hidden_grad = step(
        vigos(ESTIMATORS[name]), Models(equal=True), means=means, reduction=reduction
    )
    assert abs(loss) < 1e-12
    assert weight_grad.abs().max() < 1e-12
    assert hidden_grad.abs().max() < 1e-12


SPREADS = [[[[0], [1, 2], [3]]], [[[0, 1]], [[2, 3]]], [[[1, 0]], [[2], [3]]], [[[0]], [[1]], [[2]], [[3]]]]


@pytest.mark.parametrize("name", ESTIMATORS)
@pytest.mark.parametrize(("means", "reduction"), MEANS)
def test_the_step_does_not_depend_on_ranks_and_accumulation(name, means, reduction):
    router, models = vigos(ESTIMATORS[name], FORWARD), Models()
    whole = step(router, models, means=means, reduction=reduction)
    assert whole[2].abs().max() > 1e-3
    for ranks in SPREADS:
        spread = step(router, models, means=means, reduction=reduction, ranks=ranks)
        assert spread[0] == pytest.approx(whole[0], abs=1e-6)
        for got, expected in zip(spread[1:], whole[1:], strict=True):
            torch.testing.assert_close(got, expected, rtol=0, atol=1e-6)  # weights are float32


@pytest.mark.parametrize("name", ESTIMATORS)
def test_a_token_that_nothing_teaches_has_no_gradient_and_every_other_has_one(name):
    _, _, hidden_grad = step(vigos(ESTIMATORS[name]), Models())
    owners = "".join(OWNERS)
    invalid = range(N - LENGTHS[3], N)
    untaught = [at for at in range(N) if owners[at] == "u" and at not in invalid]
    assert hidden_grad[untaught].abs().max() == 0.0
    taught = hidden_grad[[at for at in range(N) if at not in untaught]].abs().amax(-1)
    if name in ("reverse", "jsd", "tail", "renormalised", "advantage", "k3", "ppo"):
        assert (taught > 1e-6).all()


def test_an_invalid_row_hears_its_own_teacher_and_no_other():
    router, models = vigos(ESTIMATORS["reverse"]), Models()
    _, _, before = step(router, models)
    for name, rows_that_change in (("reference", [3]), ("perception", [0, 1]), ("reasoning", [0, 1])):
        others = Models()
        others.teacher_hidden[name] = -others.teacher_hidden[name]
        _, _, after = step(router, others)
        changed = (after != before).any(-1).split(LENGTHS)
        assert [at for at, row in enumerate(changed) if row.any()] == rows_that_change


def test_one_call_for_several_routes_is_the_sum_of_their_own():
    """Perception and reasoning share estimator and head; alone, each gives its part."""
    router, models = vigos(last=FullVocabulary(divergence=ReverseKL())), Models()
    together = step(router, models)
    parts = [step(replace(router, routes=(route,)), models) for route in router.routes]
    assert together[0] == pytest.approx(sum(part[0] for part in parts), abs=1e-7)
    torch.testing.assert_close(
        together[1], torch.stack([part[1] for part in parts]).sum(0), rtol=0, atol=1e-7
    )


@pytest.mark.parametrize("name", ESTIMATORS)
def test_teachers_with_other_heads_are_not_mixed_up(name):
    router, models = vigos(ESTIMATORS[name]), Models()
    models.other_weight_of["reasoning"] = -models.teacher_weight
    together = step(router, models)
    parts = [step(replace(router, routes=(route,)), models) for route in router.routes]
    assert together[0] == pytest.approx(sum(part[0] for part in parts), abs=1e-6)
    torch.testing.assert_close(
        together[1], torch.stack([part[1] for part in parts]).sum(0), rtol=0, atol=1e-6
    )


def test_step_by_hand():
    """Full forward KL per token, divided by hand: lambda / (the route's tokens) * the token's own weight."""
    router, models, rows = vigos(FullVocabulary(divergence=ForwardKL())), Models(), facts()
    logp = (models.hidden @ models.weight.t()).log_softmax(-1)
    expected, owners = 0.0, "".join(OWNERS)
    mine = np.concatenate([row.signals["mine"] for row in rows])
    valid_N = np.repeat(VALID, LENGTHS)
    for name, spans, valid, scale in (
        ("perception", "d", True, 1.0),
        ("reasoning", "ra", True, 1.0),
        ("reference", "drau", False, 2.0),
    ):
        teacher = (models.teacher_hidden[name] @ models.teacher_weight.t()).log_softmax(-1)
        nats = torch.nn.functional.kl_div(logp, teacher, reduction="none", log_target=True).sum(-1)
        places = [at for at in range(N) if owners[at] in spans and valid_N[at] == valid]
        weights = mine[places] if name == "reasoning" else np.ones(len(places))
        expected += scale * float((nats[places].numpy() * weights).sum()) / len(places)
    assert step(router, models)[0] == pytest.approx(expected, abs=1e-6)


def test_monitors_come_by_route():
    router, models = vigos(), Models()
    routed = route_rows(router, facts())
    weights = route_row_weights(
        "apart", "token", num_tokens_of(routed), TASKS, count_routes("apart", num_tokens_of(routed), TASKS),
        scale_of=router.scale_of,
    )  # fmt: skip
    loss = routed_loss(
        router,
        routed,
        weights,
        student=Head(hidden_MH=models.hidden, weight_VH=models.weight),
        teachers={r.name: models.scores(r, taught_index(routed[r.name])) for r in router.routes},
        token_ids_N=models.ids,
    )
    assert list(loss.by_route) == ["perception", "reasoning", "reference"]
    assert {name: len(part.value_M) for name, part in loss.by_route.items()} == {
        "perception": 5,
        "reasoning": 6,
        "reference": 6,
    }
    total = sum(float(part.value_M.sum()) for part in loss.by_route.values())
    assert total == pytest.approx(loss.total.item())
    alone = FORWARD(
        student=Head(hidden_MH=models.hidden[taught_index(routed["reasoning"])], weight_VH=models.weight),
        teacher=models.scores(router.routes[1], taught_index(routed["reasoning"])),
    )
    torch.testing.assert_close(loss.by_route["reasoning"].divergence_M, alone.divergence_M)
    torch.testing.assert_close(loss.by_route["reasoning"].capped_M, alone.capped_M)


def test_scores_that_do_not_fit_are_named():
    router, models = vigos(Sampled(as_="advantage")), Models()
    routed = route_rows(router, facts())
    row_weights = {name: [1.0] * 4 for name in routed}
    student = Head(hidden_MH=models.hidden, weight_VH=models.weight)
    scores: dict[str, Any] = {
        name: SampledLogProbs(logp_M=torch.zeros(sum(row.num_tokens for row in rows)))
        for name, rows in routed.items()
    }
    routed_loss(router, routed, row_weights, student=student, teachers=scores, token_ids_N=models.ids)
    short = scores | {"reference": SampledLogProbs(logp_M=torch.zeros(2))}
    with pytest.raises(ValueError, match="'reference' teaches 6 tokens and its teacher scored 2"):
        routed_loss(router, routed, row_weights, student=student, teachers=short, token_ids_N=models.ids)
    del scores["perception"]
    with pytest.raises(ValueError, match="'perception' has no teacher"):
        routed_loss(router, routed, row_weights, student=student, teachers=scores, token_ids_N=models.ids)

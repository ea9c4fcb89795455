"""Reductions: the step's loss is one division, however its rows are spread over micro-batches and ranks."""

from __future__ import annotations

import math

import pytest
import torch

from pilotage.distill.chunked import Head
from pilotage.distill.divergences import ReverseKL
from pilotage.distill.estimators import FullVocabulary
from pilotage.distill.reduce import (
    REDUCTIONS,
    Reduced,
    StepCounts,
    count_step,
    global_reduced,
    global_route_counts,
    row_weights,
)
from weights import token_weights

# Three rows of 1, 3 and 2 tokens, the last of another task, and an empty one.
NUM_TOKENS = [1, 3, 2, 0]
TASKS = ["maze", "maze", "frozenlake", "frozenlake"]
VALUES = torch.tensor([6.0, 1.0, 2.0, 3.0, 10.0, 20.0])
MEANS = {
    "token": 42.0 / 6.0,
    "sequence": (6.0 + 2.0 + 15.0) / 3.0,
    "task": (12.0 / 4.0 + 30.0 / 2.0) / 2.0,
}


def counts() -> StepCounts:
    return count_step(NUM_TOKENS, TASKS, task_names=["maze", "frozenlake", "minibehaviour"])


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_weighted_values_sum_to_the_mean_by_hand(reduction):
    weight_M = token_weights(reduction, NUM_TOKENS, TASKS, counts())
    assert (weight_M * VALUES).sum().item() == pytest.approx(MEANS[reduction])
    assert weight_M.sum().item() == pytest.approx(1.0)


def mean_by_hand(reduction, value_M: torch.Tensor) -> float:
    first, second, third, _ = (row.mean().item() for row in value_M.detach().split(NUM_TOKENS))
    maze = value_M[:4].mean().item()
    of = {"token": [value_M.mean().item()], "sequence": [first, second, third], "task": [maze, third]}
    return sum(of[reduction]) / len(of[reduction])


def test_reductions_differ():
    assert len(set(MEANS.values())) == 3


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("cuts", [[4], [1, 3], [2, 2], [1, 1, 1, 1]], ids=str)
def test_loss_and_gradient_do_not_depend_on_how_the_step_is_split(reduction, cuts):
    generator = torch.Generator().manual_seed(0)

    def normal(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    hidden, weight, teacher = normal(6, 4), normal(9, 4), Head(hidden_MH=normal(6, 3), weight_VH=normal(9, 3))
    estimator = FullVocabulary(divergence=ReverseKL())
    whole = Head(hidden_MH=hidden, weight_VH=weight.clone().requires_grad_())
    exact = estimator(student=whole, teacher=teacher)  # unweighted
    expected = mean_by_hand(reduction, exact.value_M)

    split = weight.clone().requires_grad_()
    total, row, token = 0.0, 0, 0
    for num_rows in cuts:
        lengths, tasks = NUM_TOKENS[row : row + num_rows], TASKS[row : row + num_rows]
        part = slice(token, token + sum(lengths))
        loss = estimator(
            student=Head(hidden_MH=hidden[part], weight_VH=split),
            teacher=Head(hidden_MH=teacher.hidden_MH[part], weight_VH=teacher.weight_VH),
            weight_M=token_weights(reduction, lengths, tasks, counts()).double(),
        )
        loss.value_M.sum().backward()
        total += loss.value_M.sum().item()
        row, token = row + num_rows, part.stop
    assert total == pytest.approx(expected, abs=1e-6)

    weight_M = token_weights(reduction, NUM_TOKENS, TASKS, counts()).double()
    estimator(student=whole, teacher=teacher, weight_M=weight_M).value_M.sum().backward()
    torch.testing.assert_close(split.grad, whole.weight_VH.grad, rtol=0, atol=1e-12)


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_counts_of_two_ranks_give_the_weights_of_one(reduction):
    names = ["frozenlake", "maze"]
    ranks = [
        count_step(NUM_TOKENS[:1], TASKS[:1], task_names=names),
        count_step(NUM_TOKENS[1:], TASKS[1:], task_names=list(reversed(names))),
    ]
    sent: list[torch.Tensor] = []
    for rank in ranks:
        global_route_counts({"one": rank}, lambda flat: sent.append(flat) or flat)
    everywhere = [global_route_counts({"one": rank}, lambda flat: sent[0] + sent[1])["one"] for rank in ranks]
    assert everywhere[0] == everywhere[1] == count_step(NUM_TOKENS, TASKS)
    split = [
        *row_weights(reduction, NUM_TOKENS[:1], TASKS[:1], everywhere[0]),
        *row_weights(reduction, NUM_TOKENS[1:], TASKS[1:], everywhere[1]),
    ]
    assert split == row_weights(reduction, NUM_TOKENS, TASKS, counts())


def test_step_without_any_token_has_no_weights_and_no_mean():
    nothing = count_step([0, 0], ["maze", "maze"])
    for reduction in REDUCTIONS:
        assert row_weights(reduction, [0, 0], ["maze", "maze"], nothing) == [0.0, 0.0]
    assert math.isnan(Reduced(sum=0.0, count=0.0).mean)


def test_reduced_divides_once():
    mask = torch.tensor([True, False, True, False, False, False])
    part = Reduced.of(VALUES, mask) + Reduced.of(torch.tensor([1.0]))
    assert part == Reduced(sum=9.0, count=3.0)
    assert part.mean == pytest.approx(3.0)
    everywhere = global_reduced({"kl": part, "entropy": Reduced.of(VALUES)}, lambda flat: 2 * flat)
    assert everywhere == {"kl": Reduced(sum=18.0, count=6.0), "entropy": Reduced(sum=84.0, count=12.0)}


def test_row_of_an_unannounced_task_is_refused():
    with pytest.raises(ValueError, match="'maze'"):
        count_step([1], ["maze"], task_names=["frozenlake"])


def test_unknown_reduction_is_refused():
    with pytest.raises(ValueError, match="token, sequence, task"):
        row_weights("mean", NUM_TOKENS, TASKS, counts())  # type: ignore[arg-type]

"""pass@k against sets counted one by one."""

from __future__ import annotations

import json
from itertools import combinations
from typing import Any

import numpy as np
import pytest

from judged_rows import row
from pilotage.errors import PilotageError
from pilotage.evaluate.bootstrap import bootstrap_mean
from pilotage.evaluate.passk import default_ks, pass_at_k, passk


def sampled(*marks: str, task: str = "frozenlake", **more: Any) -> list[Any]:
    """`"+-"`: an example with two answers, the first of them right."""
    return [
        row(f"{task}{i}", mark == "+", task=task, sample=sample, **more)
        for i, of in enumerate(marks)
        for sample, mark in enumerate(of)
    ]


@pytest.mark.parametrize(("n", "c"), [(4, 1), (5, 0), (5, 5), (6, 2), (1, 1)])
def test_the_estimator_is_the_share_of_sets_that_hold_a_success(n: int, c: int) -> None:
    for k in range(1, n + 1):
        sets = list(combinations(range(n), k))
        hits = sum(any(i < c for i in chosen) for chosen in sets)
        assert pass_at_k(n, c, k) == pytest.approx(hits / len(sets))


def test_the_estimator_is_unbiased() -> None:
    """Its mean over Binomial(6, p) successes is 1 - (1-p)^k, which c/n plugged in is not."""
    p, n, k = 0.3, 6, 3
    rng = np.random.default_rng(0)
    drawn = rng.binomial(n, p, size=40_000)
    unbiased = np.mean([pass_at_k(n, int(c), k) for c in drawn])
    plugged_in = np.mean(1 - (1 - drawn / n) ** k)
    truth = 1 - (1 - p) ** k
    assert unbiased == pytest.approx(truth, abs=0.005)
    assert abs(plugged_in - truth) > 0.02


def test_rates_by_hand() -> None:
    # pass@1: 1/4, 1, 0. pass@2: 1/2, 1, 0. pass@4: 1, 1, 0.
    found = passk(sampled("+---", "++++", "----"))["image"]
    by_k = found.tasks["frozenlake"]
    assert list(by_k) == [1, 2, 4]
    assert [by_k[k].mean for k in by_k] == pytest.approx([1.25 / 3, 1.5 / 3, 2 / 3])
    assert by_k[2] == bootstrap_mean([0.5, 1.0, 0.0])
    assert found.average["frozenlake"] == by_k[1]
    assert found.num_samples == (4, 4)
    assert json.loads(json.dumps(found.as_dict()))["tasks"]["frozenlake"]["4"]["n"] == 3


def test_macro_is_the_plain_mean_over_tasks_and_conditions_stay_apart() -> None:
    rows = sampled("+-", "+-") + sampled("--", task="maze") + sampled("++", condition="text")
    found = passk(rows, ks=(2,))
    assert found["image"].macro[2].mean == pytest.approx(0.5)
    assert found["image"].macro_average.mean == pytest.approx(0.25)
    assert found["text"].tasks["frozenlake"][2].mean == 1.0


def test_temperature_and_numbers_of_samples_are_recorded() -> None:
    rows = sampled("+-", settings={"temperature": 0.7}) + sampled("+-+", task="maze")
    found = passk(rows)["image"]
    assert found.temperatures == (0.7,)
    assert found.num_samples == (2, 3)


def test_a_row_without_an_answer_is_a_failed_sample() -> None:
    rows = sampled("++")
    rows[0]["error"] = "TimeoutError"
    assert passk(rows, ks=(1,))["image"].tasks["frozenlake"][1].mean == 0.5


@pytest.mark.parametrize("k", [0, 3, -1])
def test_a_k_beyond_the_samples_is_refused(k: int) -> None:
    with pytest.raises(PilotageError, match="from 1 to the 2 answers"):
        passk(sampled("+-", "+---"), ks=(k,))


def test_default_ks_are_powers_of_two_and_all() -> None:
    assert [default_ks(n) for n in (1, 2, 5, 8)] == [[1], [1, 2], [1, 2, 4, 5], [1, 2, 4, 8]]

"""Rates and intervals against numbers worked out by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from pilotage.errors import PilotageError
from pilotage.evaluate import bootstrap_macro_mean, bootstrap_mean, summarise
from pilotage.evaluate.bootstrap import UNBOUNDED


def row(
    id_: str, success: bool, *, condition: str = "image", task: str = "maze", level: int = 3, **more: Any
) -> Any:
    verdict = {
        "parsed": True,
        "illegal": not success,
        "success": success,
        "optimal": success,
        "num_executed": 2,
        "reason": "success" if success else "wall",
    }
    base = {
        "id": id_,
        "condition": condition,
        "task": task,
        "level": level,
        "outcome": verdict,
        "right": {"Size": success},
    }
    return base | {"finished": True, "error": None} | more


def test_bootstrap_interval_of_a_coin_matches_the_binomial() -> None:
    # Resampled means of 40 ones in 100 are Binomial(100, 0.4)/100, whose 2.5 % and 97.5 % quantiles
    # are 0.31 and 0.50 (scipy.stats.binom.ppf).
    interval = bootstrap_mean([1.0] * 40 + [0.0] * 60)
    assert interval.mean == pytest.approx(0.4)
    assert interval.n == 100
    assert interval.low == pytest.approx(0.31)
    assert interval.high == pytest.approx(0.50)


def test_drawn_resamples_agree_with_the_binomial() -> None:
    coin = np.repeat([1.0, 0.0], [40, 60])
    # A third value, as rare as can be, makes the same coin a matter of drawing.
    drawn = bootstrap_mean([*coin, 0.5])
    exact = bootstrap_mean(coin)
    assert drawn.low == pytest.approx(exact.low, abs=0.011)
    assert drawn.high == pytest.approx(exact.high, abs=0.011)


def test_bootstrap_of_real_numbers_has_the_standard_error_of_the_mean() -> None:
    values = np.random.default_rng(0).normal(5.0, 2.0, size=400)
    interval = bootstrap_mean(values)
    half = 1.96 * values.std() / 20
    assert interval.low == pytest.approx(values.mean() - half, abs=0.02)
    assert interval.high == pytest.approx(values.mean() + half, abs=0.02)


def test_the_seed_decides_the_interval() -> None:
    values = np.random.default_rng(1).random(50)
    assert bootstrap_mean(values, seed=3) == bootstrap_mean(values, seed=3)
    assert bootstrap_mean(values, seed=3) != bootstrap_mean(values, seed=4)


def test_intervals_cover_the_truth_about_as_often_as_they_say() -> None:
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(400):
        interval = bootstrap_mean(rng.random(200) < 0.7, seed=1, num_resamples=500)
        covered += interval.low <= 0.7 <= interval.high
    assert 0.91 <= covered / 400 <= 0.98


def test_unanimous_rows_keep_an_exact_bound_instead_of_no_width() -> None:
    # 0.025^(1/300) = 0.98778
    interval = bootstrap_mean([1.0] * 300)
    assert (interval.mean, interval.high) == (1.0, 1.0)
    assert interval.low == pytest.approx(0.98778, abs=1e-5)
    never = bootstrap_mean([0.0] * 300)
    assert (never.low, never.high) == (0.0, pytest.approx(1 - 0.98778, abs=1e-5))
    # Turns that all are one are no yes-or-no values, and have no binomial bound.
    turns = bootstrap_mean([1.0] * 5, bounds=UNBOUNDED)
    assert (turns.low, turns.high) == (1.0, 1.0)
    level = bootstrap_mean([0.0] * 300, bounds=(-1.0, 1.0))
    assert level.low == pytest.approx(-level.high)


def test_macro_mean_weighs_tasks_equally_whatever_their_size() -> None:
    interval = bootstrap_macro_mean([[1.0] * 10, [0.0] * 1000])
    assert interval.mean == pytest.approx(0.5)
    assert (interval.low, interval.high) == (0.5, 0.5)
    assert interval.n == 1010


@pytest.mark.parametrize("values", [[], [float("nan")], [1.0, float("inf")]])
def test_values_without_a_mean_are_refused(values: list[float]) -> None:
    with pytest.raises(PilotageError):
        bootstrap_mean(values)


def test_rates_by_hand() -> None:
    rows = [
        row("a", True),
        row("b", True, level=4),
        row("c", False, level=4),
        # legal, but does not arrive
        row(
            "d",
            False,
            level=4,
            outcome={**row("", False)["outcome"], "illegal": False, "reason": "not_reached"},
        ),
        # no answer block, cut at the limit
        row(
            "e",
            False,
            finished=False,
            outcome={
                **row("", False)["outcome"],
                "parsed": False,
                "illegal": False,
                "reason": "no_answer_block",
            },
        ),
        # arrives by a detour
        row("f", True, task="frozenlake", outcome={**row("", True)["outcome"], "optimal": False}),
    ]
    summary = summarise(rows).conditions["image"]
    maze = summary.tasks["maze"]
    assert maze.n == 5
    means = {name: interval.mean for name, interval in maze.rates.items()}
    assert means == pytest.approx(
        {"success": 0.4, "optimal": 0.4, "illegal": 0.2, "parsed": 0.8, "state": 0.4, "finished": 0.8}
    )
    assert maze.fields["Size"].mean == pytest.approx(0.4)
    assert {level: rates.n for level, rates in summary.levels["maze"].items()} == {3: 2, 4: 3}
    assert summary.levels["maze"][4].rates["success"].mean == pytest.approx(1 / 3)
    assert summary.tasks["frozenlake"].rates["optimal"].mean == 0.0
    assert summary.macro["success"].mean == pytest.approx((0.4 + 1.0) / 2)
    assert summary.macro["success"].low < 0.7 < summary.macro["success"].high


def test_rows_that_the_engine_failed_on_stay_in_the_denominator() -> None:
    failed = row("c", False, outcome=None, right={"Size": False}, finished=False, error="TimeoutError: 60 s")
    rates = summarise([row("a", True), row("b", True), failed]).conditions["image"].tasks["maze"]
    assert (rates.n, rates.num_errors) == (3, 1)
    assert rates.rates["success"].mean == pytest.approx(2 / 3)
    assert rates.rates["parsed"].mean == pytest.approx(2 / 3)
    assert rates.rates["finished"].mean == pytest.approx(2 / 3)
    assert rates.fields["Size"].mean == pytest.approx(2 / 3)


def test_an_engine_that_always_fails_scores_zero() -> None:
    failed = row("a", False, outcome=None, right={}, error="down")
    assert summarise([failed]).conditions["image"].tasks["maze"].rates["success"].mean == 0.0


def test_perception_succeeds_when_every_field_is_right() -> None:
    rows = [
        row("a", True, condition="perception", outcome=None, right={"Size": True, "Goal": True}),
        row("b", True, condition="perception", outcome=None, right={"Size": True, "Goal": False}),
    ]
    rates = summarise(rows).conditions["perception"].tasks["maze"]
    assert set(rates.rates) == {"success", "state", "finished"}
    assert rates.rates["success"].mean == 0.5
    assert (rates.fields["Size"].mean, rates.fields["Goal"].mean) == (1.0, 0.5)


def test_the_modality_gap_is_paired_by_state() -> None:
    rows = [row(i, i != "c", condition="text") for i in "abcd"] + [row(i, i in "ac") for i in "abc"]
    summary = summarise(rows)
    # a: 1-1, b: 1-0, c: 0-1; d has no picture answer.
    assert summary.gap["maze"].mean == pytest.approx(0.0)
    assert summary.gap["maze"].n == 3
    assert summary.gap_macro is not None and summary.gap_macro.low < 0 < summary.gap_macro.high


def test_several_answers_to_an_example_count_as_one_example() -> None:
    # a: 2 of 4, b: 1 of 1. By answers it would be 3 of 5.
    rows = [row("a", sample < 2, sample=sample) for sample in range(4)] + [row("b", True, sample=0)]
    summary = summarise([*rows, row("a", True, condition="text"), row("b", False, condition="text")])
    rates = summary.conditions["image"].tasks["maze"]
    assert (rates.n, rates.num_answers) == (2, 5)
    assert rates.rates["success"] == bootstrap_mean([0.5, 1.0])
    assert rates.fields["Size"].mean == pytest.approx(0.75)
    assert summary.conditions["image"].macro["success"].mean == pytest.approx(0.75)
    assert summary.gap["maze"].mean == pytest.approx(((1 - 0.5) + (0 - 1)) / 2)
    assert summary.gap["maze"].n == 2


def test_headline_is_what_the_demo_writes() -> None:
    headline = summarise([row("a", True), row("b", False)]).headline()
    assert headline["maze"]["image"]["success"] == 0.5
    assert headline["maze"]["image"]["n"] == 2
    assert set(headline["maze"]["image"]) == {"success", "n", "low", "high"}


def test_a_row_without_its_keys_is_an_error_that_names_the_key() -> None:
    with pytest.raises(PilotageError, match="'level'"):
        summarise([{"id": "a", "condition": "image", "task": "maze"}])

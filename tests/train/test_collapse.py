"""A student that collapses is noticed, told of once, and stops the run where that is asked for."""

from __future__ import annotations

import json
import logging
import math

import pytest
import torch

from distill_run import rows_of, tiny_config, tiny_examples
from pilotage.errors import PilotageError
from pilotage.train.collapse import (
    ENTROPY,
    REPETITION,
    REWARD,
    TAILS,
    TRUNCATED,
    CollapseError,
    CollapseGuard,
    CollapseWatch,
    signs,
)
from pilotage.train.distill import distill
from tiny import tiny_backbone

WELL = {ENTROPY: 1.0, TAILS[0]: 19.0, TAILS[1]: 39.0, REPETITION: 0.1, TRUNCATED: 0.0, REWARD: 0.5}


@pytest.mark.parametrize(
    ("name", "still_well", "collapsed"),
    [
        (ENTROPY, 0.11, 0.09),
        (ENTROPY, 3.9, 4.1),
        # With one token more on both sides: 20 -> 10 and 40 -> 80 are just allowed.
        (TAILS[0], 9.0, 8.9),
        (TAILS[0], 39.0, 39.1),
        (TAILS[1], 79.0, 79.1),
        (TAILS[1], 19.0, 18.9),
        (REPETITION, 0.34, 0.36),
        (TRUNCATED, 0.25, 0.26),
        (REWARD, 0.31, 0.29),
    ],
)
def test_each_figure_has_its_bounds(name, still_well, collapsed):
    guard = CollapseGuard()
    assert signs(guard, WELL, WELL | {name: still_well}) == {}
    found = signs(guard, WELL, WELL | {name: collapsed})
    assert list(found) == [name]
    assert f"from {WELL[name]:.4g} to {collapsed:.4g}" in found[name]


def test_a_figure_that_is_missing_or_not_finite_is_no_sign():
    watch = CollapseWatch(CollapseGuard(window=1))
    watch.after_step(1, {ENTROPY: math.nan, REWARD: 0.5})
    assert watch.after_step(2, {ENTROPY: 0.0}) == {"collapse/signs": 0.0}


def test_means_of_windows_are_compared_and_each_sign_is_told_once(caplog):
    watch = CollapseWatch(CollapseGuard(window=2, max_reward_drop=0.3))
    rewards = (0.6, 0.4, 0.2, 0.1, 0.2, 0.9, 0.1, 0.1)
    # Means of two:    0.5, 0.3, 0.15, 0.15, 0.55, 0.5, 0.1 against 0.5
    with caplog.at_level(logging.WARNING):
        found = [watch.after_step(step, {REWARD: reward}) for step, reward in enumerate(rewards, 1)]
    assert found[0] == {}
    assert [row["collapse/signs"] for row in found[1:]] == [0, 0, 1, 1, 0, 0, 1]
    messages = [record.message for record in caplog.records]
    assert [text.split(":")[0] for text in messages] == ["step 4", "step 8"]
    assert "rollout/success fell from 0.5 to 0.15" in messages[0]


def test_it_goes_on_from_its_state_as_if_it_had_not_stopped():
    guard, rewards = CollapseGuard(window=2), (0.61, 0.47, 0.2, 0.13, 0.2)
    whole, first, second = (CollapseWatch(guard) for _ in range(3))
    for step, reward in enumerate(rewards[:3], 1):
        whole.after_step(step, {REWARD: reward})
        first.after_step(step, {REWARD: reward})
    second.load(json.loads(json.dumps(first.state())))
    for step, reward in enumerate(rewards[3:], 4):
        assert second.after_step(step, {REWARD: reward}) == whole.after_step(step, {REWARD: reward})
    assert second.state() == whole.state()


@pytest.mark.parametrize(
    "bad",
    [
        {"window": 0},
        {"min_entropy_share": 1.0},
        {"max_entropy_share": 1.0},
        {"max_length_change": 0.0},
        {"max_reward_drop": -1.0},
    ],
)
def test_bounds_that_make_no_sense_are_refused(bad):
    with pytest.raises(PilotageError, match=next(iter(bad))):
        CollapseGuard(**bad)


def test_a_run_stops_with_its_row_written_and_goes_on_under_another_guard(tmp_path):
    torch.set_num_threads(1)

    def run(guard: CollapseGuard) -> None:
        distill(
            tiny_config(steps=4, checkpoint_every=1, lr=3.0, collapse=guard),
            student=tiny_backbone(),
            examples=tiny_examples(),
            run_dir=tmp_path,
        )

    # At this rate the student has lost its entropy after one update.
    strict = CollapseGuard(window=1, stop=True, min_entropy_share=0.9)
    with pytest.raises(CollapseError, match="policy/entropy fell"):
        run(strict)
    stopped = rows_of(tmp_path)
    assert 1 < len(stopped) < 4 and stopped[-1]["collapse/signs"] > 0
    run(CollapseGuard(window=1, min_entropy_share=0.0))
    rows = rows_of(tmp_path)
    assert [row["step"] for row in rows] == [1, 2, 3, 4]
    before = len(stopped) - 1
    assert rows[:before] == stopped[:before]

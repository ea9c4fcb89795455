"""The shipped base: plans from words, follows a plan, does not plan from pictures, and learns to in minutes."""

from __future__ import annotations

import os

import pytest

from pilotage.backbones.load import NANO_DIRECTORY, load_backbone
from pilotage.data.store import sample_examples
from pilotage.evaluate import evaluate
from pilotage.rollouts.transformers_engine import TransformersEngine
from pilotage.runs.measurement import NANO_LEVELS, NANO_MAX_NEW_TOKENS
from pilotage.worlds import get_task
from pilotage.worlds.grids.views import VIEWS
from tiny import generate

NUM_STATES = 40


@pytest.fixture(scope="module")
def engine():
    return TransformersEngine(load_backbone("nano"), batch_size=60)


@pytest.fixture(scope="module")
def examples():
    return [
        example
        for name, levels in NANO_LEVELS
        for example in sample_examples(get_task(name), levels, NUM_STATES, "test", 11)
    ]


def test_the_weights_are_small_and_safe():
    names = {entry.name for entry in NANO_DIRECTORY.iterdir()}
    assert "model.safetensors" in names
    assert not [name for name in names if name.endswith((".bin", ".pt", ".pth", ".pkl", ".py"))]
    assert os.path.getsize(NANO_DIRECTORY / "model.safetensors") <= 10 * 1000 * 1000


def test_it_plans_from_words_and_not_from_pictures(engine, examples, tmp_path):
    """Looser than what 300 states showed, so that 40 do not fail by chance (docs/results/base_and_demo.md)."""
    summary = evaluate(
        engine,
        examples,
        stage="base",
        prompts="brief",
        max_new_tokens=NANO_MAX_NEW_TOKENS,
        out=tmp_path,
        conditions=("text", "image"),
    )
    for task, conditions in summary.headline().items():
        assert conditions["text"]["success"] >= 0.85, task
        assert conditions["image"]["success"] <= 0.25, task


def test_it_follows_the_reference_plan_that_it_is_shown(engine, examples):
    """Among several shortest plans the teacher's view decides which one is answered."""

    import numpy as np

    followed = 0
    chosen = []
    for example in examples:
        if example.task != "frozenlake":
            continue
        task = get_task(example.task)
        state = task.parse_state(example.state)
        for seed in range(20):
            solution = task.solve(state, rng=np.random.default_rng(seed))
            if solution is not None and solution.plan != example.plan:
                chosen.append(example.with_plan(solution.plan))
                break
    assert len(chosen) >= 10
    rollouts = generate(
        engine,
        [VIEWS["teacher"](example, "brief") for example in chosen],
        example_ids=[example.id for example in chosen],
        max_new_tokens=NANO_MAX_NEW_TOKENS,
    )
    for example, rollout in zip(chosen, rollouts, strict=True):
        followed += f"<answer>{' '.join(example.plan)}</answer>" in rollout.text
    assert followed >= 0.8 * len(chosen)

"""Bringing up nano: lessons that depend on seed and step alone, eyes that learn words, runs that go on."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from pilotage.backbones.load import make_backbone
from pilotage.data.examples import split_of
from pilotage.errors import PilotageError
from pilotage.nano import pretrain as nano_pretrain
from pilotage.nano.corpus import (
    derivation_lesson,
    description_lesson,
    hard_planning_lesson,
    picture_lesson,
    planning_lesson,
)
from pilotage.nano.model import NanoConfig, build_nano, place_waves
from pilotage.nano.pictures import sample_question, word_groups
from pilotage.nano.pretrain import PretrainConfig, Stretch, learning_rate, naming_loss, pretrain
from pilotage.nano.tokenizer import build_nano_tokenizer
from pilotage.worlds import TASKS, get_task
from pilotage.worlds.judge import judge
from pilotage.worlds.task import state_hash

ONE_OF_EACH = (("frozenlake", 1), ("maze", 1), ("minibehaviour", 1))


def small(out: Path) -> PretrainConfig:
    return PretrainConfig(
        out=out,
        steps=4,
        eyes_from=1,
        pictures_from=2,
        batch_pictures=2,
        bf16=False,
        checkpoint_every=2,
        curriculum=(
            Stretch(first_step=0, num_lessons=ONE_OF_EACH),
            Stretch(first_step=3, num_lessons=ONE_OF_EACH, num_descriptions=(("maze", 1),)),
        ),
    )


@pytest.fixture(scope="module")
def texts() -> list[str]:
    return list(nano_pretrain.vocabulary_texts(0))


@pytest.fixture
def plain(monkeypatch: pytest.MonkeyPatch, texts: list[str]) -> None:
    """The vocabulary's texts are made once, and what is recalled is not measured."""
    monkeypatch.setattr(nano_pretrain, "vocabulary_texts", lambda seed: texts)
    monkeypatch.setattr(nano_pretrain, "recall", lambda *_: {})


def test_a_run_that_was_killed_ends_in_the_same_weights(plain, tmp_path, monkeypatch):
    whole = load_file(pretrain(small(tmp_path / "whole")) / "model.safetensors")
    step = nano_pretrain._step

    def killed(config, backbone, optimizer, number):
        if number == 3:
            raise KeyboardInterrupt
        return step(config, backbone, optimizer, number)

    monkeypatch.setattr(nano_pretrain, "_step", killed)
    with pytest.raises(KeyboardInterrupt):
        pretrain(small(tmp_path / "killed"))
    monkeypatch.setattr(nano_pretrain, "_step", step)
    resumed = load_file(pretrain(small(tmp_path / "killed")) / "model.safetensors")
    assert whole.keys() == resumed.keys()
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_a_folder_keeps_the_settings_it_began_with(plain, tmp_path):
    pretrain(replace(small(tmp_path), steps=1))
    with pytest.raises(PilotageError, match="other settings"):
        pretrain(replace(small(tmp_path), steps=1, seed=1))


def test_the_learning_rate_rises_holds_and_falls_to_nothing(tmp_path):
    config = PretrainConfig(
        out=tmp_path, steps=1100, warmup=10, decay_share=0.2, peak_lr=1.0, polish_steps=100, polish_lr=0.5
    )
    assert learning_rate(config, 0) == pytest.approx(0.1)
    assert learning_rate(config, 9) == learning_rate(config, 799) == 1.0
    assert learning_rate(config, 900) == pytest.approx(0.5)
    assert learning_rate(config, 999) == pytest.approx(0.005)
    assert [learning_rate(config, step) for step in (1000, 1050, 1099)] == pytest.approx([0.5, 0.25, 0.005])
    short = replace(config, steps=50)
    assert learning_rate(short, 44) < learning_rate(short, 45) == 0.5, (
        "a polish is at most a tenth of the steps"
    )


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.name)
def test_planning_lessons_show_no_picture_and_their_answers_are_optimal(task):
    rng = np.random.default_rng(3)
    for _ in range(20):
        lesson = planning_lesson(task, task.levels[0], rng)
        assert not lesson.view.images
        prompt = str(lesson.view.messages)
        assert lesson.answer.splitlines()[0] in prompt, "the state is copied from the prompt"
        derived = derivation_lesson(task, task.levels[0], rng)
        assert not derived.view.images and "Size:" not in str(derived.view.messages)
        assert derived.view.prefill.startswith("1. Size: ")
        assert all(
            f" {name}:" not in derived.answer for name in task.recital(task.generate(task.levels[0], rng))
        )
        described = description_lesson(task, task.levels[0], rng)
        assert not described.view.images and described.answer.startswith("1. Size: ")


@pytest.mark.parametrize(
    "make", [planning_lesson, hard_planning_lesson, description_lesson, derivation_lesson]
)
def test_no_lesson_shows_a_state_that_is_kept_for_testing(make, monkeypatch):
    task = get_task("minibehaviour")
    drawn = []
    generate = type(task).generate
    monkeypatch.setattr(type(task), "generate", lambda *given: drawn.append(generate(*given)) or drawn[-1])
    rng = np.random.default_rng(0)
    splits, used = set(), set()
    for _ in range(60):
        make(task, 5, rng)
        used.add(split_of(state_hash(task, drawn[-1])))
        splits |= {split_of(state_hash(task, state)) for state in drawn}
    assert used == {"train"} and splits == {"train", "val", "test"}


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.name)
def test_hard_lessons_are_on_states_of_the_highest_difficulty(task, monkeypatch):
    drawn = []
    generate = type(task).generate
    monkeypatch.setattr(type(task), "generate", lambda *given: drawn.append(generate(*given)) or drawn[-1])
    rng = np.random.default_rng(0)
    for _ in range(10):
        hard_planning_lesson(task, task.levels[0], rng)
        solution = task.solve(drawn[-1])
        assert task.difficulty(drawn[-1], len(solution.plan)) == "hard"


def test_a_plan_to_follow_is_not_always_the_one_the_solver_prefers():
    task = get_task("frozenlake")
    rng = np.random.default_rng(0)
    state = task.parse_state({"map": ["SFF", "FFF", "FFG"]})
    plans = {task.solve(state, rng=rng).plan for _ in range(50)}  # pyright: ignore[reportOptionalMemberAccess]
    assert len(plans) == 6
    assert all(judge(task, state, f"<answer>{' '.join(plan)}</answer>").is_("optimal") for plan in plans)


def test_pictures_are_of_no_task_and_ask_for_no_plan():
    rng = np.random.default_rng(0)
    for _ in range(50):
        lesson = picture_lesson(rng, (3, 4))
        text = lesson.view.messages[0]["content"][0]["text"] + lesson.answer
        assert "<answer>" not in text and "Route" not in text
        assert not any(task.title in text for task in TASKS)


def test_the_words_of_a_cell_are_one_of_each_group_at_most():
    rng = np.random.default_rng(1)
    groups = word_groups()
    for _ in range(20):
        asked = sample_question(rng)
        side = asked.pixels.shape[0] // 32
        assert len(asked.cells) == side * side
        for place, words in enumerate(asked.cells):
            assert words[0] == f"({place // side},{place % side})"
            for group in groups:
                assert sum(word in group for word in words) <= 1
            assert all(any(word in group for group in groups) for word in words)


def test_naming_is_free_of_loss_when_tokens_point_at_their_words():
    """A visual token that is many times its words' embeddings names its cell; one that is nothing guesses."""
    words = [f" {word}" for group in word_groups() for word in group]
    model, processor = build_nano(NanoConfig(), build_nano_tokenizer(words, min_count=1), seed=0)
    backbone = make_backbone(model, processor, name="nano")
    embedding_VH = backbone.model.get_output_embeddings().weight
    hidden = embedding_VH.shape[1]
    guess = naming_loss(backbone, torch.zeros(1, hidden), [("(0,0)",)])
    assert guess.item() == pytest.approx(np.log(36), rel=1e-5)
    word = backbone.tokenizer(" (0,0)", add_special_tokens=False)["input_ids"][0]
    sure = naming_loss(backbone, 1e5 * embedding_VH[word : word + 1].detach(), [("(0,0)",)])
    assert sure.item() < 1e-3


def test_first_positions_tell_every_place_apart():
    waves = place_waves(256, 96)
    distances = torch.cdist(waves, waves) + torch.eye(256) * 9
    assert distances.min() > 0.1
    with pytest.raises(ValueError, match="square"):
        place_waves(255, 96)

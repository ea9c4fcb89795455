"""GRPO by TRL's trainer: the judge rewards, right answers gain on wrong ones, a stopped run goes on."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from distill_run import tiny_examples
from grpo_run import answer, right_and_wrong, run, tiny
from pilotage.backbones.load import LoraSettings
from pilotage.errors import PilotageError
from pilotage.report.curves import PANELS, panels
from pilotage.train.grpo import FIGURES, GrpoTrainer, run_grpo
from pilotage.train.step.scoring import encode_rollouts, head_of, predicting_states, sampled_logprobs
from pilotage.worlds.grids.views import reference_answer, student_view
from tiny import tiny_backbone


@pytest.fixture(autouse=True, scope="module")
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def test_the_judge_rewards_and_the_log_tells_it(tmp_path):
    rows = run(tiny(), tmp_path, right_and_wrong())
    assert [row["step"] for row in rows] == [1, 2]
    for row in rows:
        # Of each two answers one succeeds (1 + 0.1 for its form) and one cannot be read (0).
        assert row["rollout/success"] == row["rollout/parsed"] == 0.5
        assert row["rollout/success/maze"] == row["rollout/success/frozenlake"] == 0.5
        assert row["rollout/reward"] == pytest.approx(0.55)
        assert row["rollout/same_reward"] == 0 and row["grad_norm"] > 0


def test_right_answers_gain_on_wrong_ones(tmp_path):
    backbone = tiny_backbone()
    config = tiny(steps=4)
    example = next(iter(tiny_examples()))
    texts = (reference_answer(example, "student"), "<answer>?")

    def logprobs() -> list[float]:
        rollouts = [answer(example, text) for text in texts]
        encoded = encode_rollouts(
            backbone,
            [student_view(example, "brief")] * 2,
            rollouts,
            max_prompt_tokens=None,
            pad_to_multiple=16,
        )
        with torch.no_grad():
            states_MH = predicting_states(backbone.model, backbone.model, encoded)
        ids_M = torch.tensor([token for rollout in rollouts for token in rollout.token_ids])
        parts = sampled_logprobs(head_of(backbone.model, states_MH), ids_M, temperature=1.0).split(
            [len(rollout.token_ids) for rollout in rollouts]
        )
        return [float(part.mean()) for part in parts]

    right, wrong = logprobs()
    run_grpo(config, backbone, tiny_examples(), tmp_path, engine=right_and_wrong())
    now_right, now_wrong = logprobs()
    assert now_right > right and now_wrong < wrong


def test_training_reads_what_sampling_read(tmp_path):
    config = tiny(max_new_tokens=8, temperature=0.7)
    trainer = GrpoTrainer(config, tiny_backbone(), tiny_examples(), run_dir=tmp_path)
    seen = {}
    score = trainer._get_per_token_logps_and_entropies

    def spy(*args: Any, **options: Any) -> Any:
        found = score(*args, **options)
        seen["now"] = found[0].detach()
        return found

    generate = trainer._generate_and_score_completions

    def keep(inputs: Any) -> Any:
        seen["batch"] = generate(inputs)
        return seen["batch"]

    trainer._get_per_token_logps_and_entropies = spy
    trainer._generate_and_score_completions = keep
    trainer.model.train()
    examples: Any = trainer.train_dataset
    rows = [examples[0]] * 2 + [examples[1]] * 2
    batch = trainer._generate_and_score_completions(rows)
    ids = torch.cat([batch["prompt_ids"], batch["completion_ids"]], 1)
    mask = torch.cat([batch["prompt_mask"], batch["completion_mask"]], 1)
    names = ("pixel_values", "image_grid_thw", "num_images", "mm_token_type_ids")
    shown = {name: batch[name] for name in names if name in batch}
    now, _, _ = score(trainer.model, ids, mask, batch["completion_ids"].size(1), **shown)
    sampled = batch["sampling_per_token_logps"]
    kept = batch["completion_mask"].bool()
    assert torch.allclose(now[kept], sampled[kept], atol=2e-4)
    # The two samples of a group are two.
    assert not torch.equal(batch["completion_ids"][0], batch["completion_ids"][1])


@pytest.mark.parametrize("lora", [None, LoraSettings(rank=2, alpha=4)], ids=["whole", "adapter"])
def test_a_stopped_run_goes_on_bit_for_bit(tmp_path, lora):
    config = tiny(steps=3, max_new_tokens=24, lora=lora, kl_coef=0.1)

    class Stopped(Exception):
        pass

    def stop(step: int, total: int, figures: dict[str, float]) -> None:
        if step == 2:
            raise Stopped

    whole = run(config, tmp_path / "whole", right_and_wrong())
    assert whole[0]["kl/start"] == pytest.approx(0, abs=1e-6) and whole[2]["kl/start"] > 0
    with pytest.raises(Stopped):
        run(config, tmp_path / "stopped", right_and_wrong(), stop)
    assert run(config, tmp_path / "stopped", right_and_wrong()) == whole
    ours, theirs = (
        load_file(tmp_path / name / "grpo" / "model" / "model.safetensors") for name in ("stopped", "whole")
    )
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"samples_per_prompt": 1}, "samples_per_prompt 1"),
        ({"micro_batch_size": 3}, "micro_batch_size 3 must divide the step's 4 answers"),
        ({"temperature": 0.0}, "temperature 0.0"),
        ({"loss": "ppo"}, "loss 'ppo'"),
        ({"kl_coef": -1.0}, "kl_coef -1.0"),
    ],
)
def test_settings_that_make_no_sense_are_named(changes, named):
    with pytest.raises(PilotageError, match=named):
        tiny(**changes)


@pytest.mark.parametrize("name", ["ACCELERATE_USE_FSDP", "ACCELERATE_USE_DEEPSPEED"])
def test_a_sharded_launch_is_refused_before_anything_is_written(name, tmp_path, monkeypatch):
    monkeypatch.setenv(name, "true")
    with pytest.raises(PilotageError, match=f"{name} is set.*launch without FSDP"):
        run(tiny(), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_every_figure_has_a_panel_on_the_page_with_its_unit() -> None:
    made = panels([{"step": 1} | dict.fromkeys(FIGURES.values(), 0.5)])
    assert {panel.title for panel in made} <= {spec.title for spec in PANELS}

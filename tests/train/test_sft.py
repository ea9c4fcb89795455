"""Supervised fine-tuning: what a batch holds, who trains, and that a killed run ends as if nothing had happened."""

from __future__ import annotations

import copy
import json
import re
import signal
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from children import run_child
from pilotage.backbones.encode import PromptTooLongError, encode_images, encode_with_response
from pilotage.backbones.load import LANGUAGE_LINEARS, Backbone, LoraSettings, load_backbone
from pilotage.errors import PilotageError
from pilotage.train import sft_trainer
from pilotage.train.sft import SftConfig, run_sft
from pilotage.train.sft_rows import (
    IGNORED,
    DataMixture,
    RowCollator,
    SftRow,
    count_tokens,
    cut_where_padding_is_least,
    encode_rows,
)
from pilotage.views import reference_of_view
from pilotage.worlds.grids.views import VIEWS
from sft_run import (
    CONFIG,
    DROPOUT,
    EXAMPLES,
    KILLED_AT,
    fresh,
    killed_run,
)
from tiny import TINY


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    """For encoding only; runs change their model."""
    return fresh()


def mixture_of(backbone: Backbone, config: SftConfig = CONFIG) -> DataMixture:
    return DataMixture(config, backbone, EXAMPLES, EXAMPLES, {})


def trace(run_dir: Path) -> list[dict[str, Any]]:
    rows = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in row.items() if name != "time_s"} for row in rows]


def weights(directory: Path) -> dict[str, torch.Tensor]:
    return load_backbone(directory).model.state_dict()


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Backbone]:
    """A run of CONFIG from start to end: its folder, and the backbone that it trained."""
    run_dir, trained = tmp_path_factory.mktemp("finished"), fresh()
    run_sft(CONFIG, trained, EXAMPLES, run_dir)
    return run_dir, trained


# -- what a batch holds -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["perception", "student", "symbolic", "teacher"])
def test_labels_are_the_answer_and_the_end_of_turn_and_nothing_else(backbone: Backbone, name: str):
    rows = [
        SftRow(example=e, view=name, answer=reference_of_view(e, name), place=i)
        for i, e in enumerate(EXAMPLES)
    ]
    batch = encode_rows(backbone, rows, CONFIG)
    prompts = encode_with_response(
        backbone, [VIEWS[name](e, "brief") for e in EXAMPLES], [[] for _ in EXAMPLES]
    )["prompt_lengths"]
    for row, labels, ids, first in zip(rows, batch["labels"], batch["input_ids"], prompts, strict=True):
        columns = (labels != IGNORED).nonzero().flatten()
        taught = labels[columns].tolist()
        assert columns.tolist() == list(range(int(first), int(first) + len(taught)))
        assert backbone.tokenizer.decode(taught) == row.answer + "<|im_end|>"
        assert taught == ids[columns].tolist()
        view = VIEWS[name](row.example, "brief")
        assert count_tokens(backbone, view, row.answer) == int(first) + len(taught)


def test_image_rows_show_their_own_picture_and_text_rows_none(backbone: Backbone):
    micro_batches = mixture_of(backbone).micro_batches(0)
    for rows in micro_batches:
        batch = encode_rows(backbone, rows, CONFIG)
        if rows[0].view != "perception":
            assert "pixel_values" not in batch
            continue
        sizes = batch["image_grid_thw"].prod(dim=1).tolist()
        for row, patches in zip(rows, batch["pixel_values"].split(sizes), strict=True):
            torch.testing.assert_close(
                patches, encode_images(backbone, [row.example.image]).inputs["pixel_values"]
            )


def test_answers_given_replace_the_reference(backbone: Backbone):
    answers = {(e.id, "symbolic"): f"mine {e.level}" for e in EXAMPLES}
    config = replace(CONFIG, retention_views=(("symbolic", 1.0),))
    rows = [
        row for b in DataMixture(config, backbone, EXAMPLES, EXAMPLES, answers).micro_batches(3) for row in b
    ]
    assert {row.answer for row in rows if row.view == "symbolic"} <= {"mine 3", "mine 5"}
    assert all(row.answer.startswith("1. Size") for row in rows if row.view == "perception")


def test_noise_belongs_to_the_row_whatever_the_micro_batch(backbone: Backbone):
    config = replace(CONFIG, pixel_noise=0.05)
    rows = [
        row for batch in mixture_of(backbone).micro_batches(0) for row in batch if row.view == "perception"
    ]
    together = encode_rows(backbone, rows, config)
    clean = encode_rows(backbone, rows, CONFIG)["pixel_values"]
    noise = together["pixel_values"] - clean
    assert float(noise.std()) == pytest.approx(0.05, rel=0.02)
    assert float(noise.mean()) == pytest.approx(0.0, abs=1e-3)
    num_patches = int(together["image_grid_thw"][:-1].prod(dim=1).sum())
    last = encode_rows(backbone, rows[-1:], config)["pixel_values"]
    torch.testing.assert_close(last, together["pixel_values"][num_patches:])


# -- the mixture ------------------------------------------------------------------------------------------------------


def test_every_step_has_its_share_of_text_in_micro_batches_of_one_modality(backbone: Backbone):
    mixture = mixture_of(backbone)
    for step in range(20):
        batches = mixture.micro_batches(step)
        assert len(batches) == mixture.num_micro_batches == 4
        kinds = [{row.view == "perception" for row in batch} for batch in batches]
        assert kinds == [{True}, {True}, {False}, {False}]
        assert sum(len(batch) for batch in batches[:2]) == 6
        assert sum(len(batch) for batch in batches[2:]) == 3
        assert max(map(len, batches)) <= 4


def test_retention_share_zero_is_images_only(backbone: Backbone):
    config = replace(CONFIG, retention_share=0.0)
    views = {row.view for batch in mixture_of(backbone, config).micro_batches(0) for row in batch}
    assert views == {"perception"}


def test_retention_share_one_is_words_alone(backbone: Backbone, tmp_path: Path):
    """As for a base that has yet to learn to plan: nothing of the vision tower moves."""
    config = replace(CONFIG, retention_share=1.0, steps=1)
    rows = [row for batch in mixture_of(backbone, config).micro_batches(0) for row in batch]
    assert len(rows) == config.batch_size and {row.view for row in rows} <= {"symbolic", "teacher"}
    student = fresh()
    kept = {name: value.clone() for name, value in student.model.state_dict().items()}
    run_sft(config, student, EXAMPLES, tmp_path)
    moved = {name for name, value in student.model.state_dict().items() if not torch.equal(value, kept[name])}
    assert moved and not any("visual" in name for name in moved)


def test_several_image_views_are_drawn_with_their_shares(backbone: Backbone):
    config = replace(
        CONFIG, image_view=(("student", 3.0), ("perception", 1.0)), retention_share=0.0, batch_size=40
    )
    rows = [row for batch in mixture_of(backbone, config).micro_batches(0) for row in batch]
    shares = Counter(row.view for row in rows)
    assert set(shares) == {"student", "perception"} and 20 <= shares["student"] <= 38
    again = [row for batch in mixture_of(backbone, config).micro_batches(0) for row in batch]
    assert [row.view for row in again] == [row.view for row in rows]


def test_every_epoch_shows_every_example_once_in_an_order_of_its_own(backbone: Backbone):
    mixture = mixture_of(backbone)  # 6 image rows a step, 12 examples: an epoch is 2 steps
    orders = []
    for epoch in range(3):
        rows = [
            row for step in (2 * epoch, 2 * epoch + 1) for b in mixture.micro_batches(step)[:2] for row in b
        ]
        rows.sort(key=lambda row: row.place)
        orders.append([row.example.id for row in rows])
        assert Counter(orders[-1]) == Counter(e.id for e in EXAMPLES)
    assert orders[0] != orders[1] != orders[2]


def test_text_views_are_drawn_with_their_shares(backbone: Backbone):
    config = replace(CONFIG, retention_views=(("symbolic", 3.0), ("teacher", 1.0)))
    mixture = mixture_of(backbone, config)
    seen = Counter(row.view for step in range(200) for b in mixture.micro_batches(step)[2:] for row in b)
    assert set(seen) == {"symbolic", "teacher"}
    assert seen["symbolic"] / seen.total() == pytest.approx(0.75, abs=0.06)


def test_ranks_share_each_micro_batch_and_have_the_same_modality(backbone: Backbone):
    mixture = mixture_of(backbone, replace(CONFIG, length_groups=1, micro_batch_size=8))
    whole = RowCollator(mixture)
    mixture.num_ranks = 1
    alone = [whole([{"item": i}]) for i in range(2)]
    mixture.num_ranks = 3
    mixture.micro_batches.cache_clear()
    parts = [whole([{"item": i}]) for i in range(6)]
    for micro in range(2):
        own = parts[3 * micro : 3 * micro + 3]
        assert {"pixel_values" in part for part in own} == {"pixel_values" in alone[micro]}

        def answers(batch: dict[str, torch.Tensor]) -> list[tuple[int, ...]]:
            return sorted(tuple(row[row != IGNORED].tolist()) for row in batch["labels"])

        assert sorted(answer for part in own for answer in answers(part)) == answers(alone[micro])


def test_rows_are_cut_where_padding_is_least():
    rows: Any = ["a", "b", "c", "d", "e"]
    # In one part 5 x 48 columns; 3 x 16 + 2 x 48 = 144 is the least of all cuts in two.
    cut = cut_where_padding_is_least(rows, [3, 9, 16, 40, 47], 2, num_least=1, num_most=5)
    assert cut == [["a", "b", "c"], ["d", "e"]]
    # With two rows at most: 1 x 16 + 2 x 32 + 2 x 48 = 176; the next best, a and b together, has 192.
    cut = cut_where_padding_is_least(rows, [3, 20, 30, 40, 47], 3, num_least=1, num_most=2)
    assert cut == [["a"], ["b", "c"], ["d", "e"]]


# -- settings ---------------------------------------------------------------------------------------------------------


def test_learning_rates_follow_the_schedule():
    config = replace(CONFIG, steps=10, warmup_share=0.2)
    # One cycle: 1/25, then half way up the cosine, then the peak, then (1 + cos(pi k / 8)) / 2.
    assert config.rate_share(0) == pytest.approx(0.04)
    assert config.rate_share(1) == pytest.approx(0.52)
    assert config.rate_share(2) == pytest.approx(1.0)
    assert config.rate_share(6) == pytest.approx(0.5)
    assert config.rate_share(10) == pytest.approx(0.0)
    cosine = replace(config, schedule="cosine")
    assert [cosine.rate_share(step) for step in (0, 1, 2, 6)] == pytest.approx([0.5, 1.0, 1.0, 0.5])
    constant = replace(config, schedule="constant")
    assert [constant.rate_share(step) for step in (0, 1, 2, 9)] == pytest.approx([0.5, 1.0, 1.0, 1.0])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"retention_share": 1.1}, "retention_share 1.1"),
        ({"retention_share": 1.0, "batch_size": 0}, "num_text_rows 0"),
        ({"image_view": (("student", 0.0),)}, "image_view 'student' has share 0.0"),
        ({"image_view": (("student", 0.5), ("symbolic", 0.5))}, "image_view 'symbolic' is not"),
        ({"steps": 0}, "steps 0"),
        ({"batch_size": 0}, "num_image_rows 0"),
        ({"retention_views": (("student", 1.0),)}, "retention view 'student'"),
        ({"retention_views": (("symbolic", 0.0),)}, "share 0.0"),
        ({"retention_views": ()}, "retention_views"),
        ({"warmup_share": 1.5}, "warmup_share 1.5"),
    ],
)
def test_settings_that_cannot_be_meant_are_errors(change: dict[str, Any], said: str):
    with pytest.raises(PilotageError, match=re.escape(said)):
        replace(CONFIG, **change)


def test_an_over_long_row_is_an_error_before_the_first_step_that_names_its_example(tmp_path: Path):
    with pytest.raises(
        PromptTooLongError, match=r"(frozenlake|maze|minibehaviour)-\d-[0-9a-f]{12}.*more than 40"
    ):
        run_sft(replace(CONFIG, max_length=40), fresh(), EXAMPLES, tmp_path)
    assert not (tmp_path / "metrics.jsonl").exists()


# -- training ---------------------------------------------------------------------------------------------------------


def test_metrics_have_a_line_per_step_with_the_loss_of_each_modality(finished: tuple[Path, Backbone]):
    rows = trace(finished[0])
    assert [row["step"] for row in rows] == [1, 2, 3, 4, 5, 6]
    names = {"stage", "step", "loss", "loss/image", "loss/text", "lr", "grad_norm"}
    assert all(set(row) == names and row["stage"] == "stage1" for row in rows)
    assert [row["lr"] for row in rows] == pytest.approx([3e-3 * CONFIG.rate_share(i) for i in range(6)])
    for row in rows:
        low, high = sorted((row["loss/image"], row["loss/text"]))
        assert low <= row["loss"] <= high


def test_the_first_loss_is_the_mean_over_all_answer_tokens_of_the_step(finished: tuple[Path, Backbone]):
    untrained = fresh()
    total, count = 0.0, 0
    for rows in mixture_of(untrained).micro_batches(0):
        batch = encode_rows(untrained, rows, CONFIG)
        labels = batch.pop("labels")
        with torch.no_grad():
            logprobs = untrained.model(**batch).logits.log_softmax(-1)
        for row, column in (labels != IGNORED).nonzero().tolist():
            total -= float(logprobs[row, column - 1, labels[row, column]])
            count += 1
    assert trace(finished[0])[0]["loss"] == pytest.approx(total / count, rel=1e-5)


def test_the_same_run_twice_has_the_same_trace_and_weights(finished: tuple[Path, Backbone], tmp_path: Path):
    directory = run_sft(CONFIG, fresh(), EXAMPLES, tmp_path)
    assert trace(tmp_path) == trace(finished[0])
    first, second = weights(finished[0] / "stage1" / "model"), weights(directory)
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_neither_micro_batches_nor_trls_own_kernel_change_the_losses(
    finished: tuple[Path, Backbone], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(sft_trainer, "MOST_LOGITS", 0)
    run_sft(replace(CONFIG, micro_batch_size=9, length_groups=1), fresh(), EXAMPLES, tmp_path)
    # Later steps drift apart: Adam's first updates divide tiny gradients, rounding included, by their own size.
    for name in ("loss", "loss/image", "loss/text", "grad_norm"):
        ours = [row[name] for row in trace(finished[0])[:2]]
        assert [row[name] for row in trace(tmp_path)[:2]] == pytest.approx(ours, rel=1e-4)


def test_the_saved_model_is_the_trained_one_and_a_copy_runs_on_its_own_weights(
    finished: tuple[Path, Backbone], backbone: Backbone
):
    run_dir, trained = finished
    batch = encode_rows(backbone, mixture_of(backbone).micro_batches(0)[0], CONFIG)
    batch.pop("labels")
    twin = copy.deepcopy(trained.model)
    with torch.no_grad():
        expected = trained.model(**batch).logits
        torch.testing.assert_close(
            load_backbone(run_dir / "stage1" / "model").model(**batch).logits, expected
        )
        twin.lm_head.weight.zero_()
        assert float(twin(**batch).logits.abs().max()) == 0.0
        torch.testing.assert_close(trained.model(**batch).logits, expected)
    assert isinstance(trained.model.forward.__func__, type(lambda: None))
    assert "forward" not in trained.model.__dict__


def test_a_finished_run_is_not_run_again_and_other_settings_are_refused(finished: tuple[Path, Backbone]):
    run_dir, _ = finished
    before = (run_dir / "metrics.jsonl").read_bytes()
    assert run_sft(CONFIG, fresh(), EXAMPLES, run_dir) == run_dir / "stage1" / "model"
    assert (run_dir / "metrics.jsonl").read_bytes() == before
    with pytest.raises(PilotageError, match="lr"):
        run_sft(replace(CONFIG, lr=1.0), fresh(), EXAMPLES, run_dir)
    with pytest.raises(PilotageError, match="examples"):
        run_sft(CONFIG, fresh(), EXAMPLES[1:], run_dir)


def test_twenty_steps_on_four_examples_learn_them(tmp_path: Path):
    config = replace(
        CONFIG,
        steps=20,
        batch_size=12,
        micro_batch_size=12,
        length_groups=1,
        lr=2e-2,
        schedule="constant",
        checkpoint_every=100,
    )
    run_sft(config, fresh(), EXAMPLES[:4], tmp_path)
    rows = trace(tmp_path)
    for name in ("loss/image", "loss/text"):
        assert rows[0][name] > 6.0  # about log(vocabulary)
        assert rows[-1][name] < 3.0


def test_lora_trains_the_language_models_linears_and_nothing_else(tmp_path: Path):
    before = {name: value.clone() for name, value in fresh().model.state_dict().items()}
    config = replace(CONFIG, steps=2, lora=LoraSettings(rank=2, alpha=4))
    directory = run_sft(config, fresh(), EXAMPLES, tmp_path)
    after = weights(directory)
    assert before.keys() == after.keys()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    linears = {name for name in before if re.fullmatch(LANGUAGE_LINEARS + r"\.weight", name)}
    assert changed == linears and len(linears) == 7 * TINY.layers
    assert (tmp_path / "stage1" / "adapter" / "adapter_model.safetensors").is_file()


def test_a_frozen_vision_tower_stays_as_it_is_and_may_be_trained_afterwards(tmp_path: Path):
    trained = fresh()
    before = {name: value.clone() for name, value in trained.model.state_dict().items()}
    run_sft(replace(CONFIG, steps=2, freeze_vision=True), trained, EXAMPLES, tmp_path)
    changed = {
        name for name, value in trained.model.state_dict().items() if not torch.equal(before[name], value)
    }
    assert not [name for name in changed if ".visual." in name]
    assert [name for name in changed if ".language_model." in name]
    assert all(parameter.requires_grad for parameter in trained.model.parameters())


def test_the_baseline_learns_the_reference_response_from_the_picture(tmp_path: Path):
    config = replace(CONFIG, stage="sft_answers", image_view="student", retention_share=0.0, steps=1)
    directory = run_sft(config, fresh(), EXAMPLES, tmp_path)
    assert directory == tmp_path / "sft_answers" / "model"
    (row,) = trace(tmp_path)
    assert row["stage"] == "sft_answers" and "loss/text" not in row


def test_the_trainer_is_trls(backbone: Backbone, tmp_path: Path):
    from trl import SFTTrainer

    collator = RowCollator(mixture_of(backbone))
    trainer = sft_trainer.make_trainer(CONFIG, fresh(), collator, run_dir=tmp_path, on_step=None)
    assert isinstance(trainer, SFTTrainer)


# -- being killed -----------------------------------------------------------------------------------------------------


def test_a_run_that_was_killed_goes_on_as_if_nothing_had_happened(tmp_path: Path):
    whole = run_sft(DROPOUT, fresh(), EXAMPLES, tmp_path / "whole")
    code, printed = run_child(killed_run, tmp_path / "killed", folder=tmp_path)
    assert code == -signal.SIGKILL, printed
    assert [row["step"] for row in trace(tmp_path / "killed")] == [1, 2, 3]
    with (tmp_path / "killed" / "metrics.jsonl").open("a") as file:
        file.write('{"stage": "stage1", "st')  # as if the kill had come in the middle of a line
    directory = run_sft(DROPOUT, fresh(), EXAMPLES, tmp_path / "killed")
    assert trace(tmp_path / "killed") == trace(tmp_path / "whole")
    first, second = weights(whole), weights(directory)
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_checkpoint_half_written_is_not_used(tmp_path: Path):
    """A kill while a checkpoint is written leaves only a folder whose name no reader takes."""

    def stop(step: int, _: int, __: dict[str, float]) -> None:
        if step == KILLED_AT:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_sft(CONFIG, fresh(), EXAMPLES, tmp_path, stop)
    half = tmp_path / "stage1" / "writing.partial" / "checkpoint-4"
    half.mkdir(parents=True)
    (half / "model.safetensors").write_bytes(b"half")
    run_sft(CONFIG, fresh(), EXAMPLES, tmp_path)
    assert [row["step"] for row in trace(tmp_path)] == [1, 2, 3, 4, 5, 6]
    assert sorted(path.name for path in (tmp_path / "stage1").iterdir() if path.is_dir()) == [
        "checkpoint-4",
        "checkpoint-6",
        "model",
    ]
    assert not list(tmp_path.rglob("*.bin"))

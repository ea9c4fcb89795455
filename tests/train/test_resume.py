"""A run that is killed and started again ends as if nothing had happened, bit for bit."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import distill_run
from children import run_child
from distill_run import RESUMED, routed_config, rows_of, tiny_config, tiny_examples
from pilotage.backbones.load import LoraSettings, with_lora
from pilotage.errors import PilotageError
from pilotage.files import PARTIAL
from pilotage.rollouts.sources import FromStudent, Sampling, only
from pilotage.train import checkpoints
from pilotage.train.distill import distill
from pilotage.train.distill_config import AdapterOff
from tiny import tiny_backbone

pytestmark = pytest.mark.usefixtures("one_thread")


def run_in_process(run_dir: Path) -> Path:
    return distill(tiny_config(**RESUMED), student=tiny_backbone(), examples=tiny_examples(), run_dir=run_dir)


def killed(run_dir: Path, *arguments: str) -> None:
    code, printed = run_child(distill_run.main, [str(run_dir), *arguments], folder=run_dir.parent)
    assert code == -signal.SIGKILL, printed


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    run_dir = tmp_path_factory.mktemp("uninterrupted")
    run_in_process(run_dir)
    return run_dir


@pytest.mark.slow
def test_killed_at_a_step_and_then_while_saving_the_run_goes_on_bit_for_bit(uninterrupted, tmp_path):
    run_dir = tmp_path / "run"
    run_dir.mkdir()
    killed(run_dir, "--kill-after", "3")
    assert [step for step, _ in checkpoints.checkpoints(run_dir / "stage2")] == [2]
    assert [row["step"] for row in rows_of(run_dir)] == [1, 2, 3]
    killed(run_dir, "--kill-before-publishing", "4")
    assert [step for step, _ in checkpoints.checkpoints(run_dir / "stage2")] == [2]
    assert [row["step"] for row in rows_of(run_dir)] == [1, 2, 3, 4]
    model_dir = run_in_process(run_dir)

    assert rows_of(run_dir) == rows_of(uninterrupted)
    ours, theirs = (
        load_file(directory / "model.safetensors")
        for directory in (model_dir, uninterrupted / "stage2" / "model")
    )
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    written = [(run / "rollouts.jsonl").read_text() for run in (run_dir, uninterrupted)]
    assert written[0] == written[1]
    assert not list((run_dir / "stage2").glob(f"*{PARTIAL}"))


@pytest.mark.slow
def test_so_it_does_with_several_routes_two_sources_and_a_moving_teacher(tmp_path):
    config, runs = routed_config(), [tmp_path / "whole", tmp_path / "killed"]
    killed(runs[1], "--routed", "--kill-after", "3")
    assert (runs[1] / "stage2" / "checkpoint-2" / "teacher-0" / "teacher.safetensors").exists()
    whole, resumed = (
        distill(config, student=tiny_backbone(), examples=tiny_examples(), run_dir=run) for run in runs
    )
    assert rows_of(runs[1]) == rows_of(runs[0])
    ours, theirs = (load_file(directory / "model.safetensors") for directory in (resumed, whole))
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_the_trace_can_differ(uninterrupted):
    losses = [row["loss"] for row in rows_of(uninterrupted)]
    assert len(set(losses)) == RESUMED["steps"]


def test_a_finished_run_does_nothing_when_called_again(uninterrupted):
    before = (uninterrupted / "metrics.jsonl").read_text()
    student = tiny_backbone()
    steps: list[dict] = []
    model_dir = distill(
        tiny_config(**RESUMED),
        student=student,
        examples=tiny_examples(),
        run_dir=uninterrupted,
        on_step=steps.append,
    )
    assert steps == []
    assert (uninterrupted / "metrics.jsonl").read_text() == before
    kept = load_file(model_dir / "model.safetensors")
    name = "model.language_model.layers.0.self_attn.q_proj.weight"
    assert torch.equal(kept[name], student.model.state_dict()[name])


def test_other_settings_in_the_same_folder_are_an_error_that_names_them(uninterrupted):
    with pytest.raises(PilotageError, match="lr"):
        distill(
            tiny_config(**RESUMED, lr=0.5),
            student=tiny_backbone(),
            examples=tiny_examples(),
            run_dir=uninterrupted,
        )
    with pytest.raises(PilotageError, match="examples"):
        distill(
            tiny_config(**RESUMED),
            student=tiny_backbone(),
            examples=tiny_examples()[:4],
            run_dir=uninterrupted,
        )


def test_checkpoints_hold_no_pickled_objects(uninterrupted):
    kept = checkpoints.checkpoints(uninterrupted / "stage2")
    assert [step for step, _ in kept] == [4, 6]
    for file in kept[-1][1].iterdir():
        assert file.suffix in (".json", ".safetensors", ".pt", ".pth"), file
        if file.suffix == ".pt":
            torch.load(file, weights_only=True)


def test_an_adapter_with_dropout_goes_on_as_if_it_had_not_stopped(tmp_path):
    config = tiny_config(
        steps=4,
        checkpoint_every=2,
        weights=AdapterOff(),
        reduction="sequence",
        sources=only(FromStudent(sampling=Sampling(num_samples=2))),
    )

    class Stopped(Exception):
        pass

    def stop(row: dict) -> None:
        if row["step"] == 3:
            raise Stopped

    def run(name: str, seed: int, on_step: Any = None) -> None:
        torch.manual_seed(seed)
        student = with_lora(tiny_backbone(), LoraSettings(rank=2, alpha=4, dropout=0.3))
        directory = tmp_path / name
        distill(config, student=student, examples=tiny_examples(), run_dir=directory, on_step=on_step)

    run("whole", seed=0)
    with pytest.raises(Stopped):
        run("stopped", seed=0, on_step=stop)
    # Another first adapter: the checkpoint's counts.
    run("stopped", seed=1)
    assert rows_of(tmp_path / "stopped") == rows_of(tmp_path / "whole")


def test_trimming_keeps_other_stages_and_drops_a_torn_line(tmp_path):
    path = tmp_path / "metrics.jsonl"
    rows = [
        {"stage": "stage1", "step": 9},
        {"stage": "stage2", "step": 1, "loss": 0.5},
        {"stage": "stage2", "step": 2, "loss": 0.4},
        {"stage": "stage2", "step": 3, "loss": 0.3},
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows) + '{"stage": "stage2", "st')
    own = checkpoints.trim_rows(path, stage="stage2", last_step=2)
    assert own == rows[1:3]
    assert [json.loads(line) for line in path.read_text().splitlines()] == rows[:3]


def test_pruning_keeps_the_newest_and_sweeps_what_a_kill_left(tmp_path):
    for name in ("checkpoint-2", "checkpoint-10", "checkpoint-4", "writing.partial", "checkpoint-1.partial"):
        (tmp_path / name).mkdir()
    assert [step for step, _ in checkpoints.checkpoints(tmp_path)] == [2, 4, 10]
    checkpoints.prune(tmp_path, 2)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["checkpoint-10", "checkpoint-4"]

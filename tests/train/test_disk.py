"""What a run takes on disk is told from shapes, and a run that has not the room is refused before it trains."""

from __future__ import annotations

import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from distill_run import tiny_config
from pilotage.backbones.load import Backbone, LoraSettings
from pilotage.cli.main import main
from pilotage.errors import PilotageError
from pilotage.train.disk import Disk, added, check_room, disk_line, stage_disk
from pilotage.train.distill_config import EMA, DistillConfig
from pilotage.train.optimisers import AdamWKahan, prepared
from pilotage.train.sft_config import SftConfig
from tiny import tiny_backbone

SFT = SftConfig(prompts="brief", steps=250, checkpoint_every=100)
DISTILLED = partial(tiny_config, steps=3, checkpoint_every=1, num_checkpoints=2, rollouts_every=0)


def disk_of(config: SftConfig | DistillConfig, start: Backbone) -> Disk:
    student = replace(start, model=tiny_backbone().model.to(start.model.dtype))
    return stage_disk(config, start, prepared(student, config.optimiser, config.lora, seed=0))


def test_a_checkpoint_is_weights_moments_and_a_moving_teacher():
    start = tiny_backbone()
    num = sum(parameter.numel() for parameter in start.model.parameters())
    # Weights and two moments in float32; of three that are made two stay.
    supervised = disk_of(SFT, start)
    assert (supervised.checkpoints, supervised.models) == (2 * 12 * num, 4 * num)
    # The third is written before the first goes, and the model when it is gone.
    assert supervised.passing == 12 * num - supervised.models - supervised.rows
    assert disk_of(replace(SFT, steps=200), start).passing == 0
    assert disk_of(replace(SFT, steps=90), start).checkpoints == 12 * num
    assert disk_of(DISTILLED(), start).checkpoints == 2 * 12 * num
    assert disk_of(DISTILLED(weights=EMA(rate=0.1)), start).checkpoints == 2 * 16 * num
    small = replace(start, model=start.model.to(torch.bfloat16))
    # In 16 bits, with Kahan's sums: 2 of each weight, 6 of its state, 4 of the teacher, which is in float32.
    kahan = disk_of(DISTILLED(optimiser=AdamWKahan(), weights=EMA(rate=0.1)), small)
    assert (kahan.checkpoints, kahan.models) == (2 * 12 * num, 2 * num)


def test_of_an_adapter_checkpoints_hold_it_alone_and_the_model_is_merged_in_float32():
    start = tiny_backbone()
    num = sum(parameter.numel() for parameter in start.model.parameters())
    config = replace(SFT, lora=LoraSettings(rank=2, alpha=4.0))
    student = prepared(tiny_backbone(), config.optimiser, config.lora, seed=0)
    own = sum(parameter.numel() for parameter in student.model.parameters() if parameter.requires_grad)
    found = disk_of(config, start)
    assert (found.checkpoints, found.models) == (2 * 12 * own, 4 * num + 4 * own)


def test_stages_leave_their_checkpoints_to_those_after_them():
    first, second = Disk(checkpoints=20, models=5, passing=10), Disk(checkpoints=8, models=5, rows=1)
    together = added([first, second])
    assert (together.together, together.most) == (39, 39)
    assert added([second, first]).most == 49


@pytest.fixture
def little_room(monkeypatch: pytest.MonkeyPatch) -> None:
    """One megabyte, on every disk."""
    monkeypatch.setattr(shutil, "disk_usage", lambda place: SimpleNamespace(free=1_000_000))


def test_a_run_without_room_is_refused_with_what_it_needs_and_what_helps(tmp_path: Path, little_room: None):
    needs = Disk(checkpoints=9_000_000, models=1_000_000)
    folder = tmp_path / "not" / "yet"
    assert disk_line(needs, folder) == (
        f"disk: about 0.01 GB (checkpoints 0.009, models 0.001, rows 0), 0.001 GB free at {tmp_path}"
    )
    line = (
        f"{folder} has not the room for stage2: about 0.01 GB are needed (checkpoints 0.009, models 0.001), and 0.001 "
        f"GB are free at {tmp_path}: make room, name a folder on another disk, or keep fewer checkpoints (--set "
        "stage2.num_checkpoints=1)"
    )
    with pytest.raises(PilotageError) as refused:
        check_room(needs, folder, [DISTILLED()])
    assert str(refused.value) == line
    # What a stopped run holds of its stage already is not needed once more.
    (tmp_path / "stage2").mkdir()
    (tmp_path / "stage2" / "weights").write_bytes(bytes(8_000_000))
    check_room(needs, tmp_path, [DISTILLED()])
    check_room(Disk(checkpoints=1_200_000), folder, [SFT])


def test_a_dry_run_tells_it_and_the_command_refuses(tmp_path, monkeypatch, capsys, little_room):
    monkeypatch.chdir(tmp_path)
    assert main(["train", "run", "--recipe", "nano", "--all"]) == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith("pilotage: error: run has not the room for stage1, stage2: about 0.1")
    assert main(["train", "run", "--recipe", "nano"]) == 2
    assert "has not the room for stage1: about 0.0" in capsys.readouterr().err
    assert not Path("run").exists()
    assert main(["train", "nano", "--dry-run", "--stage", "stage2"]) == 2
    shown = capsys.readouterr()
    assert "\ndisk: about 0.0" in shown.out and "0.001 GB free at" in shown.out
    assert "has not the room for stage2" in shown.err

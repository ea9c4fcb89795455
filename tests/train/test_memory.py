"""What a step takes is told from shapes: beside steps that were made, and of four billion parameters on a GPU."""

from __future__ import annotations

import json
import re
import shlex
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from pilotage.backbones.checkpoint import BackboneError
from pilotage.backbones.load import load_backbone, load_shape
from pilotage.cli.main import main
from pilotage.recipes.nano import nano_mgsd
from pilotage.runs.measurement import examples_of
from pilotage.runs.runner import train_stage
from pilotage.train.distill_config import EMA
from pilotage.train.distill_setup import with_weights
from pilotage.train.fit import Plan
from pilotage.train.live_memory import LiveMemory
from pilotage.train.memory import Memory
from pilotage.train.optimisers import AdamWKahan

pytestmark = pytest.mark.usefixtures("same_threads")

TEXT = {
    "model_type": "qwen3_vl_text",
    "hidden_size": 2560,
    "num_hidden_layers": 36,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "intermediate_size": 9728,
    "vocab_size": 151_936,
    "tie_word_embeddings": True,
    "rope_parameters": {"rope_type": "default", "rope_theta": 5e6, "mrope_section": [24, 20, 20]},
}
VISION = {
    "model_type": "qwen3_vl",
    "depth": 24,
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_heads": 16,
    "out_hidden_size": 2560,
    "patch_size": 16,
    "spatial_merge_size": 2,
    "temporal_patch_size": 2,
    "num_position_embeddings": 2304,
    "deepstack_visual_indexes": [5, 11, 17],
}
FOUR_BILLION = {
    "model_type": "qwen3_vl",
    "image_token_id": 151_655,
    "tie_word_embeddings": True,
    "text_config": TEXT,
    "vision_config": VISION,
}


@pytest.fixture
def four_billion(tmp_path: Path) -> Path:
    """A directory with the configuration of a Qwen3-VL of 4 B, and nothing else."""
    directory = tmp_path / "4b"
    directory.mkdir()
    (directory / "config.json").write_text(json.dumps(FOUR_BILLION))
    return directory


def test_live_memory_counts_what_a_backward_needs() -> None:
    layer = torch.nn.Linear(50, 50, bias=False)
    with LiveMemory(layer) as memory:
        before = memory.live
        assert before == 50 * 50 * 4
        out = layer(torch.zeros(100, 50)).exp()
        # exp keeps its result, which is `out`; the layer keeps what it read.
        assert memory.live - before == 2 * 100 * 50 * 4
        out.sum().backward()
        del out
        assert layer.weight.grad is not None and memory.live - before == 50 * 50 * 4
        assert memory.peak - before > 2 * 100 * 50 * 4


@pytest.mark.parametrize("case", ["stage1", "stage2", "stage2, EMA", "stage2, EMA, bfloat16"])
def test_the_estimate_is_near_what_a_step_of_nano_takes(case: str, tmp_path: Path) -> None:
    stage, _, teacher = case.partition(", ")
    recipe = nano_mgsd(0)
    changes: dict[str, Any] = {"steps": 2, "checkpoint_every": 10**6}
    if stage == "stage1":
        changes |= {"batch_size": 12, "micro_batch_size": 4}
    else:
        changes |= {"prompts_per_step": 8, "micro_batch_size": 4, "max_new_tokens": 32, "warmup_share": 0.0}
    dtype = "bfloat16" if "bfloat16" in teacher else "float32"
    if dtype == "bfloat16":
        changes["optimiser"] = AdamWKahan()
    config: Any = replace(next(each for each in recipe.stages if each.stage == stage), **changes)
    if teacher:
        config = with_weights(config, lambda _: EMA(rate=0.05))
    examples = examples_of(replace(recipe, num_train=12), "train")
    student = load_backbone("nano", dtype=dtype, attn_implementation=recipe.attention)
    peaks: list[int] = []
    with LiveMemory(student.model) as memory:
        train_stage(
            config,
            student,
            examples,
            tmp_path,
            answers=recipe.engine,
            on_step=lambda *_: peaks.append(memory.peak),
        )
    plan = Plan(
        config=config,
        engine=recipe.engine,
        start="nano",
        load=partial(load_shape, dtype=dtype),
        attention=recipe.attention,
        examples=examples,
    )
    captured = plan.memory(on_gpu=False)
    assert captured.together == pytest.approx(peaks[-1], rel=0.15)
    num_trained = sum(parameter.numel() for parameter in student.model.parameters())
    # At least in float32, whatever the student is in.
    assert captured.lasting.get("moving teacher", 0) == (4 * num_trained if teacher else 0)
    copied = captured.phases.get("teachers", {}).get("moving teacher's copy", 0)
    assert copied == (2 * num_trained if dtype == "bfloat16" else 0)


def dry_run(options: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    status = main(["train", "mgsd", "--dry-run", *options])
    captured = capsys.readouterr()
    return status, captured.out, captured.err.strip().splitlines()[-1] if status else ""


@pytest.mark.parametrize(("stage", "gib"), [("stage1", 80), ("stage2", 80), ("stage1", 11), ("stage2", 24)])
def test_a_model_of_four_billion_fits_or_is_refused_with_what_makes_it_fit(
    stage: str,
    gib: int,
    four_billion: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    options = ["--backbone", str(four_billion), "--stage", stage, "--gpu-memory", str(gib)]
    status, out, refusal = dry_run(options, capsys)
    assert "the model comes without a tokenizer" in out and "an optimiser step, about" in out
    if gib == 80:
        assert status == 0 and f"{stage} fits on a GPU of 80 GiB" in out
        return
    assert status == 2
    with_what_is_named(options, refusal, stage, gib, capsys)


def with_what_is_named(
    options: list[str], refusal: str, stage: str, gib: int, capsys: pytest.CaptureFixture[str]
) -> str:
    """The options that a refusal names, with which the stage fits."""
    found = re.search(
        rf"{stage} does not fit .* too many; the largest part is .*; with (.*) it takes", refusal
    )
    assert found, refusal
    status, out, again = dry_run([*options, *shlex.split(found[1])], capsys)
    assert status == 0 and f"{stage} fits on a GPU of {gib} GiB" in out, again
    return found[1]


@pytest.mark.parametrize(
    ("gib", "needs"),
    [(80, "--set engine.gpu_memory_utilization="), (40, "--lora 16"), (21, "--qlora 16")],
)
def test_vllm_takes_less_of_the_gpu_before_anything_else_gives_way(
    gib: int,
    needs: str,
    four_billion: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    options = ["--backbone", str(four_billion), "--stage", "stage2", "--set", "engine=InVllm()"]
    options += ["--gpu-memory", str(gib)]
    status, _, refusal = dry_run(options, capsys)
    assert status == 2
    named = with_what_is_named(options, refusal, "stage2", gib, capsys)
    assert needs in named
    assert not ("--lora" in named and "--qlora" in named), "the command takes one of them"


def test_a_stage_that_does_not_fit_does_not_begin(
    four_billion: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, options = tmp_path / "run", ["--recipe", "mgsd", "--backbone", str(four_billion)]
    options += ["--stage", "stage2", "--from", str(four_billion)]
    assert main(["train", str(run), *options, "--gpu-memory", "24"]) == 2
    assert "stage2 does not fit on a GPU of 24 GiB" in capsys.readouterr().err and not run.exists()


def test_a_configuration_alone_is_a_shape_where_it_is_asked_for(four_billion: Path) -> None:
    with pytest.raises(BackboneError, match="safetensors"):
        load_shape(four_billion)
    shape = load_shape(four_billion, dtype=torch.bfloat16, from_config=True)
    assert shape.processor is None and shape.model.device.type == "meta"
    (four_billion / "model.bin").write_bytes(b"")
    with pytest.raises(BackboneError, match="pickle"):
        load_shape(four_billion, from_config=True)


def test_the_largest_phase_is_what_a_step_takes() -> None:
    memory = Memory(lasting={"student": 10, "teacher": 0}, phases={"a": {"cache": 5}, "b": {"gradients": 7}})
    assert memory.together == 17 and memory.phase == "b"
    assert memory.parts == {"student": 10, "gradients": 7}

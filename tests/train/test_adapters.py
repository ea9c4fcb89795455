"""Adapters in every kind of stage, on a base in 4 bits too: what is saved answers as what was trained."""

from __future__ import annotations

import importlib.util
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForImageTextToText

import sft_run
from distill_run import references, tiny_config, tiny_examples
from pilotage.backbones.load import Backbone, LoraSettings, QLoraSettings, with_lora
from pilotage.backbones.weights import lost_in
from pilotage.train.distill import distill
from pilotage.train.distill_config import AdapterOff
from pilotage.train.sft import run_sft
from tiny import tiny_backbone

HAS_BNB = importlib.util.find_spec("bitsandbytes") is not None
KINDS = [
    pytest.param(LoraSettings(rank=2, alpha=4), id="lora"),
    pytest.param(
        QLoraSettings(rank=2, alpha=4),
        id="qlora",
        marks=pytest.mark.skipif(not HAS_BNB, reason="bitsandbytes is not installed"),
    ),
]
IDS = torch.arange(40, 72)[None]


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(input_ids=IDS % 40 + 5).logits.float()


def trained(stage: str, run_dir: Path, lora: LoraSettings, dtype: torch.dtype) -> tuple[Path, Backbone]:
    """The folder of the stage's model, and the first weights."""
    student = tiny_backbone() if stage == "distill" else sft_run.fresh()
    first = tiny_backbone() if stage == "distill" else sft_run.fresh()
    for backbone in (student, first):
        backbone.model.to(dtype)
    if stage == "sft":
        config = replace(sft_run.CONFIG, steps=4, lora=lora)
        return run_sft(config, student, sft_run.EXAMPLES, run_dir), first
    config = tiny_config(steps=4, lora=lora, weights=AdapterOff(), max_new_tokens=200)
    made = distill(
        config, student=student, examples=tiny_examples(), run_dir=run_dir, engine=references(tiny_backbone())
    )
    return made, first


@pytest.mark.parametrize("stage", ["distill", "sft"])
@pytest.mark.parametrize("lora", KINDS)
def test_the_saved_model_in_transformers_answers_as_the_adapter_in_peft(
    tmp_path: Path, stage: str, lora: LoraSettings
) -> None:
    directory, first = trained(stage, tmp_path, lora, torch.float32)
    if isinstance(lora, QLoraSettings):
        # What was trained stands on the base in 4 bits.
        with_lora(first, lora).model.unload()
    before = logits(first.model)
    adapted = logits(PeftModel.from_pretrained(first.model, directory.with_name("adapter")))
    merged = logits(AutoModelForImageTextToText.from_pretrained(directory))
    assert (merged - before).abs().max() > 1e-2
    torch.testing.assert_close(merged, adapted, rtol=0, atol=2e-4 * float(adapted.abs().max()))
    assert torch.equal(merged.argmax(-1), adapted.argmax(-1))


@pytest.mark.parametrize("stage", ["distill", "sft"])
@pytest.mark.parametrize("lora", KINDS)
def test_an_adapter_is_trained_in_float32_whatever_it_stands_on(
    tmp_path: Path, stage: str, lora: LoraSettings
) -> None:
    directory, _ = trained(stage, tmp_path, lora, torch.bfloat16)
    adapter = load_file(directory.with_name("adapter") / "adapter_model.safetensors")
    assert {value.dtype for value in adapter.values()} == {torch.float32}
    # Numbers that 16 bits do not hold: none was rounded on the way.
    assert all((value != value.bfloat16().float()).any() for value in adapter.values())


def test_a_merge_on_weights_in_16_bits_is_in_float32_and_loses_nothing(tmp_path: Path) -> None:
    directory, first = trained("sft", tmp_path, LoraSettings(rank=2, alpha=4), torch.bfloat16)
    model = PeftModel.from_pretrained(first.model.float(), directory.with_name("adapter")).merge_and_unload()
    saved = load_file(directory / "model.safetensors")
    assert {value.dtype for value in saved.values()} == {torch.float32}
    for name, value in model.named_parameters():
        if name in saved:
            torch.testing.assert_close(saved[name], value.detach(), rtol=0, atol=1e-7)


def test_what_rounding_takes_from_a_small_adapter_is_measured_and_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    adapted = with_lora(tiny_backbone(), LoraSettings(rank=2, alpha=4))
    with torch.no_grad():
        for name, parameter in adapted.model.named_parameters():
            if "lora_B" in name:
                parameter.fill_(1e-6)
    assert lost_in(adapted.model, torch.bfloat16) > 0.9
    assert lost_in(adapted.model, torch.float64) == 0.0
    with caplog.at_level(logging.WARNING):
        trained("sft", tmp_path, LoraSettings(rank=2, alpha=1e-4), torch.bfloat16)
    assert any("of what the adapter changes to rounding" in record.message for record in caplog.records)

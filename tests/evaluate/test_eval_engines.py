"""`pilotage eval MODEL --engine vllm`, against a stand-in: vLLM itself needs a GPU."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from pilotage.backbones.load import load_backbone, load_without_weights, resolve
from pilotage.cli.main import main

ARGUMENTS = ["eval", "nano", "--engine", "vllm", "--num", "2", "--conditions", "image", "text"]


def test_vllm_that_is_not_installed_is_one_line_before_any_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "vllm", None)
    assert main([*ARGUMENTS, "--out", str(tmp_path / "run")]) == 2
    err = capsys.readouterr().err
    assert "pip install 'pilotage[vllm]'" in err and err.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_vllm_loads_the_weights_itself_and_is_given_whole_batches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backbone = load_without_weights("nano")
    answer_ids = (*backbone.tokenizer("<answer>R</answer>")["input_ids"], backbone.eos_ids[0])
    asked: dict[str, Any] = {"batches": []}

    class LLM:
        def __init__(self, **options: Any) -> None:
            asked["options"] = options

        def generate(self, prompts: list[Any], sampling_params: Any, use_tqdm: bool) -> list[Any]:
            asked["batches"].append(len(prompts))
            answer = SimpleNamespace(token_ids=answer_ids, logprobs=None, finish_reason="stop")
            return [SimpleNamespace(outputs=[answer]) for _ in prompts]

    fake = ModuleType("vllm")
    fake.LLM, fake.SamplingParams = LLM, SimpleNamespace  # pyright: ignore[reportAttributeAccessIssue]
    monkeypatch.setitem(sys.modules, "vllm", fake)
    assert main([*ARGUMENTS, "--out", str(tmp_path)]) == 0
    assert asked["options"]["model"] == str(resolve("nano")) and asked["batches"] == [6, 6]
    lines = (tmp_path / "eval" / "base.image.jsonl").read_text().splitlines()
    row = json.loads(lines[0])
    assert len(lines) == 6 and row["response"] == "<answer>R</answer>"
    # In-process rows of another engine are not continued.
    assert row["settings"]["model"] == "nano in vLLM" and row["num_tokens"] == len(answer_ids)


def test_a_backbone_without_weights_is_the_same_but_for_them() -> None:
    whole, without = load_backbone("nano"), load_without_weights("nano")
    assert without.model is None and without.name == str(resolve("nano"))
    for name in ("eos_ids", "pad_id", "image_token_id", "vision_token_ids", "placeholder_ids"):
        assert getattr(whole, name) == getattr(without, name)

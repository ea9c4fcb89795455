"""Writes a model as an ordinary transformers directory."""

from __future__ import annotations

from pathlib import Path

import torch

from pilotage.backbones.base import Processor


def save_backbone(
    model: torch.nn.Module,
    processor: Processor,
    directory: str | Path,
    *,
    state_dict: dict[str, torch.Tensor] | None = None,
) -> None:
    """Writes an ordinary transformers directory: config, safetensors, tokenizer, preprocessor and chat template.

    `state_dict` stands in for the model's own weights, where these are sharded.
    """
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(directory, state_dict=state_dict)  # pyright: ignore[reportCallIssue]
    processor.save_pretrained(directory)

"""The weights of a model as a program that knows nothing of adapters and shards takes them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from pilotage.backbones.four_bits import dequantised

_BASE = ".base_layer."


@torch.no_grad()
def whole_parameters(model: Any, *, dtype: torch.dtype | None = None) -> Iterator[tuple[str, torch.Tensor]]:
    """(name, value) of every parameter of the plain transformers model, in `dtype` or its own; `model` stays as it is.

    A LoRA adapter is added to what it adapts, one parameter at a time: merging it into the model and taking it out
    again would round the model's own weights. What is in 4 bits is what these stand for. Of a sharded model, all ranks
    must go through the iterator.
    """
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    adapted = {name: module for name, module in base.named_modules() if hasattr(module, "get_delta_weight")}
    for name, parameter in base.named_parameters():
        layer, of_base, kind = name.rpartition(_BASE)
        if not of_base and any(name.startswith(f"{path}.") for path in adapted):
            continue  # the adapter's own
        value = _whole(dequantised(parameter).detach())
        value = value if dtype is None else value.to(dtype)
        if of_base and kind == "weight":
            for adapter in adapted[layer].active_adapters:
                value = value + _delta(adapted[layer], adapter).to(value.dtype)
        yield name.replace(_BASE, "."), value


@torch.no_grad()
def lost_in(model: Any, dtype: torch.dtype) -> float:
    """Share of an adapter's change that is rounded away where the merged model is in `dtype`: |rounding| / |change|.

    Of a sharded model, all ranks must call this.
    """
    lost = change = 0.0
    for layer in model.modules():
        if hasattr(layer, "get_delta_weight"):
            base = _whole(dequantised(layer.get_base_layer().weight)).float()
            merged = base + sum(_delta(layer, name).float() for name in layer.active_adapters)
            lost += float((merged.to(dtype).float() - merged).square().sum())
            change += float((merged - base).square().sum())
    return (lost / change) ** 0.5 if change else 0.0


def _delta(layer: Any, adapter: str) -> torch.Tensor:
    return _whole(layer.get_delta_weight(adapter))


def _whole(value: Any) -> torch.Tensor:
    return value.full_tensor() if hasattr(value, "full_tensor") else value

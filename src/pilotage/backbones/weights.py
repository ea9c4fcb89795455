"""The weights of a model as a program that knows nothing of adapters and shards takes them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

_BASE = ".base_layer."


@torch.no_grad()
def whole_parameters(model: Any) -> Iterator[tuple[str, torch.Tensor]]:
    """(name, value) of every parameter of the plain transformers model; `model` stays as it is.

    A LoRA adapter is added to what it adapts, one parameter at a time: merging it into the model and taking it out
    again would round the model's own weights. Of a sharded model, all ranks must go through the iterator.
    """
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    adapted = {name: module for name, module in base.named_modules() if hasattr(module, "get_delta_weight")}
    for name, parameter in base.named_parameters():
        layer, of_base, kind = name.rpartition(_BASE)
        if not of_base and any(name.startswith(f"{path}.") for path in adapted):
            continue  # the adapter's own
        value = parameter.detach()
        if hasattr(value, "full_tensor"):
            value = value.full_tensor()
        if of_base and kind == "weight":
            for adapter in adapted[layer].active_adapters:
                value = value + adapted[layer].get_delta_weight(adapter).to(value.dtype)
        yield name.replace(_BASE, "."), value

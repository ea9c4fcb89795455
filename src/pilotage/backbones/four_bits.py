"""Linear layers of a frozen base in 4 bits, by bitsandbytes: what QLoRA (arXiv 2305.14314) trains an adapter on."""

from __future__ import annotations

import re
from typing import Any

import torch
from torch import nn

from pilotage.errors import require


def quantise(model: Any, names: str, *, form: str, device: torch.device | str | None = None) -> None:
    """Puts the linear layers whose whole names match into 4 bits, in place; they compute in the precision they had.

    With a `device` these layers end there, each in 4 bits already. On the meta device only the size changes. Raises
    PilotageError where bitsandbytes is not installed.
    """
    for name, layer in list(model.named_modules()):
        if type(layer) is nn.Linear and re.fullmatch(names, name):
            if layer.weight.is_meta:
                packed = layer.weight.new_empty((layer.weight.numel() + 1) // 2, 1, dtype=torch.uint8)
                layer.weight = nn.Parameter(packed, requires_grad=False)
            else:
                model.set_submodule(name, _in_four_bits(layer, form, device or layer.weight.device))
                # peft asks for this before it adapts such a layer.
                model.is_loaded_in_4bit = True


def _in_four_bits(layer: nn.Linear, form: str, device: torch.device | str) -> nn.Module:
    require("bitsandbytes")
    from bitsandbytes.nn import Linear4bit, Params4bit

    kind: Any = Params4bit
    new: Any = Linear4bit(
        layer.in_features,
        layer.out_features,
        bias=layer.bias is not None,
        compute_dtype=layer.weight.dtype,
        quant_type=form,
        device="meta",
    )
    # Else the first answer on a CPU packs the weight anew, for good: it could be neither merged nor read.
    new.support_avx512bf16_for_cpu = False
    new.bias = layer.bias
    new.weight = kind(
        layer.weight.data, requires_grad=False, compress_statistics=True, quant_type=form, module=new
    )
    # Moving it to where it is quantises it.
    return new.to(device)


def dequantised(weight: torch.Tensor) -> torch.Tensor:
    """The numbers that a weight in 4 bits stands for; any other weight itself."""
    state = getattr(weight, "quant_state", None)
    if state is None:
        return weight
    from bitsandbytes.functional import dequantize_4bit

    return dequantize_4bit(weight.data, state)

"""Optimisers under which small learning rates move the weights, also of a model in bfloat16.

A bfloat16 number has 8 bits, so that an update below 1/512 of a weight changes nothing. Either the trained weights
stand in float32 (masters) and matrix products alone are in bfloat16, or the optimiser keeps what rounding takes away.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from pilotage.backbones.load import Backbone, LoraSettings, QLoraSettings, with_lora
from pilotage.errors import PilotageError, require


@dataclass(frozen=True, kw_only=True)
class AdamW:
    """AdamW on weights in float32: 16 bytes for each that trains, its gradient and both moments among them.

    One's own optimiser is derived from it.
    """

    eps: float = 1e-8

    library: ClassVar[str | None] = None
    """What it is imported from, besides torch."""
    has_masters: ClassVar[bool] = True
    """Whether trained weights of 16 bits are made float32; matrix products stay in bfloat16."""
    compensation: ClassVar[str | None] = None
    """Under which name a parameter's state holds what its weight is more than the parameter."""
    shards: ClassVar[bool] = True
    """Whether it updates parameters that ranks share out."""

    def __post_init__(self) -> None:
        if not 0 < self.eps < math.inf:
            raise PilotageError(f"eps {self.eps} of {type(self).__name__} must be above 0")

    def check(self) -> None:
        """Raises PilotageError where its library is not installed."""
        if self.library is not None:
            require(self.library)

    def state_bytes(self, weight_bytes: int) -> int:
        """Of state, for each trained weight that takes so many bytes itself."""
        return 2 * weight_bytes

    def made_of(self) -> tuple[type[torch.optim.Optimizer], dict[str, Any]]:
        """The class, and its arguments beside learning rate, betas and eps."""
        return torch.optim.AdamW, {"fused": True}


@dataclass(frozen=True, kw_only=True)
class AdamWKahan(AdamW):
    """AdamW with Kahan-compensated updates: a weight in bfloat16 takes 10 bytes, of which 2 hold what was rounded away.

    Weight decay is not compensated: below a `lr * weight_decay` of 1/512 there is none in bfloat16. On weights in
    float32 it is AdamW.
    """

    library: ClassVar[str | None] = "optimi"
    has_masters: ClassVar[bool] = False
    compensation: ClassVar[str | None] = "kahan_comp"

    def state_bytes(self, weight_bytes: int) -> int:
        return (3 if weight_bytes < 4 else 2) * weight_bytes

    def made_of(self) -> tuple[type[torch.optim.Optimizer], dict[str, Any]]:
        import optimi

        return optimi.AdamW, {}


@dataclass(frozen=True, kw_only=True)
class AdamW8bit(AdamW):
    """AdamW on weights in float32 with both moments in 8 bits, in blocks: 10 bytes for each weight that trains."""

    library: ClassVar[str | None] = "bitsandbytes"
    shards: ClassVar[bool] = False

    def state_bytes(self, weight_bytes: int) -> int:
        return 2

    def made_of(self) -> tuple[type[torch.optim.Optimizer], dict[str, Any]]:
        from bitsandbytes.optim import AdamW8bit as Blockwise

        return Blockwise, {}


def shares_weights(accelerator: Any) -> bool:
    """Whether ranks share out the parameters that they train."""
    from accelerate.utils import DistributedType  # a list of the recipes needs none of it

    kind = accelerator.distributed_type
    return kind == DistributedType.FSDP or (
        kind == DistributedType.DEEPSPEED and accelerator.state.deepspeed_plugin.zero_stage == 3
    )


def refuse_sharing(optimiser: AdamW, lora: LoraSettings | None) -> None:
    """Raises PilotageError for a stage that ranks which share out its parameters could not train."""
    if not optimiser.shards:
        raise PilotageError(
            f"optimiser {type(optimiser).__name__} keeps its moments in blocks that ranks cannot share out: take "
            "AdamW or AdamWKahan, or let each rank hold the whole model"
        )
    if isinstance(lora, QLoraSettings):
        raise PilotageError(
            "weights in 4 bits (QLoRA) are packed in a way that ranks cannot share out: take lora without 4 bits, "
            "or let each rank hold the whole model"
        )


def trainer_optimiser(
    optimiser: AdamW, *, lr: float, betas: tuple[float, float]
) -> tuple[type[torch.optim.Optimizer], dict[str, Any]]:
    """What a `transformers.Trainer` takes as `optimizer_cls_and_kwargs`."""
    kind, own = optimiser.made_of()
    return kind, {"lr": lr, "betas": betas, "eps": optimiser.eps} | own


def prepared(
    student: Backbone, optimiser: AdamW, lora: LoraSettings | None, *, seed: int, device: str | None = None
) -> Backbone:
    """The student as a stage trains it: with the adapter that it asks for, and float32 masters of what it trains.

    One that is prepared already stays as it is; an adapter may bring the model to a `device`.
    """
    if lora is not None and not hasattr(student.model, "disable_adapter"):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            student = with_lora(student, lora, device=device)
    dtype = student.model.dtype
    small = [p for p in trained(student.model).values() if torch.finfo(p.dtype).bits < 32]
    if not optimiser.has_masters or not small:
        return student
    for parameter in small:
        parameter.data = parameter.data.float()
    return replace(student, computes_in=dtype)


def trained(model: Any) -> dict[str, Tensor]:
    """The parameters that train, by name."""
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


@torch.no_grad()
def settle(model: Any, optimiser: AdamW, made: Any) -> None:
    """Adds to each parameter, in float32, what its optimiser (`made`) holds of its weight; not where ranks share it."""
    for parameter in trained(model).values():
        held = beside(parameter, optimiser, made.state)
        if held is not None and type(parameter.data) is Tensor:
            parameter.data = parameter.data.float() + held.float()


def beside(parameter: Tensor, optimiser: AdamW, state: Any) -> Tensor | None:
    """What the optimiser holds of a weight beside its parameter, in its shape; None for nothing."""
    return None if optimiser.compensation is None else state.get(parameter, {}).get(optimiser.compensation)

"""Do the weights move? A run that rounds its own updates away looks like any other, and ends as it began."""

from __future__ import annotations

import logging
from typing import Any

import torch
from transformers import TrainerCallback

from pilotage.train.optimisers import AdamW, beside, trained

logger = logging.getLogger(__name__)

NUM_STEPS = 20
"""Steps after which the weights are compared with the first ones, or at the end of a shorter run."""
LEAST_SHARE = 0.05
"""Of the trained weights. Rows of the embeddings whose words never come stay; nearly everything else should move."""
SAMPLED = 4096
"""Weights that are looked at in each parameter."""
USUAL_WEIGHT = 0.02
"""Size of a weight of a language model, where the numbers themselves are not there to be asked."""


def expects_rounding(model: Any, lr: float, optimiser: AdamW) -> str | None:
    """One line where most updates of the size of the learning rate would be rounded away; None where they would not.

    AdamW moves a weight by about the learning rate. A bfloat16 number has 8 bits: what is less than 1/512 of the weight
    changes nothing, step after step. Parameters without numbers (on the meta device) are taken to be of usual size.
    """
    if optimiser.compensation is not None:
        return None
    num_lost = num_seen = 0
    for parameter in trained(model).values():
        if torch.finfo(parameter.dtype).bits >= 32:
            num_seen += parameter.numel()
            continue
        if parameter.is_meta:
            weights = torch.full((1,), USUAL_WEIGHT, dtype=parameter.dtype)
        else:
            weights = _sample(parameter)
        lost = (weights.double() + lr).to(weights.dtype) == weights
        num_lost += float(lost.double().mean()) * parameter.numel()
        num_seen += parameter.numel()
    if not num_seen or num_lost < num_seen / 2:
        return None
    return (
        f"the trained weights are in 16 bits, and at a learning rate of {lr:g} the updates of "
        f"{100 * num_lost / num_seen:.0f} % of them are rounded away: the model will hardly change. Give the "
        "stage optimiser=AdamW(), with masters in float32, or AdamWKahan(), train an adapter (lora), or raise the rate"
    )


class MovementWatch(TrainerCallback):
    """Compares trained weights with those before the first step, bit for bit, and warns when hardly any has moved."""

    def __init__(self, model: Any, optimiser: AdamW) -> None:
        self._model = model
        self._optimiser = optimiser
        self._before: dict[str, torch.Tensor] = {}
        self._num_steps = 0

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        # Not before: only now are the parameters those that train, as ranks hold them.
        self._before = {name: _sample(parameter).clone() for name, parameter in trained(self._model).items()}

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._num_steps += 1
        # A run that goes on near its end has fewer steps to go by.
        is_time = self._num_steps == NUM_STEPS or (
            state.global_step == state.max_steps and self._num_steps < NUM_STEPS
        )
        if is_time and (share := self.share(kwargs["optimizer"].state)) < LEAST_SHARE:
            logger.warning(
                "after %d steps %.1f %% of the trained weights have changed: their updates are rounded away, or "
                "nothing is learnt. Look at optimiser, lora and the learning rate of the stage",
                *(self._num_steps, 100 * share),
            )

    def share(self, state: Any) -> float:
        """Of the trained weights, those that are no longer what they were before the first step.

        `state` is the optimiser's, which may hold what a parameter has been rounded to.
        """
        num_moved = num_seen = 0.0
        for name, parameter in trained(self._model).items():
            now, before = _sample(parameter), self._before[name]
            if len(now):  # a rank may hold nothing of a parameter
                moved = now != before
                if (held := beside(parameter, self._optimiser, state)) is not None:
                    moved |= _sample(held) != 0
                num_moved += parameter.numel() * float(moved.double().mean())
                num_seen += parameter.numel()
        return num_moved / num_seen if num_seen else 1.0


@torch.no_grad()
def _sample(parameter: Any) -> torch.Tensor:
    """Some of a parameter's numbers, evenly spread; of a sharded one, of what this rank has."""
    local = parameter.to_local() if hasattr(parameter, "to_local") else parameter
    flat = local.detach().reshape(-1)
    return flat[:: max(1, len(flat) // SAMPLED)]

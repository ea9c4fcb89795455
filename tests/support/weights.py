"""What losses are weighted by, apart from the trainer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from pilotage.distill.reduce import Reduction, StepCounts, row_weights
from pilotage.distill.token_weights import RowFacts


@dataclass(frozen=True, kw_only=True)
class Given:
    """The signal of this name, as it is."""

    signal: str

    @property
    def signals(self) -> tuple[str, ...]:
        return (self.signal,)

    def __call__(self, row: RowFacts) -> np.ndarray:
        return row.signals[self.signal]


def token_weights(
    reduction: Reduction, num_tokens_R: Sequence[int], tasks_R: Sequence[str], counts: StepCounts
) -> Tensor:
    """The weight of every token of these rows [M], float32."""
    weight_R = torch.tensor(row_weights(reduction, num_tokens_R, tasks_R, counts))
    return weight_R.repeat_interleave(torch.tensor(num_tokens_R, dtype=torch.long))

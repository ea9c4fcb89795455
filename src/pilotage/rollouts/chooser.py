"""The next token of each row, from the policy's logits.

B rows, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from pilotage.backbones.load import Backbone
from pilotage.rollouts.engine import Decoding


@dataclass(frozen=True, kw_only=True)
class Choice:
    """One token per row."""

    tokens_B: torch.Tensor
    logprobs_B: torch.Tensor
    vision_mass_B: torch.Tensor
    attempts_B: torch.Tensor

    def as_lists(self) -> tuple[list[int], list[float], list[float], list[int]]:
        return (
            self.tokens_B.tolist(),
            self.logprobs_B.tolist(),
            self.vision_mass_B.tolist(),
            self.attempts_B.int().tolist(),
        )


class Chooser:
    """Picks the next token of each row from its logits."""

    def __init__(self, backbone: Backbone, decoding: Decoding) -> None:
        self.vision_ids = torch.tensor(backbone.vision_token_ids, dtype=torch.long, device=backbone.device)
        never = (*backbone.vision_token_ids, *backbone.wordless_ids)
        self.never_ids = torch.tensor(never, dtype=torch.long, device=backbone.device)
        """What an answer cannot hold: it would look for a picture, or say nothing that could be read or scored."""
        self.temperature = decoding.temperature
        self.top_p = decoding.top_p
        self.top_k = decoding.top_k

    def __call__(self, logits_BV: torch.Tensor, uniforms_B: torch.Tensor | None) -> Choice:
        logits_BV = logits_BV.float()
        if self.temperature not in (0.0, 1.0):
            logits_BV = logits_BV / self.temperature
        logprobs_BV = logits_BV.log_softmax(dim=-1)
        vision_mass_B = logprobs_BV[:, self.vision_ids].exp().sum(-1)
        allowed_BV = logprobs_BV.index_fill(1, self.never_ids, -torch.inf)
        if uniforms_B is None:
            best_B, tokens_B = allowed_BV.max(dim=-1)
            attempts_B = logprobs_BV.amax(dim=-1) > best_B
        else:
            tokens_B = self._sample(allowed_BV, uniforms_B)
            attempts_B = uniforms_B < vision_mass_B
        return Choice(
            tokens_B=tokens_B,
            logprobs_B=logprobs_BV.gather(1, tokens_B[:, None])[:, 0],
            vision_mass_B=vision_mass_B,
            attempts_B=attempts_B,
        )

    def _sample(self, logprobs_BV: torch.Tensor, uniforms_B: torch.Tensor) -> torch.Tensor:
        """The inverse of the cumulative distribution at each row's uniform."""
        if 0 < self.top_k < logprobs_BV.shape[-1]:
            least = logprobs_BV.topk(self.top_k, dim=-1).values[:, -1:]
            logprobs_BV = logprobs_BV.masked_fill(logprobs_BV < least, -torch.inf)
        probs_BV = logprobs_BV.exp()
        if self.top_p < 1:
            sorted_BV, order_BV = probs_BV.sort(dim=-1, descending=True, stable=True)
            before_BV = sorted_BV.cumsum(dim=-1) - sorted_BV
            dropped_BV = before_BV >= self.top_p * sorted_BV.sum(dim=-1, keepdim=True)
            probs_BV = probs_BV.masked_fill(
                torch.zeros_like(dropped_BV).scatter(1, order_BV, dropped_BV), 0.0
            )
        # float64: a float32 uniform below 1 stays below 1 after the multiplication, so the last token with
        # probability is never passed over.
        cumulative_BV = probs_BV.cumsum(dim=-1, dtype=torch.float64)
        targets_B = uniforms_B.double() * cumulative_BV[:, -1]
        tokens_B = torch.searchsorted(cumulative_BV, targets_B[:, None], right=True)[:, 0]
        # Probabilities that are no numbers are passed over to the end; their log-probability tells.
        return tokens_B.clamp(max=probs_BV.shape[-1] - 1)

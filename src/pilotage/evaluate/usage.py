"""Tokens that answers took, as their servers reported them, and what they cost."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from pilotage.evaluate.bootstrap import Figures


@dataclass(frozen=True, kw_only=True)
class Usage(Figures):
    """Sums over rows. Tries that failed are not in them: nobody reports what they took."""

    num_rows: int = 0
    num_reported: int = 0
    """Rows whose server reported tokens."""
    prompt_tokens: int = 0
    completion_tokens: int = 0

    def cost(self, *, price_in: float, price_out: float) -> float:
        """In the currency of the prices, which are per million tokens."""
        return (self.prompt_tokens * price_in + self.completion_tokens * price_out) / 1e6


def usage_of(rows: Iterable[Mapping[str, Any]]) -> Usage:
    """The tokens of all `rows`; those without a count are counted as such."""
    usages = [row.get("usage") or {} for row in rows]
    return Usage(
        num_rows=len(usages),
        num_reported=sum(map(bool, usages)),
        prompt_tokens=sum(usage.get("prompt_tokens", 0) for usage in usages),
        completion_tokens=sum(usage.get("completion_tokens", 0) for usage in usages),
    )

"""Prompts that begin alike are read once: the same rules stand in front of every picture or state of a task.

B rows, S columns, K distinct beginnings.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

WORTH_IT = 1 / 8
"""Share of a batch's columns that must be saved: reading the beginning is one more forward."""


@dataclass(frozen=True, kw_only=True, eq=False)
class SharedPrefix:
    """The first `length` columns of B rows, of which only K differ."""

    length: int
    rows_K: torch.Tensor
    """A row for each distinct beginning."""
    prefix_of_B: torch.Tensor
    """Which of the K beginnings is each row's."""


def shared_prefix(input_ids_BS: torch.Tensor, *, limit: int) -> SharedPrefix | None:
    """The beginning, of at most `limit` columns, whose sharing saves most; None when none saves enough.

    Rows are padded on the right, and up to `limit` there is neither an image nor padding, so that equal ids have
    equal positions.
    """
    num_rows, num_columns = input_ids_BS.shape
    if num_rows < 2 or limit < 1:
        return None
    ids_BL = input_ids_BS[:, :limit].cpu().numpy()
    order = np.lexsort(ids_BL.T[::-1])
    differs = ids_BL[order[1:]] != ids_BL[order[:-1]]
    # How far each row agrees with the one before it, in alphabetical order.
    agrees = np.where(differs.any(1), differs.argmax(1), limit)
    saved, length = max((int((agrees >= length).sum()) * length, int(length)) for length in agrees)
    if saved < WORTH_IT * num_rows * num_columns:
        return None
    is_first = np.concatenate([[True], agrees < length])
    prefix_of = np.empty(num_rows, dtype=np.int64)
    prefix_of[order] = is_first.cumsum() - 1
    device = input_ids_BS.device
    return SharedPrefix(
        length=length,
        rows_K=torch.from_numpy(order[is_first]).to(device),
        prefix_of_B=torch.from_numpy(prefix_of).to(device),
    )


def first_image_column(input_ids_BS: torch.Tensor, image_token_id: int | None) -> int:
    """The first column in which any row has an image; S when none has."""
    if image_token_id is None:
        return input_ids_BS.shape[1]
    columns = (input_ids_BS == image_token_id).any(0).nonzero()
    return int(columns[0]) if len(columns) else input_ids_BS.shape[1]

"""Where prompt and response are cut apart: the one home of the shift between a token and the logits that predict it.

B rows, S columns, M response tokens of all rows together (row by row, in order).
"""

from __future__ import annotations

import torch


def predicting_positions(response_mask_BS: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """`(rows_M, columns_M)` of the hidden states or logits that predict the masked tokens.

    The logits at column c predict the token at column c + 1, so `logits_BSV[rows_M, columns_M]` belongs to
    `response_tokens(...)`. No response can start in column 0, where nothing predicts it.
    """
    rows_M, columns_M = response_mask_BS.nonzero(as_tuple=True)
    assert columns_M.numel() == 0 or int(columns_M.min()) > 0, "a response in column 0 has no prompt"
    return rows_M, columns_M - 1


def response_tokens(input_ids_BS: torch.Tensor, response_mask_BS: torch.Tensor) -> torch.Tensor:
    """[M] ids of the masked tokens, in the order of `predicting_positions`."""
    return input_ids_BS[response_mask_BS]


def split_rows(values_M: torch.Tensor, lengths_B: torch.Tensor) -> list[torch.Tensor]:
    """The values of each row in turn; `lengths_B` are the response lengths."""
    return list(torch.split(values_M, lengths_B.tolist()))

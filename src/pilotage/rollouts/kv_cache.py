"""A key-value cache for decoding that writes in place and can drop rows.

B rows, H key-value heads, S columns, D numbers per head.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers.cache_utils import Cache, CacheLayerMixin, DynamicCache


class _GrowingLayer(CacheLayerMixin):
    """Keys and values in buffers with `room` spare columns: appending a column copies that column only."""

    is_sliding = False

    def __init__(self, room: int, whole: bool) -> None:
        super().__init__()
        self.room = room
        self.whole = whole
        self.length = 0

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        self.keys, self.values = key_states[:, :, :0], value_states[:, :, :0]
        self.is_initialized = True

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        is_first = self.length == 0
        end = self.length + key_states.shape[-2]
        assert self.keys is not None and self.values is not None
        if end > self.keys.shape[-2]:
            self.keys, self.values = self._larger(self.keys, end), self._larger(self.values, end)
        self.keys[:, :, self.length : end] = key_states
        self.values[:, :, self.length : end] = value_states
        self.length = end
        if is_first:
            return key_states, value_states
        if self.whole and key_states.shape[-2] == 1:
            return self.keys, self.values
        return self.keys[:, :, :end], self.values[:, :, :end]

    def _larger(self, buffer_BHSD: torch.Tensor, end: int) -> torch.Tensor:
        rows, heads, _, size = buffer_BHSD.shape
        # Zeros: a masked column is still multiplied, and memory as it comes may hold NaN.
        larger = buffer_BHSD.new_zeros(rows, heads, end + self.room, size)
        larger[:, :, : self.length] = buffer_BHSD[:, :, : self.length]
        return larger

    def select_rows(self, rows: torch.Tensor) -> None:
        assert self.keys is not None and self.values is not None
        self.keys = self.keys.index_select(0, rows)
        self.values = self.values.index_select(0, rows)

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.length + query_length, 0

    def get_seq_length(self) -> int:
        return self.length

    def get_max_length(self) -> int:
        return -1


class DecodingCache(Cache):
    """A cache that grows by `room` columns whenever it is full.

    With `whole`, decoding steps are given the whole buffers, spare columns too, and the caller's mask must hide
    those: batched matrix products need contiguous memory, and copy anything else at each step.
    """

    def __init__(self, num_layers: int, *, room: int = 32, whole: bool) -> None:
        super().__init__(layers=[_GrowingLayer(room, whole) for _ in range(num_layers)])
        self.room = room

    @property
    def num_columns_after_next(self) -> int:
        """Columns of what the next decoding step of one token will be given, with `whole`."""
        layer = self.layers[0]
        assert isinstance(layer, _GrowingLayer) and layer.keys is not None
        capacity = layer.keys.shape[-2]
        return capacity if layer.length < capacity else layer.length + 1 + self.room

    def select_rows(self, rows: torch.Tensor) -> None:
        """Keeps the given rows, in the given order; a row may be taken more than once."""
        for layer in self.layers:
            assert isinstance(layer, _GrowingLayer)
            layer.select_rows(rows)


class ModelCache(DynamicCache):
    """What the layers of a model keep that do not all see the whole past: windows, states."""

    room = 0
    num_columns_after_next = 0
    """Such a model makes its masks itself."""

    def select_rows(self, rows: torch.Tensor) -> None:
        """As `DecodingCache.select_rows`; layers with a state know it under another name."""
        self.reorder_cache(rows)  # pyright: ignore[reportArgumentType]

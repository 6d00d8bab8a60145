"""A preallocated KV cache: new tokens are written in place, and finished rows can be removed.

Layers of other kinds (sliding windows, linear attention) keep the cache of transformers.
"""

from typing import Any

from torch import Tensor
from transformers import DynamicCache, PreTrainedConfig
from transformers.cache_utils import DynamicLayer

BLOCK = 64
"""Tokens allocated at one time: copies are rare, and fewer than this many are allocated in vain."""


class PreallocatedLayer(DynamicLayer):  # type: ignore[misc]  # transformers has no types
    """Keys and values of a layer, [rows, heads, tokens, size] each, stored in larger buffers."""

    def __init__(self) -> None:
        super().__init__()
        self._buffers: list[Tensor] = []  # for keys and for values, [rows, heads, capacity, size] each

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """Add tokens to all rows; returns all keys and values."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
            # No buffers yet: rows are selected, which copies, before any token is added to the prompts.
            self.keys, self.values = key_states, value_states
            return self.keys, self.values
        filled = self.keys.shape[-2]
        total = filled + key_states.shape[-2]
        if not self._buffers or total > self._buffers[0].shape[-2]:
            self._buffers = [_preallocate(stored, total) for stored in (self.keys, self.values)]
        for buffer, states in zip(self._buffers, (key_states, value_states), strict=True):
            buffer[:, :, filled:total] = states
        self.keys, self.values = (buffer[:, :, :total] for buffer in self._buffers)
        return self.keys, self.values

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep only these rows, in this order; a row may be repeated."""
        if not self.is_initialized:
            return
        stored = [tensor.index_select(0, indices) for tensor in (self.keys, self.values)]
        filled = stored[0].shape[-2]
        if self._buffers and len(indices) <= len(self._buffers[0]):
            self._buffers = [buffer[: len(indices)] for buffer in self._buffers]
            for buffer, tensor in zip(self._buffers, stored, strict=True):
                buffer[:, :, :filled] = tensor
        else:
            self._buffers = [_preallocate(tensor, filled + 1) for tensor in stored]
        self.keys, self.values = (buffer[:, :, :filled] for buffer in self._buffers)


def _preallocate(stored: Tensor, tokens: int) -> Tensor:
    """A buffer for at least this many tokens that begins with the stored ones."""
    rows, heads, filled, size = stored.shape
    buffer = stored.new_empty(rows, heads, -(-tokens // BLOCK) * BLOCK, size)
    buffer[:, :, :filled] = stored
    return buffer


def kv_cache(config: PreTrainedConfig) -> DynamicCache:
    """An empty cache for a model of this configuration."""
    cache = DynamicCache(config=config)
    cache.layers = [PreallocatedLayer() if type(layer) is DynamicLayer else layer for layer in cache.layers]
    return cache


def select_rows(cache: DynamicCache, rows: Tensor) -> None:
    """Keep only these rows, int64 [n], in this order; a row may be repeated."""
    for layer in cache.layers:
        # Layers of transformers that hold other states can only reorder them.
        select = layer.batch_select_indices if isinstance(layer, PreallocatedLayer) else layer.reorder_cache
        select(rows)

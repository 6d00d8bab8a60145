"""A cache of keys and values with room ahead: a token more is written in place, and rows that are done leave it.

Layers of other kinds (sliding windows, linear attention) stay as transformers makes them.
"""

from typing import Any

from torch import Tensor
from transformers import DynamicCache, PreTrainedConfig
from transformers.cache_utils import DynamicLayer

BLOCK = 64
"""Tokens of room that are made at one time: copied rarely, and no more than this is taken in vain."""


class RoomyLayer(DynamicLayer):  # type: ignore[misc]  # transformers has no types
    """Keys and values of a layer, [rows, heads, tokens, size] each, at the beginning of larger tensors."""

    def __init__(self) -> None:
        super().__init__()
        self._rooms: list[Tensor] = []  # of the keys and of the values, [rows, heads, tokens and more, size] each

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """Add tokens to all rows; returns what is there then."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
            # The prompts are kept as they come: rows are selected before anything is added.
            self.keys, self.values = key_states, value_states
            return self.keys, self.values
        filled = self.keys.shape[-2]
        total = filled + key_states.shape[-2]
        if not self._rooms or total > self._rooms[0].shape[-2]:
            self._rooms = [_room_for(held, total) for held in (self.keys, self.values)]
        for room, states in zip(self._rooms, (key_states, value_states), strict=True):
            room[:, :, filled:total] = states
        self.keys, self.values = (room[:, :, :total] for room in self._rooms)
        return self.keys, self.values

    def batch_select_indices(self, indices: Tensor) -> None:
        """Go on with these rows, in this order; one may be there several times."""
        if not self.is_initialized:
            return
        held = [tensor.index_select(0, indices) for tensor in (self.keys, self.values)]
        filled = held[0].shape[-2]
        if self._rooms and len(indices) <= len(self._rooms[0]):
            self._rooms = [room[: len(indices)] for room in self._rooms]
            for room, tensor in zip(self._rooms, held, strict=True):
                room[:, :, :filled] = tensor
        else:
            self._rooms = [_room_for(tensor, filled + 1) for tensor in held]
        self.keys, self.values = (room[:, :, :filled] for room in self._rooms)


def _room_for(held: Tensor, tokens: int) -> Tensor:
    """A larger tensor, with what is held at its beginning."""
    rows, heads, filled, size = held.shape
    room = held.new_empty(rows, heads, -(-tokens // BLOCK) * BLOCK, size)
    room[:, :, :filled] = held
    return room


def kv_cache(config: PreTrainedConfig) -> DynamicCache:
    """An empty cache for a model of this configuration."""
    cache = DynamicCache(config=config)
    cache.layers = [RoomyLayer() if type(layer) is DynamicLayer else layer for layer in cache.layers]
    return cache


def select_rows(cache: DynamicCache, rows: Tensor) -> None:
    """Go on with these rows, int64 [n], in this order; one may be there several times."""
    for layer in cache.layers:
        # Layers of transformers with states of their own know how to reorder them, and no other selection.
        select = layer.batch_select_indices if isinstance(layer, RoomyLayer) else layer.reorder_cache
        select(rows)

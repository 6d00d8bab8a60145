"""Keys and values of the tokens that rows add to their prompts, with room ahead: one more is written in place."""

from torch import Tensor

from skyrl_train.rollout.hf.kv_cache import BLOCK


class OwnTokens:
    """Keys and values of a layer that B rows have added, at the beginning of a larger tensor."""

    def __init__(self) -> None:
        self._room: Tensor | None = None  # [2, B, K, t and more, D]
        self._filled = 0

    def add(self, heads: Tensor) -> tuple[Tensor, Tensor]:
        """Of one token more, [B, K + K, D], keys first. Returns what is there then, twice [B * K, t, D]."""
        rows, _, size = heads.shape
        states = heads.view(rows, 2, -1, size).transpose(0, 1)
        if self._room is None or self._filled == self._room.shape[3]:
            room = heads.new_empty(*states.shape[:3], self._filled + BLOCK, size)
            if self._room is not None:
                room[:, :, :, : self._filled] = self._room
            self._room = room
        self._room[:, :, :, self._filled] = states
        self._filled += 1
        keys, values = self._room.flatten(1, 2)[:, :, : self._filled]
        return keys, values

    def keep(self, rows: Tensor) -> None:
        """Go on with these rows alone, in this order."""
        if self._room is not None:
            self._room = self._room.index_select(1, rows)

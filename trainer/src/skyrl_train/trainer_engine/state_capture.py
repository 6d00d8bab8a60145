"""A checkpoint engine for DeepSpeed that copies the state into a snapshot instead of writing files."""

from pathlib import Path
from typing import Any

from deepspeed.runtime.checkpoint_engine.torch_checkpoint_engine import TorchCheckpointEngine

from skyrl_train.trainer_engine.snapshot import Memory, Snapshot


class StateCapture(TorchCheckpointEngine):  # type: ignore[misc]  # DeepSpeed is untyped
    """Replaces the ``checkpoint_engine`` of DeepSpeed's engine. Loading is unchanged."""

    def __init__(self) -> None:
        super().__init__()
        self._memory = Memory()
        self._snapshot = Snapshot(self._memory)

    def makedirs(self, path: str, exist_ok: bool = False) -> None:
        """Do nothing: the snapshot creates its folders when it is written."""

    def save(self, state_dict: Any, path: str) -> None:
        """Copy the state that DeepSpeed would write to a file."""
        self._snapshot.add(Path(path), state_dict)

    def take(self) -> Snapshot:
        """The states saved since the last call; the snapshot must be written before the next save."""
        taken, self._snapshot = self._snapshot, Snapshot(self._memory)
        self._memory.trim()
        return taken

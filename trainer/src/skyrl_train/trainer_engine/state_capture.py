"""DeepSpeed's way to the disk, of which the writing is left out: what would be written is copied into a snapshot."""

from pathlib import Path
from typing import Any

from deepspeed.runtime.checkpoint_engine.torch_checkpoint_engine import TorchCheckpointEngine

from skyrl_train.trainer_engine.snapshot import Memory, Snapshot


class StateCapture(TorchCheckpointEngine):  # type: ignore[misc]  # DeepSpeed is untyped
    """Takes the place of the engine's ``checkpoint_engine``. Loading is as it was."""

    def __init__(self) -> None:
        super().__init__()
        self._memory = Memory()
        self._snapshot = Snapshot(self._memory)

    def makedirs(self, path: str, exist_ok: bool = False) -> None:
        """Whoever writes the snapshot makes the folders."""

    def save(self, state_dict: Any, path: str) -> None:
        """Copy what DeepSpeed wants to have in a file."""
        self._snapshot.add(Path(path), state_dict)

    def take(self) -> Snapshot:
        """What was saved since the last call; it must be written before more is saved."""
        taken, self._snapshot = self._snapshot, Snapshot(self._memory)
        self._memory.trim()
        return taken

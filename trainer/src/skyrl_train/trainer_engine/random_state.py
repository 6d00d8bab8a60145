"""Seeds, saves and restores the global random number generators of a rank.

Sampling depends only on its seeds, not on these generators. A loss, an environment or a plugin may use them.
"""

import random
from pathlib import Path
from typing import Any

import numpy as np
import torch

from skyrl_core.errors import SkyrlError
from skyrl_train.trainer_engine.plain_data import plain_data_only
from skyrl_train.trainer_engine.snapshot import Snapshot

FOLDER = "random"


def seed(value: int) -> None:
    """Seed Python, NumPy and torch, on every device."""
    random.seed(value)
    np.random.seed(value % 2**32)
    torch.manual_seed(value)


def add(snapshot: Snapshot, checkpoint: Path, rank: int) -> None:
    """Add the state of this process's generators to the snapshot of a checkpoint, below ``random``."""
    snapshot.add(_file(checkpoint, rank), _state())


def restore(checkpoint: Path, rank: int) -> bool:
    """Restore this rank's generators. False if the checkpoint has no state, as in schema 1.

    Raises:
        SkyrlError: the file does not hold the states of generators.
    """
    file = _file(checkpoint, rank)
    if not file.is_file():
        return False
    try:
        with plain_data_only(file.parent):
            _set(torch.load(file, weights_only=True))
    except SkyrlError:
        raise
    except Exception as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise SkyrlError(
            f"{file} does not hold the states of random number generators: {reason}; resume from another checkpoint"
        ) from error
    return True


def _set(state: dict[str, Any]) -> None:
    random.setstate(state["python"])
    key = state["numpy"]["state"]["key"].numpy().astype(np.uint32)
    np.random.set_state(state["numpy"] | {"state": state["numpy"]["state"] | {"key": key}})
    torch.set_rng_state(state["torch"])
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])


def _state() -> dict[str, Any]:
    numpy: dict[str, Any] = dict(np.random.get_state(legacy=False))
    key = torch.from_numpy(numpy["state"]["key"].astype(np.int64))  # torch.load with weights_only reads no arrays
    state = {
        "python": random.getstate(),
        "numpy": numpy | {"state": numpy["state"] | {"key": key}},
        "torch": torch.get_rng_state(),
    }
    # An unused device has no state to save, and a query would initialise it.
    return state | ({"cuda": torch.cuda.get_rng_state()} if torch.cuda.is_initialized() else {})


def _file(checkpoint: Path, rank: int) -> Path:
    return checkpoint / FOLDER / f"rank_{rank:05d}.pt"

"""What a rank's files of a checkpoint are to hold, in main memory, as it was when it was taken."""

import io
import pickle
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from skyrl_train.tracking.atomic_file import flush_to_disk


class Memory:
    """Main memory that goes from one snapshot to the next.

    The system takes several times as long to clear new memory as the copy takes, and training waits for both.
    """

    def __init__(self) -> None:
        self._free: defaultdict[int, list[torch.UntypedStorage]] = defaultdict(list)

    def copy(self, original: torch.UntypedStorage) -> torch.UntypedStorage:
        """A copy of a tensor's memory, from any device."""
        free = self._free[original.nbytes()]
        return (free.pop() if free else torch.UntypedStorage(original.nbytes())).copy_(original)

    def give_back(self, copies: list[torch.UntypedStorage]) -> None:
        """Nobody reads them any more."""
        for copy in copies:
            self._free[copy.nbytes()].append(copy)

    def trim(self) -> None:
        """Leave what no copy has needed to the system."""
        self._free.clear()


class Snapshot:
    """Holds the states that were added until they are written."""

    def __init__(self, memory: Memory | None = None) -> None:
        """``memory`` is that of the snapshot before, which was written."""
        self._memory = memory or Memory()
        self._states: dict[Path, tuple[Any, list[torch.UntypedStorage]]] = {}

    @property
    def files(self) -> list[Path]:
        """That are not written yet."""
        return list(self._states)

    def add(self, file: Path, state: Any) -> None:
        """Copy what the file is to hold: anything that ``torch.save`` takes."""
        self._states[file] = copied(state, self._memory)

    def write(self, before_each: Callable[[], None] = lambda: None) -> None:
        """Write the files; each is on disk, and its memory given back, before the next one.

        What ``before_each`` raises ends it.

        Raises:
            OSError, RuntimeError: one cannot be written; ``torch.save`` reports a full disk as a RuntimeError.
        """
        for file in self.files:
            before_each()
            file.parent.mkdir(parents=True, exist_ok=True)
            state, copies = self._states.pop(file)
            torch.save(state, file)
            flush_to_disk(file)
            del state
            self._memory.give_back(copies)


def copied(state: Any, memory: Memory) -> tuple[Any, list[torch.UntypedStorage]]:
    """The state as ``torch.load`` would give it back, without a file between, and the memory of its tensors.

    Tensors that share memory share it in the copy, too, so that neither it nor its file grows.
    """
    pickled = io.BytesIO()
    pickler = _Pickler(pickled, memory)
    pickler.dump(state)
    pickled.seek(0)
    return _Unpickler(pickled, pickler.copies).load(), pickler.copies


class _Pickler(pickle.Pickler):
    """Copies the memory of tensors and puts a number in its place."""

    def __init__(self, file: io.BytesIO, memory: Memory) -> None:
        super().__init__(file, pickle.HIGHEST_PROTOCOL)
        self.copies: list[torch.UntypedStorage] = []
        self._memory = memory
        # With the originals, which must live as long: the next object would have the id of one that does not.
        self._numbers: dict[int, tuple[int, torch.UntypedStorage]] = {}

    def persistent_id(self, value: Any) -> tuple[int, torch.dtype] | None:
        if not isinstance(value, torch.TypedStorage):  # of which tensors are still made when they are pickled
            return None
        original = value._untyped_storage
        if id(original) not in self._numbers:
            self._numbers[id(original)] = len(self.copies), original
            self.copies.append(self._memory.copy(original))
        return self._numbers[id(original)][0], value.dtype


class _Unpickler(pickle.Unpickler):
    """Puts the copies in the place of their numbers."""

    def __init__(self, file: io.BytesIO, copies: list[torch.UntypedStorage]) -> None:
        super().__init__(file)
        self._copies = copies

    def persistent_load(self, identity: Any) -> torch.TypedStorage:
        number, dtype = identity
        # Internal: it warns all others that one day there will be untyped storages alone.
        return torch.TypedStorage(wrap_storage=self._copies[number], dtype=dtype, _internal=True)

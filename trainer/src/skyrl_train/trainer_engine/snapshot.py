"""A copy in main memory of the state that a rank writes to a checkpoint."""

import io
import pickle
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from skyrl_train.tracking.atomic_file import flush_to_disk


class Memory:
    """Main memory that each snapshot reuses from the previous one.

    Clearing new memory takes the system several times as long as the copy, and training waits for both.
    """

    def __init__(self) -> None:
        self._free: defaultdict[int, list[torch.UntypedStorage]] = defaultdict(list)

    def copy(self, original: torch.UntypedStorage) -> torch.UntypedStorage:
        """A copy of a tensor's memory, from any device."""
        free = self._free[original.nbytes()]
        return (free.pop() if free else torch.UntypedStorage(original.nbytes())).copy_(original)

    def release(self, copies: list[torch.UntypedStorage]) -> None:
        """Make the memory of these copies available again."""
        for copy in copies:
            self._free[copy.nbytes()].append(copy)

    def trim(self) -> None:
        """Return the memory that no copy needed to the system."""
        self._free.clear()


class Snapshot:
    """Holds the states that were added until they are written."""

    def __init__(self, memory: Memory | None = None) -> None:
        """``memory``: that of the previous snapshot, which must be written."""
        self._memory = memory or Memory()
        self._states: dict[Path, tuple[Any, list[torch.UntypedStorage]]] = {}

    @property
    def files(self) -> list[Path]:
        """The files that are not written yet."""
        return list(self._states)

    def add(self, file: Path, state: Any) -> None:
        """Copy the state to be written to the file: anything that ``torch.save`` accepts."""
        self._states[file] = copied(state, self._memory)

    def write(self, before_each: Callable[[], None] = lambda: None) -> None:
        """Write the files; each is flushed to disk and its memory released before the next.

        An exception of ``before_each``, which is called before each file, stops the write.

        Raises:
            OSError, RuntimeError: a file cannot be written; ``torch.save`` reports a full disk as a RuntimeError.
        """
        for file in self.files:
            before_each()
            file.parent.mkdir(parents=True, exist_ok=True)
            state, copies = self._states.pop(file)
            torch.save(state, file)
            flush_to_disk(file)
            del state
            self._memory.release(copies)


def copied(state: Any, memory: Memory) -> tuple[Any, list[torch.UntypedStorage]]:
    """The state as ``torch.load`` would return it after ``torch.save``, and the memory of its tensors.

    Tensors that share memory also share it in the copy, so neither the copy nor its file grows.
    """
    pickled = io.BytesIO()
    pickler = _Pickler(pickled, memory)
    pickler.dump(state)
    pickled.seek(0)
    return _Unpickler(pickled, pickler.copies).load(), pickler.copies


class _Pickler(pickle.Pickler):
    """Copies the memory of tensors and pickles a number instead of it."""

    def __init__(self, file: io.BytesIO, memory: Memory) -> None:
        super().__init__(file, pickle.HIGHEST_PROTOCOL)
        self.copies: list[torch.UntypedStorage] = []
        self._memory = memory
        # The originals are kept alive, because a new object could reuse the id of a freed one.
        self._numbers: dict[int, tuple[int, torch.UntypedStorage]] = {}

    def persistent_id(self, value: Any) -> tuple[int, torch.dtype] | None:
        if not isinstance(value, torch.TypedStorage):  # torch still pickles tensors as typed storages
            return None
        original = value._untyped_storage
        if id(original) not in self._numbers:
            self._numbers[id(original)] = len(self.copies), original
            self.copies.append(self._memory.copy(original))
        return self._numbers[id(original)][0], value.dtype


class _Unpickler(pickle.Unpickler):
    """Replaces the numbers by the copies."""

    def __init__(self, file: io.BytesIO, copies: list[torch.UntypedStorage]) -> None:
        super().__init__(file)
        self._copies = copies

    def persistent_load(self, identity: Any) -> torch.TypedStorage:
        number, dtype = identity
        # `_internal` suppresses the warning that typed storages are deprecated.
        return torch.TypedStorage(wrap_storage=self._copies[number], dtype=dtype, _internal=True)

"""Which of the rewards that are awaited at the same time runs: shared between a worker and the trainer.

A reward that blocks the event loop or ends the process leaves no other trace, and must not cost the others their
verdict.
"""

import mmap
import os
import struct
import tempfile
from collections.abc import Coroutine, Generator
from types import coroutine
from typing import Any, Self

_FORMAT = "q"
_NONE = -1


class RunningItem:
    """The position of an item in its message, in memory that both processes see."""

    def __init__(self, descriptor: int) -> None:
        """Map the file behind a descriptor."""
        self._memory = mmap.mmap(descriptor, struct.calcsize(_FORMAT))

    @classmethod
    def create(cls) -> tuple[Self, int]:
        """One without a running item, and the descriptor of its file for the worker to inherit."""
        descriptor, path = tempfile.mkstemp()
        os.unlink(path)
        os.ftruncate(descriptor, struct.calcsize(_FORMAT))
        item = cls(descriptor)
        item.mark(None)
        return item, descriptor

    def mark(self, position: int | None) -> None:
        """Record that the reward of the item at this position runs, or that none does."""
        struct.pack_into(_FORMAT, self._memory, 0, _NONE if position is None else position)

    @property
    def position(self) -> int | None:
        (position,) = struct.unpack_from(_FORMAT, self._memory)
        return None if position == _NONE else int(position)

    @coroutine
    def marking(self, position: int, awaited: Coroutine[Any, Any, Any]) -> Generator[Any, Any, Any]:
        """Await a coroutine and mark its item whenever it runs, not while it waits."""
        value, error = None, None
        while True:
            self.mark(position)
            try:
                request = awaited.send(value) if error is None else awaited.throw(error)
            except StopIteration as done:
                return done.value
            finally:
                self.mark(None)
            try:
                value, error = (yield request), None
            except BaseException as raised:  # noqa: BLE001 - passed on to the coroutine
                value, error = None, raised

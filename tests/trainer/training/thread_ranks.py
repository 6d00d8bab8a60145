"""Ranks that are threads of one process."""

import copy
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import torch

from skyrl_train.training.ranks import Ranks

COLLECTIVE_LIMIT = 200
"""Seconds after which a rank that waits for the others has found a collective that they do not reach."""


class Meeting:
    """Where so many threads tell each other their values."""

    def __init__(self, world_size: int) -> None:
        self.barrier, self._values = threading.Barrier(world_size), [None] * world_size

    def gather(self, rank: int, value: Any) -> list[Any]:
        self._values[rank] = copy.deepcopy(value)
        self.barrier.wait(COLLECTIVE_LIMIT)
        values = list(self._values)
        self.barrier.wait(COLLECTIVE_LIMIT)
        return values


class ThreadRanks(Ranks):
    """Ranks that are threads of this process, with the same collectives."""

    def __init__(self, rank: int, world_size: int, meeting: Meeting, aside: Meeting) -> None:
        self.rank, self.world_size, self.local_world_size = rank, world_size, world_size
        self.device = torch.device("cpu")
        self._meeting, self._aside = meeting, aside

    def gather(self, value: Any) -> list[Any]:
        return self._meeting.gather(self.rank, value)

    def gather_aside(self) -> Callable[[Any], list[Any]]:
        return partial(self._aside.gather, self.rank)

    def sum(self, values: torch.Tensor) -> torch.Tensor:
        return torch.stack(self.gather(values.detach())).sum(0)

    def max(self, values: torch.Tensor) -> torch.Tensor:
        return torch.stack(self.gather(values.detach())).amax(0)

    def broadcast(self, value: Any) -> Any:
        return self.gather(value)[0]


def run_on_ranks(world_size: int, work: Callable[[Ranks], Any]) -> list[Any]:
    """Run a function on so many ranks at once; what each of them returns. The first error is raised."""
    meetings = [Meeting(world_size) for _ in range(2)]

    def one(rank: int) -> Any:
        try:
            return work(ThreadRanks(rank, world_size, *meetings))
        except BaseException:
            for meeting in meetings:
                meeting.barrier.abort()  # like a process that ends: the others must not wait
            raise

    with ThreadPoolExecutor(world_size) as pool:
        futures = [pool.submit(one, rank) for rank in range(world_size)]
    errors = [future.exception() for future in futures if future.exception()]
    own = [error for error in errors if not isinstance(error, threading.BrokenBarrierError)]
    if errors:
        raise (own or errors)[0]
    return [future.result() for future in futures]

"""How many OpenMP threads a rank uses on a CPU, measured at start.

Two threads on a machine whose cores are busy are many times slower than one, because each waits for the other at the
end of every small operation. So the trainer times a piece of its own kind of work and takes what is fastest now.
"""

import math
import os
import statistics
import time
from collections import deque

import torch
from torch import Tensor

TRIALS, PRODUCTS = 5, 5
WORTH_IT = 0.8
"""More threads must take at most this share of one thread's time: a small gain is not worth the risk."""


STALL = 4.0
"""A step this many times slower than the median of the latest ones means that the cores have other work now."""


class ThreadGuard:
    """Goes back to one thread when the machine becomes busy during the run."""

    def __init__(self, threads: int) -> None:
        """``threads`` is what the run started with."""
        self._threads = threads
        self._seconds: deque[float] = deque(maxlen=9)

    def stepped(self, seconds: float) -> bool:
        """Note the time of a step. True if it made the rank go back to one thread."""
        stalled = len(self._seconds) >= 3 and seconds > STALL * statistics.median(self._seconds)
        self._seconds.append(seconds)
        if self._threads == 1 or not stalled:
            return False
        self._threads = 1
        torch.set_num_threads(1)
        return True


def choose_threads(ranks_on_this_machine: int) -> int:
    """The fastest of 1, 2, 4, ... threads that leaves each rank its share of the cores. Takes a tenth of a second."""
    share = max(len(os.sched_getaffinity(0)) // ranks_on_this_machine, 1) if hasattr(os, "sched_getaffinity") else 1
    if share == 1:
        return 1
    best, best_time = 1, _time_with(1, math.inf)
    threads = 2
    while threads <= share:
        limit = WORTH_IT * best_time
        elapsed = _time_with(threads, limit)
        if elapsed > limit:
            break
        best, best_time = threads, elapsed
        threads *= 2
    return best


def _time_with(threads: int, limit: float) -> float:
    """Seconds of the slowest of several trials, or of the first that is above the limit: a busy core shows in some."""
    torch.set_num_threads(threads)
    tokens, weight = torch.randn(2048, 128), torch.randn(128, 384)
    _time_once(tokens, weight)  # the first also pays for setting up, and for starting the threads
    slowest = 0.0
    for _ in range(TRIALS):
        slowest = max(slowest, _time_once(tokens, weight))
        # Where the cores are busy each trial takes long, and one of them tells as much as all.
        if slowest > limit:
            break
    return slowest


def _time_once(tokens: Tensor, weight: Tensor) -> float:
    started = time.perf_counter()
    for _ in range(PRODUCTS):
        torch.nn.functional.silu(tokens @ weight).sum(-1)
    return time.perf_counter() - started

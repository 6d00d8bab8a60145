"""Chooses the number of OpenMP threads of a rank on a CPU, by a measurement at start.

On busy cores two threads are many times slower than one, because each waits for the other at the end of every small
operation. So the trainer times a typical piece of its work and uses the number that is fastest now.
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
"""More threads must take at most this share of the time of fewer: a small gain is not worth the risk."""

STALL = 4.0
"""A step this many times slower than the median of the latest steps means that the cores are busy."""


class ThreadGuard:
    """Falls back to one thread if the machine becomes busy during the run."""

    def __init__(self, threads: int) -> None:
        """``threads``: the number of threads that the run started with."""
        self._threads = threads
        self._seconds: deque[float] = deque(maxlen=9)

    def record_step(self, seconds: float) -> bool:
        """Record the time of a step. True if the rank fell back to one thread because of it."""
        stalled = len(self._seconds) >= 3 and seconds > STALL * statistics.median(self._seconds)
        self._seconds.append(seconds)
        if self._threads == 1 or not stalled:
            return False
        self._threads = 1
        torch.set_num_threads(1)
        return True


def choose_threads(ranks_on_this_machine: int) -> int:
    """The fastest of 1, 2, 4, ... threads within this rank's share of the cores. Takes 0.1 s."""
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
    """Seconds of the slowest trial, because a busy core slows only some, or of the first above the limit."""
    torch.set_num_threads(threads)
    tokens, weight = torch.randn(2048, 128), torch.randn(128, 384)
    _time_once(tokens, weight)  # not counted: it includes setup and the start of the threads
    slowest = 0.0
    for _ in range(TRIALS):
        slowest = max(slowest, _time_once(tokens, weight))
        if slowest > limit:  # on busy cores every trial is slow, and one is enough
            break
    return slowest


def _time_once(tokens: Tensor, weight: Tensor) -> float:
    started = time.perf_counter()
    for _ in range(PRODUCTS):
        torch.nn.functional.silu(tokens @ weight).sum(-1)
    return time.perf_counter() - started

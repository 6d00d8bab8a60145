"""The speed of a run and its remaining time."""

import time
from collections import deque

from skyrl_train.tracking.metric_glossary import format_duration

WINDOW = 20  # steps; response lengths change, so older steps predict little


class Pace:
    """Estimates the remaining time from the latest steps and the latest evaluation.

    Loading and the first evaluation come before the first step, so they are not part of any step. The first step is
    slower than the others (caches are filled, kernels compiled) and counts only until there is a second.
    """

    def __init__(self, step: int, total_steps: int, *, evaluates: bool = False, evaluate_every: int = 0) -> None:
        self._total = total_steps
        self._step = self._first = self._evaluated = step
        self._evaluates, self._every = evaluates, evaluate_every
        self._started = self._latest = time.monotonic()
        self._steps: deque[float] = deque(maxlen=WINDOW)
        self._evaluation: tuple[int, float] = (-1, 0.0)  # the step of the latest evaluation, and its seconds

    def ready(self) -> None:
        """Record that something has been loaded; what follows is not part of the time before."""
        if self._step == self._first:
            self._latest = time.monotonic()

    def reached(self, step: int) -> None:
        """Record that this step has just ended."""
        seconds = self._lap()
        if self._step == self._first + 1:
            self._steps.clear()
        self._steps.append(seconds)
        self._step = step

    def evaluated(self, step: int) -> None:
        """Record that an evaluation after this step has just ended, or one of several."""
        known = self._evaluation[1] if self._evaluation[0] == step else 0.0
        self._evaluation = (step, known + self._lap())
        self._evaluated = max(step, self._evaluated)

    def elapsed(self) -> float:
        """Seconds since this object was created."""
        return time.monotonic() - self._started

    def remaining(self) -> str:
        """``0:58 left``; empty before the first step and at the end; ``about`` after the first step."""
        evaluations = self._evaluations_left()
        if not self._steps or (self._step >= self._total and not evaluations):
            return ""
        seconds = (self._total - self._step) * sum(self._steps) / len(self._steps) + evaluations * self._evaluation[1]
        left = f"{format_duration(max(seconds - (time.monotonic() - self._latest), 0))} left"
        return left if len(self._steps) > 1 or self._step > self._first + 1 else f"about {left}"

    def _lap(self) -> float:
        before, self._latest = self._latest, time.monotonic()
        return self._latest - before

    def _evaluations_left(self) -> int:
        if not self._evaluates or self._evaluated >= self._total:
            return 0
        if not self._every:
            return 1
        between = (self._total - 1) // self._every - self._evaluated // self._every
        return between + 1  # the last step is always evaluated

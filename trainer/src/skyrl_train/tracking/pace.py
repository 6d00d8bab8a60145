"""The speed of a run and its remaining time."""

import time
from collections import deque

from skyrl_train.tracking.metric_glossary import format_duration

WINDOW = 20  # steps; the first ones are slow and response lengths change, so older ones predict little


class Pace:
    """Estimates the remaining time from the duration of the last steps."""

    def __init__(self, step: int, total_steps: int) -> None:
        self._total = total_steps
        self._started = time.monotonic()
        self._reached = deque([(step, self._started)], maxlen=WINDOW + 1)

    def reached(self, step: int) -> None:
        """Record that this step has just ended."""
        self._reached.append((step, time.monotonic()))

    def elapsed(self) -> float:
        """Seconds since this object was created."""
        return time.monotonic() - self._started

    def remaining(self) -> str:
        """``0:58 left``; empty before the first step and after the last."""
        (first, then), (step, now) = self._reached[0], self._reached[-1]
        if step <= first or step >= self._total:
            return ""
        return f"{format_duration((now - then) / (step - first) * (self._total - step))} left"

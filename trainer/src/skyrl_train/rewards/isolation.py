"""Puts everything that a reward can change back before the next one."""

import contextvars
import random
import sys
import warnings
from collections.abc import Callable, Iterable
from typing import TypeVar

from skyrl_train.environments.environment import Environment
from skyrl_train.rewards.plain_state import PlainState
from skyrl_train.rewards.worker_state import WorkerState

Result = TypeVar("Result")


class Isolation:
    """The state that each reward of a worker finds: that of the worker after it loaded its environments."""

    def __init__(self, environments: Iterable[Environment]) -> None:
        """Record the state now."""
        self._process = WorkerState()
        self._plain = PlainState(environments)

    def restore(self) -> None:
        """Put the state back."""
        self._process.restore()
        self._plain.restore()


def seed_generators(seed: int) -> None:
    """Seed the generators of Python and, if it is imported, NumPy."""
    random.seed(seed)
    numpy = sys.modules.get("numpy")
    if numpy is not None:
        numpy.random.seed(seed % 2**32)


def isolated(function: Callable[[], Result]) -> Result:
    """The result of a function, which has its own context variables (``decimal``'s precision) and warning filters."""
    with warnings.catch_warnings():
        return contextvars.copy_context().run(function)

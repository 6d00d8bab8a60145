"""An environment whose reward waits without using the CPU, like a sandbox or a judge."""

import time

from skyrl_train.environments.environment import Completion, Environment, Row


class SlowReward(Environment):
    """1.0 after ``seconds``."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds

    def reward(self, completion: Completion, row: Row) -> float:  # noqa: ARG002 - the same for all samples
        """Wait."""
        time.sleep(self._seconds)
        return 1.0

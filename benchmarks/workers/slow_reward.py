"""An environment whose reward takes its time, as a sandbox or a judge does, and no CPU."""

import time

from skyrl_train.environments.environment import Completion, Environment, Row


class SlowReward(Environment):
    """1.0 after ``seconds``."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds

    def reward(self, completion: Completion, row: Row) -> float:  # noqa: ARG002 - the same for all
        """Wait."""
        time.sleep(self._seconds)
        return 1.0

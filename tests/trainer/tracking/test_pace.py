"""The estimate of the remaining time."""

import pytest

from skyrl_train.tracking import pace
from skyrl_train.tracking.pace import Pace


@pytest.fixture
def clock(monkeypatch):
    class Clock:
        now = 100.0

        def monotonic(self):
            return self.now

    clock = Clock()
    monkeypatch.setattr(pace, "time", clock)
    return clock


def test_the_remaining_time_follows_the_last_steps(clock):
    run = Pace(0, 100)
    assert run.remaining() == ""
    clock.now += 60  # a slow first step
    run.reached(1)
    assert run.remaining() == "1:39:00 left"
    for step in range(2, 41):
        clock.now += 2
        run.reached(step)
    assert run.remaining() == "2:00 left"  # 60 steps of 2 s: the first one is forgotten
    assert run.elapsed() == 60 + 39 * 2


def test_a_resumed_run_counts_only_its_new_steps(clock):
    run = Pace(90, 100)
    clock.now += 3
    run.reached(91)
    assert run.remaining() == "0:27 left"


def test_no_time_remains_at_the_end(clock):
    run = Pace(0, 1)
    clock.now += 3
    run.reached(1)
    assert run.remaining() == ""

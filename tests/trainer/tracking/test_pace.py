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


def seconds_of(text):
    hours_minutes_seconds = text.removeprefix("about ").removesuffix(" left").split(":")
    return sum(int(part) * 60**place for place, part in enumerate(reversed(hours_minutes_seconds)))


@pytest.mark.parametrize(("total", "every"), [(3, 0), (50, 0), (50, 10), (500, 50), (500, 33)])
def test_the_time_left_is_right_from_the_second_step_on(clock, total, every):
    """Loading takes 60 s, an evaluation 15 s, the first step 12 s, any other 2 s."""
    due = [step for step in range(1, total + 1) if step == total or (every and step % every == 0)]
    end = clock.now + 60 + 15 + 12 + 2 * (total - 1) + 15 * len(due)
    run = Pace(0, total, evaluates=True, evaluate_every=every)
    clock.now += 60
    run.ready()
    clock.now += 15
    run.evaluated(0)
    assert run.remaining() == ""
    for step in range(1, total + 1):
        clock.now += 12 if step == 1 else 2
        run.reached(step)
        if step == 1:
            assert run.remaining().startswith("about ")
        else:
            assert seconds_of(run.remaining()) == end - clock.now
        if step in due:
            clock.now += 15
            run.evaluated(step)
            if 1 < step < total:
                assert seconds_of(run.remaining()) == end - clock.now
    assert clock.now == end
    assert run.remaining() == ""
    assert run.elapsed() == end - 100


def test_the_time_left_counts_down_during_a_step(clock):
    run = Pace(0, 10)
    for step in (1, 2):
        clock.now += 60
        run.reached(step)
    assert run.remaining() == "8:00 left"
    clock.now += 45
    assert run.remaining() == "7:15 left"
    clock.now += 1000
    assert run.remaining() == "0:00 left"


def test_the_time_left_follows_the_latest_steps(clock):
    run = Pace(0, 100)
    for step in range(1, 41):
        clock.now += 9 if step < 20 else 2
        run.reached(step)
    assert run.remaining() == "2:00 left"  # 60 steps of 2 s


def test_several_evaluations_after_one_step_are_one(clock):
    run = Pace(0, 4, evaluates=True, evaluate_every=2)
    run.ready()
    for _ in range(2):  # two sets of prompts
        clock.now += 5
        run.evaluated(0)
    for step in (1, 2):
        clock.now += 1
        run.reached(step)
    assert run.remaining() == "0:22 left"  # two steps, and two evaluations of 10 s


def test_a_resumed_run_counts_only_its_new_steps_and_evaluations(clock):
    run = Pace(90, 100, evaluates=True, evaluate_every=5)
    clock.now += 30
    run.ready()
    clock.now += 3
    run.reached(91)
    assert run.remaining() == "about 0:27 left"  # no evaluation has been measured
    clock.now += 3
    run.reached(92)
    assert run.remaining() == "0:24 left"


def test_no_time_remains_at_the_end(clock):
    run = Pace(0, 1)
    clock.now += 3
    run.reached(1)
    assert run.remaining() == ""

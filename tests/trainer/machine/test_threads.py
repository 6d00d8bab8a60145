"""The choice of OpenMP threads: within the share of a rank, and only if they bring a gain."""

import math

import pytest
import torch

from skyrl_train.machine import threads


@pytest.fixture
def machine(monkeypatch):
    """A machine of so many cores where n threads take the given milliseconds; the thread counts that were tried."""

    def build(cores, times):
        tried = []
        monkeypatch.setattr(threads.os, "sched_getaffinity", lambda _: set(range(cores)), raising=False)

        def time_with(count, _):
            tried.append(count)
            return times[count]

        monkeypatch.setattr(threads, "_time_with", time_with)
        return tried

    return build


IDEAL = {1: 64.0, 2: 32.0, 4: 16.0, 8: 8.0, 16: 4.0}


@pytest.mark.parametrize(
    ("cores", "ranks", "chosen"), [(1, 1, 1), (2, 1, 2), (8, 1, 8), (8, 2, 4), (6, 1, 4), (2, 4, 1)]
)
def test_an_idle_machine_gives_each_rank_its_share(machine, cores, ranks, chosen):
    tried = machine(cores, IDEAL)
    assert threads.choose_threads(ranks) == chosen
    assert max(tried, default=1) <= max(cores // ranks, 1)


def test_a_single_core_is_not_measured(machine):
    tried = machine(4, IDEAL)
    assert threads.choose_threads(4) == 1
    assert tried == []


def test_a_busy_machine_gets_one_thread(machine):
    machine(2, {1: 10.0, 2: 100.0})
    assert threads.choose_threads(1) == 1


def test_a_small_gain_is_not_worth_the_risk(machine):
    tried = machine(8, {1: 10.0, 2: 9.0, 4: 1.0, 8: 1.0})
    assert threads.choose_threads(1) == 1
    assert 4 not in tried


def test_the_search_stops_where_more_threads_bring_no_gain(machine):
    machine(16, {1: 10.0, 2: 5.0, 4: 3.0, 8: 2.9, 16: 0.1})
    assert threads.choose_threads(1) == 4


@pytest.fixture
def trials(monkeypatch):
    """Each trial takes the next of these times; unused times remain."""
    before = torch.get_num_threads()
    waiting = []
    monkeypatch.setattr(threads, "_time_once", lambda *_: waiting.pop(0))
    yield waiting
    torch.set_num_threads(before)


def test_the_slowest_trial_counts_without_the_warm_up(trials):
    # The first product with some number of threads starts them: compared with it, fewer would look fast.
    trials += [9.0, 1.0, 1.0, 3.0, 1.0, 1.0]
    assert threads._time_with(1, math.inf) == 3.0
    assert trials == []


def test_the_first_trial_above_the_limit_is_the_last(trials):
    trials += [9.0, 1.0, 2.5, 1.0, 4.0, 1.0]
    assert threads._time_with(1, 2.0) == 2.5
    assert trials == [1.0, 4.0, 1.0]


def test_the_measurement_is_real(monkeypatch):
    before = torch.get_num_threads()
    monkeypatch.setattr(threads.os, "sched_getaffinity", lambda _: {0, 1}, raising=False)
    try:
        assert threads.choose_threads(1) in (1, 2)
        assert threads._time_with(1, math.inf) > 0
    finally:
        torch.set_num_threads(before)

"""Processes that take turns."""

import sys

import pytest


@pytest.fixture
def processes(script):
    return script("processes")


def test_measures_take_turns_and_the_first_round_is_thrown_away(processes):
    order = []

    def measure(name):
        order.append(name)
        return float(len(order))

    found = processes.take_turns({"a": lambda: measure("a"), "b": lambda: measure("b")}, rounds=2)
    assert order == ["a", "b"] * 3
    assert found == {"a": [3.0, 5.0], "b": [4.0, 6.0]}


def test_a_process_is_timed_to_its_end(processes):
    assert processes.to_the_end([sys.executable, "-c", "import time; time.sleep(0.2)"]) >= 0.2


def test_a_process_that_fails_has_no_time(processes):
    failing = [sys.executable, "-c", "raise SystemExit('no such thing')"]
    with pytest.raises(SystemExit, match=r"exit code 1\nno such thing"):
        processes.to_the_end(failing)
    assert processes.to_the_end(failing, exit_code=1) > 0


def test_a_folder_comes_before_what_was_on_the_path(processes, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", "/there")
    assert processes.environment("/first")["PYTHONPATH"] == "/first:/there"
    own = processes.environment("", NAME="value")
    assert (own["PYTHONPATH"], own["NAME"]) == ("/there", "value")


def test_the_table_has_medians_and_ratios(processes):
    last = processes.table({"a": [3.0, 1.0, 2.0], "b": [4.0]}, {"b": 2.0}).splitlines()[2:]
    assert last == ["| a | 2.000 s | 1.000 to 3.000 s |  |", "| b | 4.000 s | 4.000 to 4.000 s | 2.00 |"]

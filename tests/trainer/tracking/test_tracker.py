"""Forwarding to several trackers."""

import logging
from pathlib import Path

import pytest

from skyrl_core.errors import SkyrlError
from skyrl_train.tracking.tracker import RunInfo, RunSummary, Trackers

INFO = RunInfo(run_folder=Path("runs/x"), title="t", loss="l", total_steps=2, config={})
SUMMARY = RunSummary(run_folder=Path("runs/x"), steps=2, seconds=1.0)


class Recorder:
    def __init__(self, failing="", error=None):
        self.calls, self.failing, self.error = [], failing, error or RuntimeError("no network")

    def _note(self, name, *arguments):
        self.calls.append((name, *arguments))
        if name == self.failing:
            raise self.error

    def start(self, info):
        self._note("start", info)

    def log_step(self, step, metrics):
        self._note("log_step", step, metrics)

    def log_evaluation(self, step, metrics, final):
        self._note("log_evaluation", step, metrics, final)

    def message(self, text):
        self._note("message", text)

    def finish(self, summary):
        self._note("finish", summary)

    def close(self):
        self._note("close")


def drive(trackers):
    trackers.start(INFO)
    trackers.log_evaluation(0, {"accuracy": 0.5}, False)
    trackers.log_step(1, {"a": 1.0})
    trackers.log_step(2, {"a": 2.0})
    trackers.message("hello")
    trackers.finish(SUMMARY)
    trackers.close()


CALLS = [
    ("start", INFO),
    ("log_evaluation", 0, {"accuracy": 0.5}, False),
    ("log_step", 1, {"a": 1.0}),
    ("log_step", 2, {"a": 2.0}),
    ("message", "hello"),
    ("finish", SUMMARY),
    ("close",),
]


def test_every_tracker_receives_every_call():
    first, second = Recorder(), Recorder()
    drive(Trackers([first, second]))
    assert first.calls == second.calls == CALLS


def test_a_failing_tracker_is_reported_once_and_disabled(caplog):
    broken, other = Recorder(failing="log_step"), Recorder()
    with caplog.at_level(logging.WARNING):
        drive(Trackers([broken, other]))
    assert other.calls == CALLS
    assert [call[0] for call in broken.calls] == ["start", "log_evaluation", "log_step", "close"]
    assert len(caplog.messages) == 1
    assert "Recorder failed in log_step and is disabled; training continues: RuntimeError: no network" in caplog.text


def test_a_skyrl_error_ends_the_run():
    with pytest.raises(SkyrlError, match="disk is full"):
        drive(Trackers([Recorder(failing="log_step", error=SkyrlError("disk is full"))]))


def test_an_interruption_is_not_swallowed():
    with pytest.raises(KeyboardInterrupt):
        drive(Trackers([Recorder(failing="log_step", error=KeyboardInterrupt())]))


def test_every_tracker_is_closed_once(caplog):
    broken, other = Recorder(failing="close"), Recorder()
    trackers = Trackers([broken, other])
    trackers.close()
    trackers.close()
    assert broken.calls == other.calls == [("close",)]
    assert "could not be closed: RuntimeError: no network" in caplog.text

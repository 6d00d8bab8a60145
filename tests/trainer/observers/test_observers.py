"""Observers are notified of events, and their failures are contained."""

import logging
from pathlib import Path

import pluggy
import pytest

from skyrl_train.observers.load_observers import make_observer
from skyrl_train.observers.observers import ObserverError, Observers

hookimpl = pluggy.HookimplMarker("skyrl")


class Everything:
    """Records every event; raises ``failure`` in the event ``failing``."""

    def __init__(self, failing="", failure=None):
        self.calls, self.failing, self.failure = [], failing, failure or RuntimeError("no network")

    def _note(self, hook, *arguments):
        self.calls.append((hook, *arguments))
        if hook == self.failing:
            raise self.failure

    @hookimpl
    def train_start(self, run):
        self._note("train_start", dict(run))

    @hookimpl
    def step_end(self, step, metrics):
        self._note("step_end", step, dict(metrics))

    @hookimpl
    def checkpoint_saved(self, path):
        self._note("checkpoint_saved", path)

    @hookimpl
    def checkpoint_loading(self, path):
        self._note("checkpoint_loading", path)

    @hookimpl
    def train_end(self, outcome):
        self._note("train_end", outcome)

    @hookimpl
    def error(self, message):
        self._note("error", message)


CALLS = [
    ("checkpoint_loading", Path("a")),
    ("train_start", {"seed": 1}),
    ("step_end", 1, {"reward/mean": 0.5}),
    ("step_end", 2, {"reward/mean": 0.6}),
    ("checkpoint_saved", Path("b")),
    ("error", "out of memory"),
    ("train_end", "failed"),
]


def drive(*plugins):
    observers = Observers([make_observer(f"observer_{index}", plugin) for index, plugin in enumerate(plugins)])
    for hook, *arguments in CALLS:
        getattr(observers, hook)(*arguments)


def test_every_observer_receives_every_event_in_order():
    first, second = Everything(), Everything()
    drive(first, second)
    assert first.calls == second.calls == CALLS


def test_a_hook_may_declare_fewer_arguments():
    class Short:
        steps = []

        @hookimpl
        def step_end(self, step):
            self.steps.append(step)

        @hookimpl
        def train_end(self):
            self.steps.append("end")

    drive(Short())
    assert Short.steps == [1, 2, "end"]


@pytest.mark.parametrize("failure", [RuntimeError("no network"), SystemExit(3)])
def test_a_failing_observer_is_logged_once_and_disabled(caplog, failure):
    broken, other = Everything("step_end", failure), Everything()
    with caplog.at_level(logging.WARNING):
        drive(broken, other)
    assert [call[0] for call in broken.calls] == ["checkpoint_loading", "train_start", "step_end"]
    assert other.calls == CALLS
    assert len(caplog.messages) == 1
    assert "observer 'observer_0' failed in step_end and is disabled; training continues" in caplog.text


@pytest.mark.parametrize("hook", ["train_start", "checkpoint_loading"])
def test_an_observer_can_refuse_a_run_before_it_starts(hook):
    with pytest.raises(
        ObserverError, match=f"'observer_0' refused the run in {hook}: RuntimeError: no network"
    ) as caught:
        drive(Everything(hook))
    assert caught.value.exit_code == 5


def test_an_interruption_is_not_swallowed():
    with pytest.raises(KeyboardInterrupt):
        drive(Everything("step_end", KeyboardInterrupt()))


def test_an_observer_cannot_change_the_data_of_others():
    class Meddler:
        @hookimpl
        def step_end(self, metrics):
            metrics["reward/mean"] = 9.0

    other = Everything()
    drive(Meddler(), other)
    assert ("step_end", 1, {"reward/mean": 0.5}) in other.calls

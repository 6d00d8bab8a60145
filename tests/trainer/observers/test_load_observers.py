"""Loading observers by name."""

import sys

import pytest

from skyrl_core.discovery.plugin_group import ALLOW_ALL, OBSERVERS, PluginPolicy
from skyrl_core.errors import PluginConflictError, PluginLoadError, UnknownPluginError
from skyrl_train.config.plugin_check import OBSERVER_GROUP
from skyrl_train.observers.load_observers import load_observers

MODULE = """
import pluggy
hookimpl = pluggy.HookimplMarker("skyrl")

class Recorder:
    calls = []
    @hookimpl
    def step_end(self, step):
        self.calls.append(step)

class UnknownHook:
    @hookimpl
    def step_ended(self, step): ...

class WrongArgument:
    @hookimpl
    def step_end(self, stepp): ...

class Unmarked:
    @hookimpl
    def train_end(self, outcome): ...
    def step_end(self, step): ...

class Empty: ...

class Demanding:
    def __init__(self, url): ...

class Exiting:
    def __init__(self): raise SystemExit(3)

instance = Recorder()
"""
NAMES = {
    "recorder": "Recorder",
    "unknown_hook": "UnknownHook",
    "wrong_argument": "WrongArgument",
    "unmarked": "Unmarked",
    "empty": "Empty",
    "demanding": "Demanding",
    "exiting": "Exiting",
    "instance": "instance",
}


def load(*names, policy=ALLOW_ALL):
    return load_observers(OBSERVER_GROUP.find(name, policy) for name in names)


@pytest.fixture
def installed(distributions):
    groups = {OBSERVERS: {name: f"acme_observers:{attribute}" for name, attribute in NAMES.items()}}
    distributions.add("acme-observers", groups, modules={"acme_observers.py": MODULE})
    distributions.add(
        "acme-exit", {OBSERVERS: {"leaving": "acme_exit:Watch"}}, modules={"acme_exit.py": "import sys; sys.exit(9)"}
    )


@pytest.mark.usefixtures("installed")
def test_only_named_observers_are_imported():
    load().step_end(1, {})
    assert "acme_observers" not in sys.modules
    load("recorder").step_end(2, {})
    assert sys.modules["acme_observers"].Recorder.calls == [2]
    assert "acme_exit" not in sys.modules


@pytest.mark.usefixtures("installed")
def test_an_entry_point_may_be_an_instance_and_a_repeated_name_counts_once():
    load("instance", "instance").step_end(5, {})
    assert sys.modules["acme_observers"].Recorder.calls == [5]


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize(
    ("name", "complaint"),
    [
        ("unknown_hook", r"unknown hook 'step_ended'[\s\S]*step_end\(step, metrics\)"),
        ("wrong_argument", r"stepp[\s\S]*step_end\(step, metrics\)"),
        ("unmarked", r"step_end would never be called; decorate each hook with pluggy\.HookimplMarker"),
        ("empty", r"has no hooks; define at least one of train_start\(run\)"),
        ("demanding", "could not be created without arguments: TypeError"),
        ("exiting", "could not be created without arguments: SystemExit: 3"),
        ("leaving", r"could not be imported from acme_exit:Watch: SystemExit: 9"),
    ],
)
def test_an_invalid_observer_is_refused_before_training(name, complaint):
    with pytest.raises(PluginLoadError, match=complaint):
        load(name)


@pytest.mark.usefixtures("installed")
def test_an_unknown_name_is_an_error_that_suggests_the_nearest():
    with pytest.raises(UnknownPluginError, match="did you mean 'recorder'"):
        load("recoder")


@pytest.mark.usefixtures("installed")
def test_a_denied_observer_is_refused_without_importing_it():
    with pytest.raises(PluginConflictError, match=r"plugins\.deny"):
        load("recorder", policy=PluginPolicy(deny=["acme-observers"]))
    assert "acme_observers" not in sys.modules

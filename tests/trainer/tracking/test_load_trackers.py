"""Loading trackers by name."""

import subprocess
import sys

import pytest

from skyrl_core.discovery.plugin_group import ALLOW_ALL, TRACKERS, PluginPolicy
from skyrl_core.errors import PluginConflictError, PluginLoadError, UnknownPluginError
from skyrl_train.config.plugin_check import TRACKER_GROUP
from skyrl_train.tracking.load_trackers import load_trackers
from skyrl_train.tracking.tracker import RunInfo, TrackerError

COUNTING = """
class Counting:
    calls = []
    def start(self, info): self.calls.append(info.config["note"])
    def log_step(self, step, metrics): self.calls.append(step)
    def log_evaluation(self, step, metrics, final): ...
    def message(self, text): ...
    def finish(self, summary): ...
    def close(self): self.calls.append("close")

class Half:
    def start(self, info): ...

class Demanding:
    def __init__(self, url): ...

value = 3
"""


def load(*names, policy=ALLOW_ALL):
    return load_trackers(TRACKER_GROUP.find(name, policy) for name in names)


@pytest.fixture
def installed(distributions):
    names = {"counting": "Counting", "half": "Half", "demanding": "Demanding", "number": "value"}
    groups = {TRACKERS: {name: f"acme_trackers:{attribute}" for name, attribute in names.items()}}
    distributions.add("acme-trackers", groups, modules={"acme_trackers.py": COUNTING})


@pytest.mark.usefixtures("installed")
def test_an_installed_tracker_receives_the_run_once_and_jsonl_is_no_tracker(tmp_path):
    trackers = load("counting", "jsonl", "counting")
    config = {"note": "hello"}
    trackers.start(RunInfo(run_folder=tmp_path, title="t", loss="l", total_steps=1, config=config))
    trackers.log_step(1, {"a": 1.0})
    trackers.close()
    assert sys.modules["acme_trackers"].Counting.calls == ["hello", 1, "close"]


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize(
    ("name", "complaint"),
    [
        ("half", "lacks methods: log_step, log_evaluation, message, finish, close"),
        ("demanding", r"could not be created without arguments: TypeError(?s:.*)info\.config"),
        ("number", "is not a class but int: point its entry point to a class"),
    ],
)
def test_an_invalid_tracker_is_refused(name, complaint):
    with pytest.raises(PluginLoadError, match=complaint):
        load(name)


def test_an_unknown_name_is_an_error_that_suggests_the_nearest():
    with pytest.raises(UnknownPluginError, match="did you mean 'console'"):
        load("consol")


def test_a_denied_tracker_is_refused():
    with pytest.raises(PluginConflictError, match=r"plugins\.deny"):
        load("console", policy=PluginPolicy(deny=["skyrl-train"]))


def test_trackers_and_observers_need_no_torch():
    program = (
        "import sys; sys.modules['torch'] = None\n"
        "import skyrl_train.observers.load_observers, skyrl_train.commands.report, skyrl_train.tracking.rollout_files\n"
        "from skyrl_train.config.plugin_check import TRACKER_GROUP\n"
        "from skyrl_train.tracking.load_trackers import load_trackers\n"
        "load_trackers(map(TRACKER_GROUP.find, ['console', 'wandb']))\n"
        "print([name for name in ('torch', 'wandb') if sys.modules.get(name)])"
    )
    answer = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "['wandb']"


@pytest.mark.parametrize("name", ["tensorboard", "trackio"])
def test_a_missing_extra_is_an_error_with_the_command_that_installs_it(monkeypatch, name):
    monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setattr("skyrl_train.tracking.tracker_extra.find_spec", lambda package: None)
    with pytest.raises(TrackerError, match=rf"-m pip install 'skyrl-train\[{name}\]'`, or remove '{name}' from"):
        load(name)

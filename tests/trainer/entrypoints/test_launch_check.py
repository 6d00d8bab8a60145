"""Plugins that exist only in the calling process are refused before several processes are launched."""

import json
import sys
from pathlib import Path

import pytest

from skyrl_core import register_policy_loss
from skyrl_core.registry import LOSSES
from skyrl_train import Environment, register_environment
from skyrl_train.config.plugin_check import ENVIRONMENT_GROUP
from skyrl_train.entrypoints.main_base import main
from skyrl_train.ranks import exit_message
from skyrl_train.ranks import launch as launching


class Always(Environment):
    def reward(self, completion, row):
        return 1.0

    def rows(self, split, *, seed):
        return iter(())


@pytest.fixture(autouse=True)
def _in_a_notebook(monkeypatch):
    monkeypatch.setattr(LOSSES, "_registered", {})
    monkeypatch.setattr(ENVIRONMENT_GROUP, "_registered", {})
    monkeypatch.setattr(sys, "argv", ["ipykernel_launcher.py"])
    monkeypatch.delattr(sys.modules["__main__"], "__file__", raising=False)
    monkeypatch.setattr(launching, "_run", _finished)
    launched.clear()


def _finished(command, environment):
    """Instead of the processes: rank 0 says that the run has finished."""
    launched.append(command)
    Path(environment[exit_message.FILE]).write_text(json.dumps({"exit_code": 0, "text": ""}))
    return 0


launched = []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--loss", "in_a_cell"], "policy loss 'in_a_cell' exists only in this process"),
        (["environment.name=always"], "environment 'always' exists only in this process"),
    ],
)
def test_a_plugin_of_this_process_is_refused_with_what_to_do(arguments, message, capsys):
    register_policy_loss("in_a_cell", lambda log_probs, *_, **__: log_probs.sum())
    register_environment("always", Always)
    with pytest.raises(SystemExit) as stop:
        main(["--num-processes", "2", *arguments])
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert message in error
    assert "`python SCRIPT.py --num-processes 2`; or install it as a package" in error
    assert not launched


def test_an_installed_plugin_is_launched_through_the_module_and_not_through_the_kernel():
    main(["--num-processes", "2", "--loss", "gspo"])
    [command] = launched
    assert command[-4:] == ["-m", "skyrl_train.entrypoints.main_base", "--loss", "gspo"]


def test_a_script_registers_its_loss_in_every_process(monkeypatch):
    monkeypatch.setattr(sys.modules["__main__"], "__file__", "script.py", raising=False)
    monkeypatch.setattr(sys, "argv", ["script.py"])
    register_policy_loss("in_a_cell", lambda log_probs, *_, **__: log_probs.sum())
    main(["--num-processes", "2", "--loss", "in_a_cell"])
    [command] = launched
    assert command[-3:] == ["script.py", "--loss", "in_a_cell"]

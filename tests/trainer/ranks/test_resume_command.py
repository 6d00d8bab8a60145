"""The command that resumes a run, for every way to start one. test_stopping.py runs real ones."""

import sys
from types import ModuleType, SimpleNamespace

import pytest

from skyrl_train.ranks.resume_command import resume_command
from skyrl_train.tracking.run_folder import RunFolder


@pytest.fixture
def command(monkeypatch):
    """The command for a run in `runs/a b` whose main module has this file or spec."""

    def make(file="/bin/skyrl", spec=None, ranks=1, local=1, **environment):
        main = ModuleType("__main__")
        main.__spec__ = SimpleNamespace(name=spec) if spec else None
        if file is not None:
            main.__file__ = file
        monkeypatch.setitem(sys.modules, "__main__", main)
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        return resume_command(RunFolder("runs/a b"), SimpleNamespace(world_size=ranks, local_world_size=local))

    return make


OPTIONS = "--config 'runs/a b/config.yaml' --resume 'runs/a b'"
MODULE = "skyrl_train.entrypoints.main_base"


def test_one_process_is_restarted_by_the_same_command(command):
    assert command() == f"skyrl train {OPTIONS}"
    assert command(file="my train.py") == f"python 'my train.py' {OPTIONS}"
    assert command(file="/x/main_base.py", spec=MODULE) == f"skyrl train {OPTIONS}"
    assert command(file="/x/train.py", spec="mine.train") == f"python -m mine.train {OPTIONS}"
    assert command(file=None) == f"skyrl train {OPTIONS}"  # a notebook


def test_several_processes_of_skyrl_train_are_restarted_by_it(command):
    several = {"ranks": 2, "local": 2, "SKYRL_EXIT_MESSAGE": "/tmp/x"}
    assert command(spec=MODULE, **several) == f"skyrl train --num-processes 2 {OPTIONS}"
    assert command(file="mine.py", **several) == f"python mine.py --num-processes 2 {OPTIONS}"


def test_any_other_launcher_is_torchrun(command):
    assert command(spec=MODULE, ranks=2, local=2) == f"torchrun --nproc-per-node 2 -m {MODULE} {OPTIONS}"
    assert command(file="mine.py", ranks=2, local=2) == f"torchrun --nproc-per-node 2 mine.py {OPTIONS}"


def test_one_command_serves_every_machine(command):
    where = {"MASTER_ADDR": "10.0.0.1", "MASTER_PORT": "29400"}
    machines = '--nnodes 4 --node-rank "$NODE_RANK" --master-addr 10.0.0.1 --master-port 29400'
    expected = f"torchrun --nproc-per-node 8 {machines} -m {MODULE} {OPTIONS}"
    assert command(spec=MODULE, ranks=32, local=8, **where) == expected

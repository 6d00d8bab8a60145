"""A child whose parent is killed with SIGKILL ends within seconds, with the processes that it started."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

LIMIT = 15.0
"""Seconds; two on an idle machine."""

HERE = Path(__file__).parent
CHILD = (
    "from skyrl_train.machine.parent_watch import watch_parent; watch_parent(); print(1); import time; time.sleep(99)"
)

STARTED = f"""
import subprocess, sys, time
from skyrl_train.machine.parent_watch import child_of_this_process
subprocess.Popen([sys.executable, "-uc", {CHILD!r}], env=child_of_this_process())
time.sleep(99)
"""

FORKED = """
import multiprocessing, time
from skyrl_train.machine.parent_watch import watch_parent

def serve():
    watch_parent()
    print(1, flush=True)
    time.sleep(99)

multiprocessing.get_context("fork").Process(target=serve).start()
time.sleep(99)
"""

REWARD = f"""
import sys
sys.path.insert(0, {str(HERE.parent / "rewards")!r})
from misbehaving import environment
from skyrl_train.environments.environment import Completion, Row
from skyrl_train.rewards.scorer import Scorer

row = Row(prompt=({{"role": "user", "content": "q"}},), ground_truth="", environment="misbehaving")
answer = Completion(text="hang with child: /dev/stdout", token_ids=(1,), finished=True)
with Scorer({{"misbehaving": environment()}}, deadline=90.0) as scorer:
    scorer.score([(answer, row)])
"""

IMPORT = """
from skyrl_train.rewards.worker_handle import WorkerProcess
from skyrl_train.rewards.worker_main import Setup

slow = b"cbuiltins\\nexec\\n(Vprint(1, flush=True); import time; time.sleep(99)\\ntR."
worker = WorkerProcess(Setup(environments=slow, script=None, module=None, deadline=90.0))
worker.connection.poll(99)
"""
"""A worker that is still importing its environment."""


def descendants(process):
    done = subprocess.run(["ps", "-eo", "pid=,ppid="], capture_output=True, text=True, check=True)
    pairs = [tuple(map(int, line.split())) for line in done.stdout.splitlines()]
    found, parents = [], {process}
    while parents:
        parents = {pid for pid, parent in pairs if parent in parents}
        found += parents
    return found


def is_alive(process):
    state = Path(f"/proc/{process}/stat")
    try:
        return state.read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.mark.parametrize(
    ("program", "processes"),
    [(STARTED, 1), (FORKED, 1), (REWARD, 2), (IMPORT, 1)],
    ids=["started", "forked", "reward", "import"],
)
def test_no_process_outlives_a_parent_that_is_killed(program, processes):
    command = [sys.executable, "-c", program]
    with subprocess.Popen(command, start_new_session=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as parent:
        assert parent.stdout.read(1).isdigit()  # the child has started what it does
        children = descendants(parent.pid)
        assert len(children) == processes
        os.kill(parent.pid, signal.SIGKILL)
        killed = time.monotonic()
        while any(map(is_alive, children)):
            assert time.monotonic() < killed + LIMIT
            time.sleep(0.05)

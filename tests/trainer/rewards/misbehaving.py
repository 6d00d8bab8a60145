"""An environment that performs the action in the answer; the scorer's tests let workers import it."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from skyrl_train.environments.environment import Completion, Environment, EnvironmentParams, Row


def _raise(_: str) -> float:
    raise KeyError("no such\nkey")


def _write_pid(path: str) -> float:
    Path(path).write_text(str(os.getpid()))
    return 1.0


def _write_pid_then_hang(path: str) -> float:
    _write_pid(path)
    time.sleep(3600)
    return 1.0


def _write_child_pid_then_hang(path: str) -> float:
    Path(path).write_text(str(subprocess.Popen([sys.executable, "-c", "import time; time.sleep(3600)"]).pid))
    time.sleep(3600)
    return 1.0


def _write_pid_then_hold_the_interpreter(path: str) -> float:
    _write_pid(path)
    return float(bool(re.match(r"(a+)+b", "a" * 60)))  # exponential, in C, with the interpreter's lock held


def _interrupt_itself(_: str) -> float:
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(0.01)
    return 1.0


def _fork(value: str) -> float:
    child = os.fork()
    if child == 0:
        sys.exit(0)  # a common mistake: os._exit would be right
    os.waitpid(child, 0)
    return float(value)


def _leave_an_alarm(_: str) -> float:
    signal.setitimer(signal.ITIMER_REAL, 3600)
    return 1.0


def _alarm_the_trainer_then_hang(_: str) -> float:
    os.kill(os.getppid(), signal.SIGALRM)
    time.sleep(3600)
    return 1.0


ACTIONS: dict[str, Callable[[str], Any]] = {
    "return": float,
    "text": lambda value: value,
    "none": lambda _: None,
    "bool": lambda _: True,
    "huge": lambda _: 10**400,
    "raise": _raise,
    "exit": lambda code: os._exit(int(code)),
    "sys.exit": lambda code: sys.exit(int(code)),
    "crash": lambda _: os.kill(os.getpid(), signal.SIGSEGV),
    "sleep": lambda seconds: time.sleep(float(seconds)) or 1.0,
    "pid": _write_pid,
    "hang": _write_pid_then_hang,
    "hang with child": _write_child_pid_then_hang,
    "hold": _write_pid_then_hold_the_interpreter,
    "interrupt": _interrupt_itself,
    "fork": _fork,
    "alarm": _leave_an_alarm,
    "left of the alarm": lambda _: signal.getitimer(signal.ITIMER_REAL)[0],
    "alarm the trainer": _alarm_the_trainer_then_hang,
    "print": lambda text: print(text) or 1.0,
    "loaded": lambda modules: float(any(module in sys.modules for module in modules.split())),
}


class Misbehaving(Environment):
    """The text of an answer is `action: argument`."""

    name = "misbehaving"

    def reward(self, completion: Completion, row: Row) -> float:
        action, _, argument = completion.text.partition(": ")
        return ACTIONS[action](argument)  # type: ignore[no-any-return]  # some actions return no number


class BrokenInWorkers(Misbehaving):
    """Its warm-up in a worker fails."""

    def warm_up(self) -> None:
        raise ImportError("libanswers.so.3 is missing")


class DiesAtStart(Misbehaving):
    """Kills its worker during the warm-up, for the first ``count`` workers."""

    def __init__(self, params: EnvironmentParams, folder: Path, count: int) -> None:
        super().__init__(params)
        self._folder, self._count = folder, count

    def warm_up(self) -> None:
        if len(list(self._folder.iterdir())) < self._count:
            (self._folder / str(os.getpid())).touch()
            os.kill(os.getpid(), signal.SIGKILL)


def environment() -> Misbehaving:
    return Misbehaving(EnvironmentParams())

"""Runs that are forked off a process in which everything is imported: see zygote.py."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path


@dataclass
class ForkedRun:
    """A run in a session and process group of its own."""

    group: int
    log: Path
    code_file: Path
    halt: Path  # there while the run is halted

    @property
    def code(self) -> int | None:
        """The exit code, negative for a signal; None while it goes on."""
        return int(self.code_file.read_text()) if self.code_file.exists() else None

    @contextmanager
    def halted(self) -> Iterator[None]:
        """Wait until it is halted; it goes on after the block."""
        while not self.halt.exists():
            assert self.code is None, self.log.read_text()
            time.sleep(0.01)
        try:
            yield
        finally:
            self.halt.unlink()

    def kill(self) -> int:
        """End the whole group at once, as a power cut would, and wait until it is gone."""
        with suppress(ProcessLookupError):  # it has ended by itself
            os.killpg(self.group, signal.SIGKILL)
        return self.wait()

    def wait(self, limit: float = 300) -> int:
        deadline = time.monotonic() + limit
        while (code := self.code) is None:
            assert time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.01)
        return code


class Zygote:
    """Starts runs in a fraction of a second: see zygote.py."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._runs = 0
        self._process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("zygote.py"))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu"},
        )
        self._expect("ready")

    def start(self, argv: list[str], *, ranks: int = 1, halt_after: int | None = None) -> ForkedRun:
        """``halt_after``: the step after which the run halts, before its checkpoint; one rank alone can."""
        self._runs += 1
        log, code, halt = (self._folder / f"{self._runs}.{ending}" for ending in ("log", "code", "halt"))
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        order = {"argv": argv, "log": str(log), "code": str(code), "port": port, "ranks": ranks}
        order["halt"] = None if halt_after is None else (halt_after, str(halt))
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        return ForkedRun(int(self._process.stdout.readline()), log, code, halt)

    def train(self, argv: list[str], *, ranks: int = 1) -> str:
        """Run to the end; what it printed."""
        run = self.start(argv, ranks=ranks)
        assert run.wait() == 0, run.log.read_text()
        return run.log.read_text()

    def close(self) -> None:
        self._process.stdin.close()
        self._process.wait(60)
        self._process.stdout.close()

    def _expect(self, line: str) -> None:
        said = self._process.stdout.readline().strip()
        assert said == line, f"{said!r} instead of {line!r}"

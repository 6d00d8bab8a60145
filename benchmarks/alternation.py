"""Run long processes in turns, all but one stopped, so that other load on the machine affects all alike."""

import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import IO


@dataclass
class Alternating:
    """A process, its turns and its output."""

    command: Sequence[str]
    environment: Mapping[str, str]
    turn: float  # seconds that it runs before the next process does
    turns: list[tuple[float, float]] = field(default_factory=list)  # start and end, in seconds since the epoch
    output: str = ""

    def alone(self, started: float, ended: float) -> bool:
        """Whether this process ran without interruption, and no other one ran meanwhile."""
        return any(first <= started and ended <= last for first, last in self.turns)


def alternate(processes: Sequence[Alternating]) -> None:
    """Run all processes until they exit, and fill in their ``turns`` and ``output``.

    Raises:
        SystemExit: a process failed.
    """
    with ExitStack() as stack:
        running = [(process, stack.enter_context(_stopped(process))) for process in processes]
        while running:
            for process, (handle, output, errors) in list(running):
                started = time.time()
                handle.send_signal(signal.SIGCONT)
                try:
                    code = handle.wait(timeout=process.turn if len(running) > 1 else None)
                except subprocess.TimeoutExpired:
                    handle.send_signal(signal.SIGSTOP)
                    process.turns.append((started, time.time()))
                    continue
                process.turns.append((started, time.time()))
                running.remove((process, (handle, output, errors)))
                process.output = _read(output)
                if code:
                    raise SystemExit(f"{' '.join(process.command[:4])}: exit code {code}\n{_read(errors)[-4000:]}")


Started = tuple["subprocess.Popen[bytes]", IO[bytes], IO[bytes]]


@contextmanager
def _stopped(process: Alternating) -> Iterator[Started]:
    # Files, because a pipe would not be read before the end and could fill up.
    with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as errors:
        # The shell stops itself before it runs the command: a signal from here could arrive after the first steps.
        command = ["/bin/sh", "-c", 'kill -STOP $$; exec "$@"', "sh", *process.command]
        handle = subprocess.Popen(command, stdout=output, stderr=errors, env=process.environment)
        try:
            os.waitpid(handle.pid, os.WUNTRACED)
            yield handle, output, errors
        finally:
            handle.kill()
            handle.wait()


def _read(file: IO[bytes]) -> str:
    file.seek(0)
    return file.read().decode(errors="replace")

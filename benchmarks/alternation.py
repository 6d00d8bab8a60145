"""Long processes that run by turns: all but one are stopped, so that other load on the machine meets all of them."""

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
    """A process, and what became of it."""

    command: Sequence[str]
    environment: Mapping[str, str]
    turn: float  # seconds that it runs before the next one does
    turns: list[tuple[float, float]] = field(default_factory=list)  # beginning and end, seconds since the epoch
    output: str = ""

    def alone(self, started: float, ended: float) -> bool:
        """Whether nothing else of these ran meanwhile, and it was not stopped itself."""
        return any(first <= started and ended <= last for first, last in self.turns)


def alternate(processes: Sequence[Alternating]) -> None:
    """Run them to their ends, which fills ``turns`` and ``output``.

    Raises:
        SystemExit: one failed.
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
    # Files, because nobody reads a pipe before the end.
    with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as errors:
        # It stops itself before it is the command: a signal from here could come after its first steps.
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

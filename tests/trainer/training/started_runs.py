"""Runs as a user starts them: commands, with signals as from a terminal."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

BIN = Path(sys.executable).parent
LIMIT = 400
"""Seconds for what takes a few on an idle machine."""


class Started:
    """A run in a process group of its own, as a terminal would make it, with what it writes in files."""

    def __init__(self, command: list[str], folder: Path, log: Path, environment: dict[str, str]) -> None:
        self.folder, self.output, self.errors = folder, log.with_suffix(".out"), log.with_suffix(".err")
        search_path = os.pathsep.join([str(BIN), os.environ["PATH"]])
        environment = os.environ | {"OMP_NUM_THREADS": "1", "PATH": search_path} | environment
        with self.output.open("ab") as out, self.errors.open("ab") as err:
            self.process = subprocess.Popen(command, stdout=out, stderr=err, env=environment, start_new_session=True)

    def until(self, event: Callable[[], bool]) -> None:
        """Wait for an event of a run that goes on."""
        limit = time.monotonic() + LIMIT
        while not event():
            assert self.process.poll() is None, self.said
            assert time.monotonic() < limit, self.said
            time.sleep(0.05)

    def until_step(self, step: int) -> None:
        self.until(lambda: any(row["step"] >= step for row in self.rows))

    def until_said(self, text: str) -> None:
        self.until(lambda: text in self.said)

    def send(self, number: int) -> None:
        """A signal to all processes of the group, as from a terminal."""
        os.killpg(self.process.pid, number)

    def process_of(self, *, rank: int) -> int:
        """That of a rank, which the process of this run has started. Process ids say nothing: they begin anew."""
        children = subprocess.run(["pgrep", "-P", str(self.process.pid)], capture_output=True, text=True, check=True)
        wanted = f"RANK={rank}".encode()
        found = [
            int(child)
            for child in children.stdout.split()
            if wanted in Path(f"/proc/{child}/environ").read_bytes().split(b"\0")
        ]
        assert len(found) == 1, children.stdout
        return found[0]

    def ended(self) -> int:
        return self.process.wait(LIMIT)

    @property
    def said(self) -> str:
        return self.errors.read_text()

    @property
    def last_line(self) -> str:
        return self.said.splitlines()[-1]

    @property
    def checkpoints(self) -> list[str]:
        """Their names, those of hidden folders too."""
        return sorted(path.name for path in (self.folder / "checkpoints").iterdir() if path.name != "latest")

    @property
    def run(self) -> dict[str, Any]:
        return json.loads((self.folder / "run.json").read_text())

    @property
    def rows(self) -> list[dict[str, Any]]:
        """The training steps in metrics.jsonl."""
        file = self.folder / "metrics.jsonl"
        lines = file.read_text().splitlines(keepends=True) if file.exists() else []
        return [row for row in (json.loads(line) for line in lines if line.endswith("\n")) if row["kind"] == "train"]

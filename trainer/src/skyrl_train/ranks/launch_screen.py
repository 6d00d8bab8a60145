"""The screen of the command that starts several processes: below their output, what rank 0 draws."""

import json
import os
import threading
from pathlib import Path
from types import TracebackType
from typing import Self

from rich.console import RenderableType
from rich.spinner import Spinner
from rich.text import Text

from skyrl_train.tracking.relayed_display import FRAMES, TERMINAL
from skyrl_train.tracking.screen import Screen


class LaunchScreen:
    """Owns the terminal while the processes run; does nothing if the output is not a terminal."""

    def __init__(self, folder: Path, processes: int) -> None:
        self.environment: dict[str, str] = {}
        """What the processes need to know."""
        self._screen = Screen()
        self._path = folder / "frames"
        self._shown: RenderableType = Spinner("dots", f"starting {processes} processes ...")

    def __enter__(self) -> Self:
        if not (self._screen.terminal.live and self._screen.terminal.is_stdout()):
            return self
        os.mkfifo(self._path)
        self._frames = os.fdopen(os.open(self._path, os.O_RDWR), "rb")  # also for writing: it never ends
        # A pipe instead of the terminal would make Python keep their lines until there are many.
        self.environment = {FRAMES: str(self._path), TERMINAL: os.ttyname(1), "PYTHONUNBUFFERED": "1"}
        threading.Thread(target=self._read, name="skyrl-frames", daemon=True).start()
        self._screen.show(lambda: self._shown)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._screen.close(keep=False)

    def _read(self) -> None:
        for line in self._frames:
            self._shown = Text.from_ansi(json.loads(line), no_wrap=True)

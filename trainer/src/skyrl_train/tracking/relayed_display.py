"""The live display of rank 0 of several processes: drawn here, shown by the command that started them."""

import json
import os
import threading
from collections.abc import Callable
from contextlib import suppress

FRAMES = "SKYRL_SCREEN"
"""Variable with the path of the named pipe that takes the frames, a JSON string on each line."""
TERMINAL = "SKYRL_TERMINAL"
"""Variable with the path of the terminal, for its size."""
INTERVAL = 0.25


class RelayedDisplay:
    """Sends what `draw` returns, four times a second. A frame that the reader has no room for is dropped."""

    def __init__(self, draw: Callable[[], str]) -> None:
        self._draw = draw
        self._pipe = os.open(os.environ[FRAMES], os.O_WRONLY | os.O_NONBLOCK)
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._send_all, name="skyrl-display", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Remove the display."""
        self._closed.set()
        self._thread.join()
        self._send("")
        os.close(self._pipe)

    def _send_all(self) -> None:
        while True:
            self._send(self._draw())
            if self._closed.wait(INTERVAL):
                return

    def _send(self, frame: str) -> None:
        with suppress(OSError):
            os.write(self._pipe, f"{json.dumps(frame)}\n".encode())

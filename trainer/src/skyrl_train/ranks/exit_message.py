"""The last message of an interrupted run: how to resume it. On stderr, with nothing after it.

The launcher of `skyrl train --num-processes` prints pages after its ranks exit. There the command prints the message,
after the launcher, and gives rank 0 a file to write it to. Imports no torch.
"""

import json
import os
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from skyrl_core.discovery import safe_to_print
from skyrl_train.tracking.stderr import say

FILE = "SKYRL_EXIT_MESSAGE"
"""Environment variable with the path of that file."""


@dataclass(frozen=True, kw_only=True)
class ExitMessage:
    """How rank 0 ended."""

    exit_code: int
    text: str = ""

    def print(self) -> None:
        """Print it, or write it to the command's file. The last action of rank 0."""
        path = os.environ.get(FILE)
        if path:
            with suppress(OSError):  # the command is gone, and its folder with it
                Path(path).write_text(json.dumps(asdict(self)))
                return
        if self.text:
            say(safe_to_print(self.text))


def read_exit_message(path: Path) -> ExitMessage | None:
    """The message that rank 0 wrote to the file; None if it wrote none."""
    content = path.read_text()
    return ExitMessage(**json.loads(content)) if content else None

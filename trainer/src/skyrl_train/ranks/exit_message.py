"""The last words of a run that was interrupted: how to go on. On stderr, where nothing may follow them.

The launcher of `skyrl train --num-processes` writes pages when its ranks have ended; there the command itself says
them, after the launcher, and leaves rank 0 a file for them. Imports no torch.
"""

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

from skyrl_train.tracking.stderr import say

FILE = "SKYRL_FAREWELL"
"""Environment variable with the path of that file."""


@dataclass(frozen=True, kw_only=True)
class ExitMessage:
    """How rank 0 has ended."""

    exit_code: int
    words: str = ""

    def say(self) -> None:
        """Once, as the last thing that rank 0 does."""
        path = os.environ.get(FILE)
        if path:
            Path(path).write_text(json.dumps(asdict(self)))
        elif self.words:
            say(self.words)


def heard(path: Path) -> ExitMessage | None:
    """What rank 0 has left in the file; None if it has not come to that."""
    content = path.read_text()
    return ExitMessage(**json.loads(content)) if content else None

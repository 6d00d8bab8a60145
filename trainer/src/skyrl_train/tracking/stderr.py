"""Messages on stderr that never raise, even if the terminal was closed or the reader of the pipe has exited.

A lost message must neither end a run nor prevent its checkpoint. Imports no torch.
"""

import os
import sys
from contextlib import suppress


def say(text: str) -> None:
    """Write a line and flush it."""
    with suppress(OSError, ValueError):  # ValueError: this process closed it
        if sys.stderr is not None:
            sys.stderr.write(f"{text}\n")
            sys.stderr.flush()


def say_in_a_handler(text: str) -> None:
    """Write a line from a signal handler, which may have interrupted a write to ``sys.stderr``."""
    with suppress(OSError):
        os.write(2, f"{text}\n".encode())

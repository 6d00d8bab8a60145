"""Words for people on stderr, which may be gone: a terminal was closed, or the program that read a pipe has ended.

What is said there must not end a run, nor keep it from saving. Imports no torch.
"""

import os
import sys
from contextlib import suppress


def say(text: str) -> None:
    """Write a line, at once."""
    with suppress(OSError, ValueError):  # ValueError: it was closed in this process
        if sys.stderr is not None:
            sys.stderr.write(f"{text}\n")
            sys.stderr.flush()


def say_in_a_handler(text: str) -> None:
    """The same from a signal handler, which may have come in the middle of a line to ``sys.stderr``."""
    with suppress(OSError):
        os.write(2, f"{text}\n".encode())

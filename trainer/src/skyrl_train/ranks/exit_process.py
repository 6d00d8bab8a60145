"""Ends the process of a rank without Python's shutdown of the interpreter."""

import atexit
import os
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import NoReturn

from skyrl_core.cli import print_safe_tracebacks


def exit_process(main: Callable[[], int]) -> NoReturn:
    """Run the program and exit with its exit code.

    One of several ranks still has threads of gloo, which DeepSpeed keeps alive. If one of them releases a tensor while
    the interpreter shuts down, the process aborts, and the launcher reports a finished run as failed. So such a rank
    runs its exit handlers, flushes its streams and exits at once.
    """
    print_safe_tracebacks()
    try:
        code = main()
    except SystemExit as end:
        if not isinstance(end.code, int):
            raise
        code = end.code
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        atexit._run_exitfuncs()
        for stream in (sys.stdout, sys.stderr):
            with suppress(AttributeError, OSError, ValueError):  # closed, or its reader is gone
                stream.flush()
        os._exit(code)
    sys.exit(code)

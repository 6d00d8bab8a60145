"""The end of a rank's process, without the part in which Python takes itself down."""

import atexit
import os
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import NoReturn


def leave(main: Callable[[], int]) -> NoReturn:
    """Run the program and end the process with its exit code.

    One of several ranks still has threads of gloo, which DeepSpeed keeps alive. One of them that lets go of a tensor
    while Python takes itself down aborts the process, and the launcher calls a finished run failed. So such a rank does
    all that comes before (the exit handlers, the last words of its streams) and leaves.
    """
    try:
        code = main()
    except SystemExit as end:
        if not isinstance(end.code, int):
            raise
        code = end.code
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        atexit._run_exitfuncs()
        for stream in (sys.stdout, sys.stderr):
            with suppress(AttributeError, OSError, ValueError):  # none, or nobody reads it any more
                stream.flush()
        os._exit(code)
    sys.exit(code)

"""Imports of thousands of modules: the garbage collector, which would visit them again and again, waits."""

import atexit
import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def many_imports(module: str) -> Iterator[None]:
    """In the body is nothing but imports, ``module`` among them. What is there afterwards is left out of collections.

    A module is no garbage before the process ends. All the same the collector takes a fifth of the time in which torch,
    transformers and DeepSpeed are imported. At the end it sees everything again: Triton would report what is left as
    leaked.

    Where ``module`` is there already, in the second run of a process, say, nothing is put off and nothing left out:
    what it holds may become garbage. What is garbage in the first, before a model is loaded, is little.
    """
    if module in sys.modules or not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
        atexit.register(gc.unfreeze)

"""Restores what a run changes in its process, so that a notebook or a script continues as before.

Decision: a run started by the command ends with its process and restores nothing. A run started by `train` restores
environment variables, warnings, logging, random numbers, threads, garbage collection and malloc, and leaves no process
group; imported libraries stay imported.
"""

import gc
import logging
import os
import random
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from skyrl_train.machine.malloc import return_freed_memory


@contextmanager
def restored_interpreter() -> Iterator[None]:
    """Restore the parts of Python that libraries change when they are imported. Imports no torch."""
    variables, numbers, collecting = dict(os.environ), random.getstate(), gc.isenabled()
    root = logging.getLogger()
    handlers, levels = list(root.handlers), _levels()
    try:
        with warnings.catch_warnings():
            # tqdm asks for widgets when a notebook imports it, but the trainer shows no bar of tqdm.
            warnings.filterwarnings("ignore", message="IProgress not found")
            yield
    finally:
        random.setstate(numbers)
        for name in os.environ.keys() - variables.keys():
            del os.environ[name]
        os.environ |= variables
        root.handlers[:] = handlers
        for logger, level in levels.items():
            logger.setLevel(level)
        gc.unfreeze()
        (gc.enable if collecting else gc.disable)()


@contextmanager
def restored_libraries() -> Iterator[None]:
    """Restore what a run changes in torch, NumPy, transformers and glibc. Imports them."""
    import numpy as np
    import torch
    from transformers.utils import logging as transformers_logging

    threads, generator, numbers = torch.get_num_threads(), torch.get_rng_state(), np.random.get_state()
    devices = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else None
    verbosity, bars = transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        torch.set_rng_state(generator)
        np.random.set_state(numbers)
        if devices is not None:
            torch.cuda.set_rng_state_all(devices)
        transformers_logging.set_verbosity(verbosity)
        if bars:
            transformers_logging.enable_progress_bar()
        # Engines and models are in reference cycles, and the next run would add its memory to theirs.
        gc.collect()
        if torch.cuda.is_initialized():
            torch.cuda.empty_cache()
        return_freed_memory()


def _levels() -> dict[logging.Logger, int]:
    loggers = [each for each in logging.root.manager.loggerDict.values() if isinstance(each, logging.Logger)]
    return {logger: logger.level for logger in (logging.root, *loggers)}

"""Keeps what vLLM changes in its process away from the trainer, which shares it: settings, random numbers, output."""

import os
import random
import sys
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from types import ModuleType
from typing import Any

import numpy as np
import torch

from skyrl_core.errors import SkyrlError

ENVIRONMENT = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # in this process, not in one of its own
    "VLLM_NO_USAGE_STATS": "1",  # or it reports the model and the machine to its makers
    "VLLM_LOGGING_LEVEL": "CRITICAL",  # of an error it prints whole requests, and the error arrives here anyway
}


def import_vllm() -> ModuleType:
    """The package, told to be quiet and to stay in this process.

    Raises:
        SkyrlError: it is not installed, or cannot be imported.
    """
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    try:
        with silence(), as_it_was():
            import vllm
            from vllm.v1.engine import core
    except Exception as error:
        raise SkyrlError(f"vLLM cannot be imported: {error}\n  docs/rollout_engines.md has the recipe") from error
    # When an engine ends, vLLM would destroy every process group, also the one that the trainer works with.
    core.cleanup_dist_env_and_memory = _keep_process_groups
    module: ModuleType = vllm
    return module


@contextmanager
def as_it_was() -> Iterator[None]:
    """Afterwards random states, threads, numerics and the environment are as before; names of vLLM's own stay set."""
    with ExitStack() as stack:
        if torch.cuda.is_available():
            stack.callback(torch.cuda.set_rng_state, torch.cuda.get_rng_state())
        stack.callback(torch.set_rng_state, torch.get_rng_state())
        stack.callback(np.random.set_state, np.random.get_state())
        stack.callback(random.setstate, random.getstate())
        stack.callback(torch.set_float32_matmul_precision, torch.get_float32_matmul_precision())
        stack.callback(_restore_environment, dict(os.environ))
        # On a CPU vLLM replaces the function by one that does nothing.
        stack.callback(_restore_threads, torch.set_num_threads, torch.get_num_threads())
        if not torch.cuda.is_available():
            # Functions that vLLM compiles whatever it is told, with a C++ compiler that the machine may lack.
            stack.enter_context(torch.compiler.set_stance("force_eager"))
        yield


@contextmanager
def silence() -> Iterator[None]:
    """Nothing reaches the terminal, unless the user asked for vLLM's log: its C++ parts write past Python's streams."""
    if os.environ["VLLM_LOGGING_LEVEL"] != ENVIRONMENT["VLLM_LOGGING_LEVEL"]:
        yield
        return
    with ExitStack() as stack:
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")
        nowhere = stack.enter_context(tempfile.TemporaryFile())
        for stream, descriptor in ((sys.stdout, 1), (sys.stderr, 2)):
            stream.flush()
            saved = os.dup(descriptor)
            stack.callback(os.close, saved)
            stack.callback(os.dup2, saved, descriptor)
            os.dup2(nowhere.fileno(), descriptor)
            stack.callback(stream.flush)  # while it still goes nowhere
        yield


def _restore_threads(set_num_threads: Any, threads: int) -> None:
    torch.set_num_threads = set_num_threads
    if torch.get_num_threads() != threads:
        set_num_threads(threads)


def _restore_environment(before: dict[str, str]) -> None:
    for name in set(os.environ) - set(before):
        if not name.startswith("VLLM_"):
            del os.environ[name]
    os.environ.update(before)


def _keep_process_groups() -> None:
    """In place of vLLM's own clean-up. Its groups serve the next engine, and end with the process group of the run."""

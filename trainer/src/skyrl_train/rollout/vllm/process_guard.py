"""Protects the trainer from vLLM's changes to their process: settings, random states, output."""

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
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # run in this process
    "VLLM_NO_USAGE_STATS": "1",  # do not report the model and the machine to vLLM's developers
    "VLLM_LOGGING_LEVEL": "CRITICAL",  # for an error it prints complete requests, and the error is raised here anyway
}


def import_vllm() -> ModuleType:
    """The package vllm, configured to be quiet and to run in this process.

    Raises:
        SkyrlError: vLLM is not installed, or cannot be imported.
    """
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    try:
        with silence(), preserved_state():
            import vllm
            from vllm.v1.engine import core
    except Exception as error:
        raise SkyrlError(f"vLLM cannot be imported: {error}\n  see docs/rollout_engines.md to install it") from error
    # When an engine shuts down, vLLM would destroy every process group, even the trainer's.
    core.cleanup_dist_env_and_memory = _keep_process_groups
    module: ModuleType = vllm
    return module


@contextmanager
def preserved_state() -> Iterator[None]:
    """Restores random states, threads, numerics and the environment, except ``VLLM_`` variables."""
    with ExitStack() as stack:
        if torch.cuda.is_available():
            stack.callback(torch.cuda.set_rng_state, torch.cuda.get_rng_state())
        stack.callback(torch.set_rng_state, torch.get_rng_state())
        stack.callback(np.random.set_state, np.random.get_state())
        stack.callback(random.setstate, random.getstate())
        stack.callback(torch.set_float32_matmul_precision, torch.get_float32_matmul_precision())
        stack.callback(_restore_environment, dict(os.environ))
        # On a CPU vLLM replaces `torch.set_num_threads` by a function that does nothing.
        stack.callback(_restore_threads, torch.set_num_threads, torch.get_num_threads())
        if not torch.cuda.is_available():
            # vLLM always compiles some functions, with a C++ compiler that the machine may lack.
            stack.enter_context(torch.compiler.set_stance("force_eager"))
        yield


@contextmanager
def silence() -> Iterator[None]:
    """Suppresses vLLM's output, unless the user requested its log. Its C++ parts bypass Python's streams."""
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
            stack.callback(stream.flush)  # before the descriptor is restored
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
    """Replace vLLM's clean-up: the next engine reuses its groups, which end with the run's process group."""

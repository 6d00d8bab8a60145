"""The guards restore the process, here after code that behaves like vLLM."""

import os
import random
import sys
import warnings

import numpy as np
import pytest
import torch

from skyrl_core.errors import SkyrlError
from skyrl_train.rollout.vllm.process_guard import ENVIRONMENT, import_vllm, preserved_state, silence


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)


def test_random_states_threads_and_environment_are_as_before(monkeypatch):
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    set_num_threads, threads = torch.set_num_threads, torch.get_num_threads()
    states = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
    with preserved_state():
        random.seed(0)
        np.random.seed(0)
        torch.manual_seed(0)
        torch.set_num_threads(threads + 1)
        torch.set_num_threads = lambda _: None
        torch.set_float32_matmul_precision("medium")
        os.environ |= {"LOCAL_WORLD_SIZE": "1", "LD_PRELOAD": "libsomething.so", "VLLM_DIST_IDENT": "kept"}
    assert (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()) == states
    assert torch.set_num_threads is set_num_threads
    assert torch.get_num_threads() == threads
    assert torch.get_float32_matmul_precision() == "highest"
    assert os.environ["LOCAL_WORLD_SIZE"] == "2"
    assert "LD_PRELOAD" not in os.environ
    assert os.environ.pop("VLLM_DIST_IDENT") == "kept"


def test_an_error_leaves_the_process_unchanged_too():
    @preserved_state()
    def fails():
        torch.manual_seed(0)
        raise RuntimeError("inside")

    state = torch.get_rng_state().tolist()
    with pytest.raises(RuntimeError, match="inside"):
        fails()
    assert torch.get_rng_state().tolist() == state


def test_output_that_bypasses_python_is_suppressed_and_then_restored(capfd):
    with silence():
        os.write(1, b"from C++")
        os.write(2, b"a warning")
        warnings.warn("from Python", stacklevel=1)
    os.write(1, b"after")
    os.write(2, b"and after")
    captured = capfd.readouterr()
    assert (captured.out, captured.err) == ("after", "and after")


def test_a_requested_log_is_not_suppressed(monkeypatch, capfd):
    monkeypatch.setenv("VLLM_LOGGING_LEVEL", "INFO")
    with silence():
        os.write(1, b"from C++")
    assert capfd.readouterr().out == "from C++"


def test_a_vllm_that_cannot_be_imported_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "vllm", None)
    with pytest.raises(SkyrlError, match=r"vLLM cannot be imported: .*\n.*rollout_engines\.md"):
        import_vllm()

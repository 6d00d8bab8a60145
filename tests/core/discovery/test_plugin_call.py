"""Whatever a plugin's code raises becomes one error that names the plugin, the place and a remedy."""

import re
import subprocess
import sys
import warnings

import pytest

from skyrl_core.discovery.plugin_call import (
    TRACEBACK,
    Guard,
    PluginCall,
    author_places,
    complete_traceback,
    error_text,
    exits_as_errors,
    with_traceback,
)
from skyrl_core.errors import (
    ConformanceError,
    InvalidParamsError,
    PluginError,
    PluginLoadError,
    SkyrlError,
    UndeclaredInputError,
)

GUARD = Guard("policy loss 'foo' (foo-dist 1.0)", __name__, "foo-dist")


class Mute(Exception):
    def __str__(self):
        sys.exit(0)


class Success(SkyrlError):
    exit_code = 0


class NoText(SkyrlError):
    def __str__(self):
        raise RuntimeError


class OutOfMemoryError(RuntimeError):
    """Named like that of torch, which this test does not import."""


def endless():
    return endless()


def deprecated():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.warn("old", DeprecationWarning, stacklevel=1)


def raise_(error):
    raise error


def replaced():
    try:
        raise KeyboardInterrupt
    except KeyboardInterrupt:
        raise RuntimeError("while it cleans up") from None


FAILURES = {
    "exit": (lambda: sys.exit(0), "SystemExit: 0", "raise an exception there instead of exiting"),
    "exit without a code": (lambda: sys.exit(), "SystemExit", "raise an exception there"),
    "key": (lambda: {}["gone"], "KeyError: 'gone'", "report this to the author of foo-dist"),
    "recursion": (endless, "RecursionError: maximum recursion depth", "repair it"),
    "memory": (lambda: raise_(MemoryError()), "MemoryError", "micro_batch_size"),
    "device memory": (lambda: raise_(OutOfMemoryError("CUDA")), "OutOfMemoryError: CUDA", "micro_batch_size"),
    "device": (
        lambda: raise_(RuntimeError("CUDA error: assert")),
        "RuntimeError: CUDA error",
        "CUDA_LAUNCH_BLOCKING=1",
    ),
    "generator": (lambda: raise_(GeneratorExit()), "GeneratorExit", "repair it"),
    "stop iteration": (lambda: next(iter(())), "StopIteration", "repair it"),
    "base": (lambda: raise_(BaseException("base")), "BaseException: base", "repair it"),
    "group": (lambda: raise_(ExceptionGroup("many", [ValueError("one")])), "ExceptionGroup: many", "repair it"),
    "mute": (lambda: raise_(Mute()), "Mute: (its message cannot be shown)", "repair it"),
    "warning": (deprecated, "DeprecationWarning: old", "repair it"),
    "escape": (lambda: raise_(ValueError("a\x1b[31mred\nline")), "ValueError: a", "repair it"),
    "an error of ours without an exit code": (lambda: raise_(Success("fine")), "Success: fine", "repair it"),
    "an error of ours without a message": (lambda: raise_(NoText()), "NoText: (its message", "repair it"),
}


@pytest.mark.parametrize(("call", "reason", "remedy"), FAILURES.values(), ids=FAILURES)
def test_any_exception_is_one_error_with_plugin_time_reason_place_and_remedy(call, reason, remedy):
    with pytest.raises(PluginError) as caught, GUARD.calling("token_losses", "optimizer step 3"):
        call()
    first, *lines = str(caught.value).splitlines()
    assert first.startswith("policy loss 'foo' (foo-dist 1.0) failed in token_losses, optimizer step 3: " + reason)
    assert any(re.search(r"at .*test_plugin_call\.py:\d+, in ", line) for line in lines)
    assert remedy in lines[-1]
    assert TRACEBACK in lines[-1]
    assert "\x1b" not in str(caught.value)
    assert caught.value.exit_code == 5
    assert caught.value.__cause__ is not None


def test_a_message_of_megabytes_is_cut():
    with pytest.raises(PluginError) as caught, GUARD.calling("prepare"):
        raise ValueError("x" * 5_000_000)
    assert len(str(caught.value)) < 1000


def test_a_signal_stays_a_stop_even_if_the_plugin_replaces_it():
    with pytest.raises(KeyboardInterrupt), GUARD.calling("prepare"):
        raise KeyboardInterrupt
    with pytest.raises(KeyboardInterrupt), GUARD.calling("prepare"):
        replaced()


def test_a_signal_that_was_handled_before_the_call_is_over():
    try:
        raise KeyboardInterrupt
    except KeyboardInterrupt:
        with pytest.raises(PluginError, match="later"), GUARD.calling("prepare"):
            raise_(ValueError("later"))


def test_an_error_of_this_project_passes_unchanged():
    error = InvalidParamsError("named already")
    with pytest.raises(InvalidParamsError) as caught, GUARD.calling("prepare"):
        raise error
    assert caught.value is error


def test_a_broken_contract_keeps_its_exit_code_and_gets_the_name_once():
    with (
        pytest.raises(ConformanceError) as caught,
        GUARD.calling("token_losses", "optimizer step 2"),
        GUARD.calling("a term of it"),
    ):
        raise UndeclaredInputError("entropy")
    assert str(caught.value).count("policy loss 'foo'") == 1
    assert "add Need.ENTROPY" in str(caught.value)
    assert caught.value.exit_code == 6


def test_kind_and_remedy_may_be_given():
    with (
        pytest.raises(PluginLoadError, match=r"could not start: ValueError: no(?s:.*)\nset a key$"),
        PluginCall(GUARD, "could not start", kind=PluginLoadError, advice=lambda error: "set a key"),
    ):
        raise ValueError("no")


def test_the_place_is_in_the_code_of_the_author_not_of_a_library():
    torch = pytest.importorskip("torch")
    with pytest.raises(RuntimeError) as mismatch:
        torch.zeros(2) @ torch.zeros(3)
    assert "test_plugin_call.py" in author_places(mismatch.value, __name__)[-1]
    with pytest.raises(OSError, match="program") as missing:
        subprocess.run(["/no/such/program"], check=False)
    assert "test_plugin_call.py" in author_places(missing.value, __name__)[-1]
    assert "subprocess.py" in author_places(missing.value, "other_package.loss")[-1]


def test_the_complete_traceback_follows_on_request(monkeypatch):
    error = PluginError("named")
    error.add_note("a note")
    assert with_traceback(error) == "named\na note"
    monkeypatch.setenv(TRACEBACK, "1")
    error.__cause__ = ValueError("cause")
    assert "ValueError: cause" in with_traceback(error)


def test_an_exception_that_cannot_be_formatted_has_a_traceback_all_the_same():
    class Odd(Exception):
        @property
        def __notes__(self):
            raise RuntimeError("no notes")

    assert "Odd" in complete_traceback(Odd())
    assert error_text(Odd()) == "Odd"


def test_an_exit_of_unknown_code_is_an_error_and_nothing_else_is_touched():
    reason = r"tried to end the process: SystemExit: 0\n  at .*test_plugin_call\.py"
    with pytest.raises(PluginError, match=reason), exits_as_errors():
        sys.exit(0)
    for error in (KeyError("x"), KeyboardInterrupt(), InvalidParamsError("ours")):
        with pytest.raises(type(error)) as caught, exits_as_errors():
            raise error
        assert caught.value is error

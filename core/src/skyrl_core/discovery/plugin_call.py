"""The guard around each call of a plugin's code: whatever the code raises becomes one error that names the plugin.

A plugin may raise anything, also ``SystemExit(0)``, which would end a failed run with exit code 0. Ctrl-C is no failure
of a plugin and passes, and so do the errors of this project, which name the cause themselves.
"""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import NamedTuple

from skyrl_core.errors import ConformanceError, PluginError, SkyrlError
from skyrl_core.printable_text import printable, shortened

TRACEBACK = "SKYRL_TRACEBACK"
"""Environment variable: if it is set, the complete traceback follows an error message."""

MAX_TEXT = 400
MAX_FRAMES = 3
_MAX_CHAIN = 100
_OURS = {"skyrl_core", "skyrl_train"}
_LIBRARIES = {"contextlib", "functools", "importlib", "pluggy", "pydantic", "torch"}
"""Frames of these packages are never the cause: they call the plugin, or the plugin called them."""


class Guard(NamedTuple):
    """A plugin whose code is called."""

    subject: str
    """The plugin in messages, such as ``policy loss 'gspo' (skyrl-core 0.1.0)``."""
    module: str = ""
    """The module that defines it."""
    author: str = ""
    """The distribution whose author can repair it; empty for code of the user."""

    def calling(self, method: str, when: str = "") -> "PluginCall":
        """The context of a call of a method; ``when`` is the time in a run, such as ``step 3``."""
        return PluginCall(self, f"failed in {method}{', ' if when else ''}{when}")


class PluginCall:
    """A context whose exceptions become one error that names the plugin, the failed action, the place and a remedy.

    Raises:
        PluginError: or the class given as ``kind``; its ``__cause__`` is the original exception.
        KeyboardInterrupt, SkyrlError: unchanged.
    """

    def __init__(
        self,
        guard: Guard,
        failed: str,
        *,
        kind: type[SkyrlError] = PluginError,
        advice: Callable[[BaseException], str] | None = None,
    ) -> None:
        """``failed`` is the predicate of the message; ``advice`` returns a remedy instead of the usual one."""
        self._guard, self._failed, self._kind, self._advice = guard, failed, kind, advice

    def __enter__(self) -> None:
        self._outer = sys.exception()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is None or _passes(error):
            return
        for earlier in _chain(error, self._outer):
            if isinstance(earlier, KeyboardInterrupt):
                raise earlier  # the plugin was interrupted, and raised this error meanwhile
        head = f"{self._guard.subject} {self._failed}"
        if isinstance(error, ConformanceError):  # raised by a check of what the plugin did or returned
            raise ConformanceError(f"{head}: {error}") from error
        raise self._kind("\n".join([f"{head}: {error_text(error)}", *self._lines(error)])) from error

    def _lines(self, error: BaseException) -> Iterator[str]:
        for place in author_places(error, self._guard.module)[-MAX_FRAMES:]:
            yield f"  at {place}"
        if self._advice is not None:
            yield self._advice(error)
            return
        author = f"the author of {self._guard.author}" if self._guard.author else "its author"
        remedy = _remedy(error) or f"repair it, or report this to {author}"
        yield f"{remedy}; for the complete traceback, set {TRACEBACK}=1"


@contextmanager
def exits_as_errors() -> Iterator[None]:
    """The context of much code that may call unknown code: an exit in it is an error, other exceptions pass.

    It is the last resort behind the guards: the exit code 0 would report a failed command as finished.

    Raises:
        PluginError: the process was about to exit.
    """
    try:
        yield
    except (Exception, KeyboardInterrupt):
        raise
    except BaseException:
        with PluginCall(Guard("code of another package"), "tried to end the process"):
            raise


def error_text(error: BaseException, limit: int = MAX_TEXT) -> str:
    """The type and message of any exception in one short printable line."""
    name = shortened(type(error).__name__, limit)
    try:
        text = str(error)[:limit].strip()
    except KeyboardInterrupt:
        raise
    except BaseException:  # noqa: BLE001 - __str__ of a plugin's exception may raise anything
        text = "(its message cannot be shown)"
    text = shortened(" ".join(text.split()), limit)
    return f"{name}: {text}" if text else name


def author_places(error: BaseException, module: str) -> list[str]:
    """Where the exception passed through the code of a module's package, as ``FILE:LINE, in FUNCTION``; innermost last.

    Without a frame in it, the innermost frame of any code that may be the cause.
    """
    package = module.partition(".")[0]
    frames = list(_frames(error.__traceback__))
    own = [place for name, place in frames if package and name == module]
    own = own or [place for name, place in frames if package not in ("", *_OURS) and _package(name) == package]
    if own:
        return own
    others = [place for name, place in frames if _package(name) not in _OURS | _LIBRARIES]
    return others[-1:]


def with_traceback(error: BaseException) -> str:
    """The message and notes of an error for a terminal; with the complete traceback if the user asked for it."""
    lines = [str(error), *getattr(error, "__notes__", ())]
    return "\n".join([*lines, complete_traceback(error)] if os.environ.get(TRACEBACK) else lines)


def complete_traceback(error: BaseException) -> str:
    """The traceback of an error and its causes, as Python prints it."""
    import traceback  # takes milliseconds that a listing does not need

    try:
        text = "".join(traceback.format_exception(error))
    except Exception as failure:  # noqa: BLE001 - a plugin's exception may break the formatting, too
        text = f"{type(error).__name__} (its traceback cannot be shown: {type(failure).__name__})"
    return printable(text.rstrip(), lines=True, escape=True)


def _passes(error: BaseException) -> bool:
    if isinstance(error, ConformanceError):
        return isinstance(error.__cause__, ConformanceError)  # it has the name of the plugin already
    if isinstance(error, SkyrlError):
        # A plugin may define one, too, but not with the exit code of a success or a message that cannot be shown.
        code = vars(error).get("exit_code", type(error).exit_code)
        return type(error).__str__ is SkyrlError.__str__ and isinstance(code, int) and 0 < code < 256
    return isinstance(error, KeyboardInterrupt)


def _chain(error: BaseException, outer: BaseException | None) -> Iterator[BaseException]:
    """The exceptions that led to this one, without those that were being handled before the call."""
    for _ in range(_MAX_CHAIN):
        earlier = error.__cause__ or error.__context__
        if earlier is None or earlier is outer:
            return
        yield earlier
        error = earlier


def _frames(traceback: TracebackType | None) -> Iterator[tuple[str, str]]:
    while traceback is not None:
        code = traceback.tb_frame.f_code
        place = f"{code.co_filename}:{traceback.tb_lineno}, in {code.co_name}"
        yield str(traceback.tb_frame.f_globals.get("__name__", "")), shortened(place, MAX_TEXT)
        traceback = traceback.tb_next


def _package(module: str) -> str:
    return module.partition(".")[0]


def _remedy(error: BaseException) -> str:
    """How to repair a failure whose kind is known; empty for any other."""
    names = {kind.__name__ for kind in type(error).__mro__}
    text = error_text(error)
    if "OutOfMemoryError" in names or isinstance(error, MemoryError) or "out of memory" in text:
        return "it ran out of memory: lower trainer.micro_batch_size, or make the loss keep fewer tensors"
    if "AcceleratorError" in names or "CUDA error" in text:
        return "the device reports errors late: set CUDA_LAUNCH_BLOCKING=1 and run again to find the line that failed"
    if isinstance(error, SystemExit):
        return "raise an exception there instead of exiting the process"
    return ""

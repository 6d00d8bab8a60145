"""Every error that a user can cause, with its exit code. A message says what, where, why and what to do."""

import reprlib
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple


class SkyrlError(Exception):
    """Base of the errors that end a command without a traceback."""

    exit_code = 2


class UnknownPluginError(SkyrlError):
    """No installed or registered plugin has this name."""


class PluginConflictError(SkyrlError):
    """Two distributions claim the name, or policy denies it, or it needs another version of the contract."""

    exit_code = 3


class ParamProblem(NamedTuple):
    """One thing that is wrong with a parameter or an option."""

    path: str
    """Dotted key path; empty where the values as a whole are wrong."""
    value: Any
    """As it was given; None where it was not."""
    rule: str
    """What the schema demands."""
    nearest: str | None = None
    """The known name that is most like an unknown one."""

    def __str__(self) -> str:
        given = f"{self.path} = {reprlib.repr(self.value)}" if self.path else reprlib.repr(self.value)
        return f"{given}: {self.rule}" + (f"; did you mean {self.nearest!r}?" if self.nearest else "")


class InvalidParamsError(SkyrlError):
    """Parameters or configuration do not fit their schema; ``problems`` has every one of them."""

    exit_code = 4

    def __init__(self, message: str, problems: Sequence[ParamProblem] = ()) -> None:
        super().__init__("\n".join([message, *(f"  {problem}" for problem in problems)]))
        self.problems = tuple(problems)


class PluginLoadError(SkyrlError):
    """The selected plugin could not be imported or is not what its entry point promises."""

    exit_code = 5


class ConformanceError(SkyrlError):
    """The loss breaks a rule of the contract."""

    exit_code = 6


class MissingInputError(SkyrlError):
    """A loss declares an input that the caller did not give."""

    def __init__(self, name: str) -> None:
        super().__init__(f"the loss declares {name} in `needs`, but it was not given: pass {name}=")


class UndeclaredInputError(SkyrlError):
    """A loss reads an input that it did not declare."""

    def __init__(self, name: str) -> None:
        super().__init__(
            f"the loss read batch.{name} without declaring it: add Need.{name.upper()} to the set that `needs` returns"
        )


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The known name that is most like an unknown one, in any case, dashed or not; None if none is alike."""
    from difflib import get_close_matches  # costs a millisecond, which a listing need not pay

    by_folded = {each.lower().replace("-", "_"): each for each in known}
    matches = get_close_matches(name.lower().replace("-", "_"), by_folded, n=1)
    return by_folded[matches[0]] if matches else None


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """The end of a sentence about an unknown name: the nearest known one, or nothing."""
    match = nearest(name, known)
    return f"; did you mean {match!r}?" if match else ""

"""The errors that a user can cause. A message names what failed, where, why, and the fix."""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from skyrl_core.printable_text import message_text
from skyrl_core.value_text import show_value

MOST_LISTED = 50
"""Problems that one message lists."""


class SkyrlError(Exception):
    """Base class of errors that end a command without a traceback. Its text is printable, whatever it quotes."""

    exit_code = 2

    def __str__(self) -> str:
        return message_text(super().__str__())


class UnknownPluginError(SkyrlError):
    """No installed or registered plugin has this name."""


class PluginConflictError(SkyrlError):
    """Two distributions claim the name, the plugin policy denies it, or it needs another contract version."""

    exit_code = 3


class ParamProblem(NamedTuple):
    """One problem with a parameter or an option."""

    path: str
    """Dotted key path; empty if the problem is in the combination of values."""
    value: Any
    """The given value; None if it is missing."""
    rule: str
    """The requirement that the value breaks."""
    nearest: str | None = None
    """For an unknown name, the known name most similar to it."""

    def __str__(self) -> str:
        shown = show_value(self.value, self.path)
        given = f"{self.path} = {shown}" if self.path else shown
        return f"{given}: {self.rule}" + (f"; did you mean {self.nearest!r}?" if self.nearest else "")


class InvalidParamsError(SkyrlError):
    """Parameters or configuration do not match their schema; ``problems`` lists every problem."""

    exit_code = 4

    def __init__(self, message: str, problems: Sequence[ParamProblem] = ()) -> None:
        super().__init__("\n".join([message, *listed(problems)]))
        self.problems = tuple(problems)


class PluginError(SkyrlError):
    """Code of a plugin failed. The exception that it raised is the ``__cause__``."""

    exit_code = 5


class PluginLoadError(PluginError):
    """The selected plugin could not be imported or is not what its entry point promises."""


class ConformanceError(SkyrlError):
    """The loss breaks a rule of the contract."""

    exit_code = 6


class MissingInputError(SkyrlError):
    """A loss declares an input that the caller did not pass."""

    def __init__(self, name: str) -> None:
        super().__init__(f"the loss declares {name} in `needs`, but the caller did not pass it: pass {name}=")


class UndeclaredInputError(ConformanceError):
    """A loss reads an input that it did not declare."""

    def __init__(self, name: str) -> None:
        super().__init__(
            f"the loss read batch.{name} without declaring it: add Need.{name.upper()} to the set that `needs` returns"
        )


def listed(problems: Sequence[object]) -> list[str]:
    """A line for each of the first problems, and one that counts the others."""
    others = len(problems) - MOST_LISTED
    lines = [f"  {problem}" for problem in problems[:MOST_LISTED]]
    return [*lines, f"  and {others:,} more"] if others > 0 else lines


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The known name most similar to an unknown one, ignoring case and dashes; None if none is close."""
    from difflib import get_close_matches  # takes a millisecond that a listing does not need

    by_folded = {each.lower().replace("-", "_"): each for each in known}
    matches = get_close_matches(name.lower().replace("-", "_"), by_folded, n=1)
    return by_folded[matches[0]] if matches else None


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """The suggestion to append to an error about an unknown name; empty if no known name is close."""
    match = nearest(name, known)
    return f"; did you mean {match!r}?" if match else ""

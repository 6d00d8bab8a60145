"""Problems of a configuration, and the error that lists them all."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from skyrl_core.discovery import shortened
from skyrl_core.errors import InvalidParamsError, PluginConflictError, SkyrlError, UnknownPluginError, listed
from skyrl_core.redaction import redact_arguments
from skyrl_core.value_text import public
from skyrl_train.config.yaml_text import inline_yaml

NO_VALUE: Any = object()
"""The value of a problem that has no value to show."""
LONGEST_KEY = 200
"""In terminal cells; a malformed override is shown as the key."""


@dataclass(frozen=True, kw_only=True)
class Problem:
    """An option whose value breaks a rule."""

    key: str  # dotted
    rule: str  # the rule, and how to fix it
    value: Any = NO_VALUE
    origin: str = "default"  # file:line, or `command line`
    error: type[SkyrlError] = InvalidParamsError  # raised if this is the only problem
    cause: SkyrlError | None = None  # has the traceback of a plugin

    def __str__(self) -> str:
        value = "" if self.value is NO_VALUE else f" = {inline_yaml(public(self.value, self.key))}"
        rule = self.rule.replace("\n", "\n      ")
        (key,) = redact_arguments([self.key])  # an override that cannot be read is reported complete
        return f"{self.origin}  {shortened(key, LONGEST_KEY, escape=True)}{value}: {rule}"


def raise_problems(problems: Sequence[Problem], title: str) -> None:
    """Raise one error that lists all problems under the title; return if there are none.

    Raises:
        UnknownPluginError: every problem is an unknown name.
        PluginConflictError: every problem is a name that two distributions claim, or that the plugin policy denies.
        InvalidParamsError: any other problem, or problems of different kinds.
    """
    if not problems:
        return
    kinds = {problem.error for problem in problems}
    kind = kinds.pop() if len(kinds) == 1 else InvalidParamsError
    count = "1 problem" if len(problems) == 1 else f"{len(problems):,} problems"
    ordered = sorted(problems, key=lambda problem: _position(problem.origin))
    cause = next((problem.cause for problem in problems if problem.cause is not None), None)
    raise kind("\n".join([f"{title}, {count}:", *listed(ordered)])) from cause


def _position(origin: str) -> tuple[str, int]:
    """Sort key of a problem: file and line; origins without a line come first."""
    file, _, line = origin.rpartition(":")
    return (file, int(line)) if line.isdigit() else ("", 0)


def kind_of(error: SkyrlError) -> type[SkyrlError]:
    """The error class under which an error during validation is reported."""
    known = (UnknownPluginError, PluginConflictError, InvalidParamsError)
    return next((kind for kind in known if isinstance(error, kind)), type(error))

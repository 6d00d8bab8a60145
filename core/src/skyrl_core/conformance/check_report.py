"""What came of checking a loss against the rules."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from skyrl_core.errors import ConformanceError

_LOGGER = logging.getLogger("skyrl_core.conformance")


@dataclass(frozen=True, kw_only=True)
class RuleResult:
    """One rule, kept or broken."""

    rule: str
    explanation: str
    passed: bool
    failure: str | None = None  # what was found, with numbers
    remedy: str | None = None  # what to change
    notes: tuple[str, ...] = ()  # true, not wrong, and worth knowing
    input: Mapping[str, Any] = field(default_factory=dict)  # the smallest failing input, tensors as lists
    waived: str | None = None  # why it is broken on purpose

    def lines(self) -> list[str]:
        """What was found and what to change, for people."""
        tensors = [f"{name} = {values}" for name, values in self.input.items()]
        return [
            f"{self.rule}: {self.explanation}",
            f"  found:  {self.failure}",
            *(f"  {'input:' if first else '      '}  {tensor}" for first, tensor in _with_first(tensors)),
            f"  change: {self.remedy}",
        ]


@dataclass(frozen=True, kw_only=True)
class Report:
    """The results of all rules that ran, in order."""

    loss_name: str
    kind: str = "loss"  # or "package", whose name it then is
    results: tuple[RuleResult, ...]
    skipped: tuple[str, ...] = ()  # rules that mean nothing before an earlier one holds

    @property
    def passed(self) -> bool:
        """Whether every rule holds, those aside that are broken on purpose."""
        return not self.failures

    @property
    def failures(self) -> tuple[RuleResult, ...]:
        """The broken rules without a waiver."""
        return tuple(result for result in self.results if not result.passed and result.waived is None)

    @property
    def waived(self) -> tuple[RuleResult, ...]:
        """The broken rules with a waiver."""
        return tuple(result for result in self.results if result.waived is not None)

    def raise_for_failures(self) -> None:
        """Do nothing if every rule holds, but say which ones are waived, in the log.

        Raises:
            ConformanceError: names each broken rule, what was found and what to change.
        """
        for result in self.waived:
            _LOGGER.warning(
                "%s %r breaks rule %s on purpose: %s", self.kind, self.loss_name, result.rule, result.waived
            )
        if self.passed:
            return
        total = len(self.results) + len(self.skipped)
        lines = [f"{self.kind} {self.loss_name!r} breaks {len(self.failures)} of {total} rules of the loss contract"]
        lines += [f"  {line}" for result in self.failures for line in result.lines()]
        if self.skipped:
            lines.append(f"  not checked until then: {', '.join(self.skipped)}")
        raise ConformanceError("\n".join(lines))


def _with_first(items: Sequence[str]) -> list[tuple[bool, str]]:
    return [(position == 0, item) for position, item in enumerate(items)]

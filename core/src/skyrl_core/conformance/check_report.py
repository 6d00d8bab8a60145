"""The report of a conformance check: one result per rule."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from html import escape
from typing import Any, Self

from skyrl_core.conformance.rule import BaseRule, Violation
from skyrl_core.errors import ConformanceError

_LOGGER = logging.getLogger("skyrl_core.conformance")
_CELL = '<td style="text-align:left;vertical-align:top">{}</td>'


@dataclass(frozen=True, kw_only=True)
class RuleResult:
    """The result of one rule."""

    rule: str
    explanation: str
    passed: bool
    failure: str | None = None  # what was found, with numbers
    remedy: str | None = None  # what to change
    notes: tuple[str, ...] = ()  # not wrong, but worth knowing
    input: Mapping[str, Any] = field(default_factory=dict)  # the smallest failing input, tensors as lists
    waived: str | None = None  # why it is broken on purpose

    @classmethod
    def broken(cls, rule: BaseRule, violation: Violation, shown: Mapping[str, Any] | None = None) -> Self:
        """Return the result of a broken rule, with the input that shows the violation."""
        return cls(
            rule=rule.name,
            explanation=rule.explanation,
            passed=False,
            failure=violation.found,
            remedy=violation.remedy or rule.remedy,
            input=shown or {},
        )

    @property
    def mark(self) -> str:
        """``ok``, ``FAIL`` or ``waive``."""
        return "waive" if self.waived is not None else "ok" if self.passed else "FAIL"

    def details(self) -> list[tuple[str, str]]:
        """What was found, and what to change, as pairs of a label and a text."""
        pairs = [("waived", self.waived), ("found", self.failure)]
        pairs += [("input", f"{name} = {values}") for name, values in self.input.items()]
        pairs += [("fix", self.remedy), *(("note", note) for note in self.notes)]
        return [(label, text) for label, text in pairs if text]

    def lines(self) -> list[str]:
        """Format what was found and what to change."""
        tensors = [f"{name} = {values}" for name, values in self.input.items()]
        return [
            f"{self.rule}: {self.explanation}",
            f"  found:  {self.failure}",
            *(f"  {'      ' if index else 'input:'}  {tensor}" for index, tensor in enumerate(tensors)),
            f"  fix:    {self.remedy}",
        ]


@dataclass(frozen=True, kw_only=True)
class Report:
    """The results of all rules that ran, in order."""

    loss_name: str
    kind: str = "loss"  # or "package"; then loss_name is its distribution
    results: tuple[RuleResult, ...]
    skipped: tuple[str, ...] = ()  # rules that depend on an earlier one that is broken

    @property
    def passed(self) -> bool:
        """Whether every rule holds or is waived."""
        return not self.failures

    @property
    def failures(self) -> tuple[RuleResult, ...]:
        """The broken rules that are not waived."""
        return tuple(result for result in self.results if not result.passed and result.waived is None)

    @property
    def waived(self) -> tuple[RuleResult, ...]:
        """The broken rules that are waived."""
        return tuple(result for result in self.results if result.waived is not None)

    @property
    def notes(self) -> tuple[str, ...]:
        """What the rules found that is not wrong but worth knowing."""
        return tuple(dict.fromkeys(note for result in self.results for note in result.notes))

    @property
    def verdict(self) -> str:
        """One sentence without its subject, such as "passes all 18 rules"."""
        total = len(self.results) + len(self.skipped)
        if not self.passed:
            return f"breaks {len(self.failures)} of {total} rules"
        waived = f" and waives {len(self.waived)}" if self.waived else ""
        return f"passes {total - len(self.waived)} rules{waived}"

    def __str__(self) -> str:
        """The verdict, then a line for each rule, with what was found and what to change."""
        lines = [f"{self.kind} {self.loss_name!r} {self.verdict}"]
        for result in self.results:
            lines.append(f"  {result.mark:<6}{result.rule}: {result.explanation}")
            lines += [f"        {name}: {text}" for name, text in result.details()]
        lines += [f"  {'-':<6}{rule}: not checked until the rules above hold" for rule in self.skipped]
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        """The same as a table, which Jupyter shows."""
        rows = []
        for result in self.results:
            details = "".join(f"<br><b>{name}</b>: {escape(text)}" for name, text in result.details())
            colour = "#b00020" if result.mark == "FAIL" else "inherit"
            cells = (result.mark, result.rule, escape(result.explanation) + details)
            rows.append(f'<tr style="color:{colour}">' + "".join(map(_CELL.format, cells)) + "</tr>")
        rows += [f"<tr>{''.join(map(_CELL.format, ('-', rule, 'not checked')))}</tr>" for rule in self.skipped]
        title = escape(f"{self.kind} {self.loss_name!r} {self.verdict}")
        return f"<table><caption>{title}</caption>{''.join(rows)}</table>"

    def raise_for_failures(self) -> None:
        """Raise an error if a rule is broken; log a warning for every waived rule.

        Raises:
            ConformanceError: lists each broken rule, what was found and what to change.
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
            lines.append(f"  not checked until these rules hold: {', '.join(self.skipped)}")
        raise ConformanceError("\n".join(lines))

"""Waivers: the rules that a loss breaks on purpose, each with the reason."""

from collections.abc import Iterable, Mapping
from dataclasses import replace

from skyrl_core.conformance.check_report import RuleResult
from skyrl_core.conformance.rule import BaseRule
from skyrl_core.contract.policy_loss import PolicyLoss
from skyrl_core.errors import SkyrlError, did_you_mean

ATTRIBUTE = "conformance_waivers"
"""The attribute of a loss that maps rule names to reasons; every check honours it and prints it.

Make it a property if the parameters decide whether a rule is broken.
"""


class WaiverError(SkyrlError, ValueError):
    """A waiver names an unknown rule, has no reason, or waives a rule that cannot be waived."""


def waivers_of(loss: PolicyLoss, more: Mapping[str, str] | None) -> dict[str, str]:
    """Merge the waivers that the loss declares with these, which take precedence."""
    return {**getattr(loss, ATTRIBUTE, {}), **(more or {})}


def check_waivers(waivers: Mapping[str, str], rules: Iterable[BaseRule]) -> None:
    """Reject invalid waivers.

    Raises:
        WaiverError: a name is not a rule, or of a rule that cannot be waived, or a reason is empty.
    """
    waivable = {rule.name: rule.waivable for rule in rules}
    for name, reason in waivers.items():
        if name not in waivable:
            raise WaiverError(f"waiver for {name!r}: no such rule{did_you_mean(name, waivable)}")
        if not waivable[name]:
            raise WaiverError(f"waiver for {name!r}: it cannot be waived, because every later rule depends on it")
        if not isinstance(reason, str) or not reason.strip():
            raise WaiverError(f"waiver for {name!r}: give the reason, for everyone who trains with the loss")


def apply_waiver(result: RuleResult, reason: str | None, *, strict: bool) -> RuleResult:
    """Apply a waiver to a result, if a reason is given; if strict, waiving a rule that holds is a failure."""
    if reason is None:
        return result
    if not result.passed:
        return replace(result, waived=reason)
    if not strict:
        return result
    return replace(
        result,
        passed=False,
        failure=f"the rule holds, but is waived because {reason!r}",
        remedy="remove the waiver, so that the rule is checked from now on",
    )

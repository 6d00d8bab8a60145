"""A rule of the contract, and the exception with which its check reports a violation."""

from collections.abc import Callable
from dataclasses import dataclass

from skyrl_core.conformance.batches import ExampleBatch
from skyrl_core.contract.policy_loss import PolicyLoss


@dataclass(frozen=True, kw_only=True)
class BaseRule:
    """The description of a rule, for losses and for packages."""

    name: str
    explanation: str  # what always holds, in one line
    remedy: str  # what to change when it does not hold
    counterexample: str  # code that breaks it
    gate: bool = False  # if it fails, every later rule would fail for the same reason and is skipped
    waivable: bool = True


@dataclass(frozen=True, kw_only=True)
class Rule(BaseRule):
    """One guarantee that a loss gives to everyone who trains with it."""

    check: Callable[[PolicyLoss, ExampleBatch], list[str]]  # returns notes, raises Violation
    requires: tuple[str, ...] = ()  # earlier rules; if one fails, this rule would fail for the same reason
    quick: bool = True  # also checked before the first step of every run


class Violation(Exception):
    """A rule is broken. The message contains the numbers."""

    def __init__(self, found: str, *, remedy: str | None = None, batch: ExampleBatch | None = None) -> None:
        super().__init__(found)
        self.found = found
        self.remedy = remedy  # replaces the remedy of the rule
        self.batch = batch  # the input that shows it; None if no tensor matters

"""What a rule of the contract is, and how a check says that it is broken."""

from collections.abc import Callable
from dataclasses import dataclass

from skyrl_core.conformance.batches import ExampleBatch
from skyrl_core.contract.policy_loss import PolicyLoss


@dataclass(frozen=True, kw_only=True)
class Rule:
    """One promise of a loss to whoever trains with it."""

    name: str
    explanation: str  # what always holds, in one line
    remedy: str  # what to change when it does not
    breaks: str  # an example of what breaks it
    check: Callable[[PolicyLoss, ExampleBatch], list[str]]  # returns notes, raises Violation
    gate: bool = False  # where it fails, all later rules would only repeat it
    requires: tuple[str, ...] = ()  # earlier rules; where one fails, this one would only repeat it
    quick: bool = True  # also checked before the first step of every run


class Violation(Exception):
    """A rule is broken. The message has the numbers."""

    def __init__(self, found: str, *, remedy: str | None = None, batch: ExampleBatch | None = None) -> None:
        super().__init__(found)
        self.found = found
        self.remedy = remedy  # replaces that of the rule
        self.batch = batch  # on which it was found; None where no tensor matters

"""Rules that a loss breaks on purpose: which, and why."""

from collections.abc import Iterable, Mapping

from skyrl_core.contract.policy_loss import PolicyLoss
from skyrl_core.errors import SkyrlError, did_you_mean

ATTRIBUTE = "conformance_waivers"
"""Of a loss: a mapping of rule names to reasons. It is honoured, and shown, wherever the loss is checked.

A property, where it depends on the parameters whether a rule is broken.
"""


class WaiverError(SkyrlError, ValueError):
    """A waiver names no rule, has no reason, or waives what cannot be waived."""


def waivers_of(loss: PolicyLoss, more: Mapping[str, str] | None) -> dict[str, str]:
    """The waivers that the loss declares, and these."""
    return {**getattr(loss, ATTRIBUTE, {}), **(more or {})}


def check_waivers(waivers: Mapping[str, str], known: Iterable[str], gates: Iterable[str] = ()) -> None:
    """Refuse what excuses nothing.

    Raises:
        WaiverError: a name is no rule or is that of a gate, or a reason is empty.
    """
    known, gates = list(known), set(gates)
    for name, reason in waivers.items():
        if name not in known:
            raise WaiverError(f"waiver for {name!r}: there is no such rule{did_you_mean(name, known)}")
        if name in gates:
            raise WaiverError(f"waiver for {name!r}: it cannot be waived, because no other rule means anything without")
        if not isinstance(reason, str) or not reason.strip():
            raise WaiverError(f"waiver for {name!r}: give the reason, in words, for whoever trains with the loss")

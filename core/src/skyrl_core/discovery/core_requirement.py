"""Whether a distribution's requirement on skyrl-core is met, which an install with --no-deps does not check.

Compares release numbers alone, which is what bounds such as ``>=0.1,<0.2`` are made of. Pip is the judge of the rest:
markers, addresses, pre-releases, nonsense.
"""

import re
from collections.abc import Iterable

_REQUIREMENT = re.compile(r"\s*skyrl[-_.]+core\s*(\[[^\]]*\])?\s*\(?(?P<bounds>[^;()\[\]]*)\)?\s*", re.IGNORECASE)
_RELEASE = re.compile(r"[0-9]{1,18}(?:\.[0-9]{1,18})*")
_BOUND = re.compile(rf"\s*(?P<operator>>=|<=|==|!=|~=|>|<)\s*(?P<version>{_RELEASE.pattern})(?P<prefix>\.\*)?\s*")


def unmet_core_requirement(requirements: Iterable[str], installed: str) -> str:
    """The bounds on skyrl-core that the installed version does not meet, such as ``>=0.2``; empty when all are met."""
    for requirement in requirements:
        match = _REQUIREMENT.fullmatch(requirement)  # a requirement with an environment marker does not match
        if match and not all(_meets(installed, bound) for bound in match["bounds"].split(",")):
            return match["bounds"].strip()
    return ""


def _meets(installed: str, bound: str) -> bool:
    match, release = _BOUND.fullmatch(bound), _RELEASE.match(installed)
    if not match or not release:
        return True
    ours, theirs = _numbers(release[0]), _numbers(match["version"])
    width = max(len(ours), len(theirs))
    left, right = ours + (0,) * (width - len(ours)), theirs + (0,) * (width - len(theirs))
    same = ours[: len(theirs)] == theirs if match["prefix"] else left == right
    return {
        ">=": left >= right,
        "<=": left <= right,
        ">": left > right,
        "<": left < right,
        "==": same,
        "!=": not same,
        "~=": left >= right and ours[: len(theirs) - 1] == theirs[:-1],
    }[match["operator"]]


def _numbers(release: str) -> tuple[int, ...]:
    return tuple(int(number) for number in release.split("."))

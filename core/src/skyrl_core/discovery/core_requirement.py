"""Checks requirements on skyrl-core, which `pip install --no-deps` does not.

Judges version bounds only; a requirement with a marker, a URL or bad syntax counts as met, and pip checks it.
"""

import re
from collections.abc import Iterable

# packaging.requirements would parse this too, but importing it takes 20 ms, a third of a listing's time.
_REQUIREMENT = re.compile(r"\s*skyrl[-_.]+core\s*(?:\[[^\]]*\])?\s*\(?(?P<bounds>[^;@()\[\]]*)\)?\s*", re.IGNORECASE)


def unmet_core_requirement(requirements: Iterable[str], installed: str) -> str:
    """The bounds on skyrl-core that the installed version does not meet, such as ``>=0.2``; or empty."""
    for requirement in requirements:
        match = _REQUIREMENT.fullmatch(requirement)
        if match and not _is_met(match["bounds"], installed):
            return match["bounds"].strip()
    return ""


def _is_met(bounds: str, installed: str) -> bool:
    from packaging.specifiers import SpecifierSet  # a listing without plugins does not need it

    try:
        return SpecifierSet(bounds).contains(installed, prereleases=True)
    except ValueError:
        return True

"""The listing of losses: a line for each, in two groups, or each in full."""

from collections.abc import Iterator, Sequence

from skyrl_core.cli.colour import Style, Styled
from skyrl_core.cli.table import indented, painted, render_table
from skyrl_core.discovery.installed import fold
from skyrl_core.discovery.plugin_group import Claim

CORE = "skyrl-core"
STYLES: dict[str, Style] = {
    "ok": "green",
    "untyped": "yellow",
    "conflict": "red",
    "denied": "yellow",
    "incompatible": "red",
    "broken": "red",
}


def by_group(claims: Sequence[Claim], width: int | None) -> list[str]:
    """A line for each claim: first those of installed packages, then the built-in ones.

    A status other than ok is in front of the summary, and its reason is below the row.
    """
    core = [claim for claim in claims if fold(claim.distribution) == CORE]
    others = [claim for claim in claims if fold(claim.distribution) != CORE]
    lines: list[str] = []
    if others:
        rows = [[_name(each), f"{each.distribution} {each.version}".strip(), *_end(each)] for each in others]
        lines += [*_table(("INSTALLED", "PACKAGE"), rows, others, width), ""]
    if core:
        rows = [[_name(each), *_end(each)] for each in core]
        lines += [*_table(("BUILT IN",), rows, core, width), ""]
    return lines[:-1]


def in_full(claims: Sequence[Claim], width: int | None) -> list[str]:
    """Each claim with its complete summary, its reason and its class."""
    return [line for claim in claims for line in _paragraph(claim, width)]


def _paragraph(claim: Claim, width: int | None) -> Iterator[str]:
    yield "  ".join([painted(_name(claim)), claim.version or "-", claim.distribution, painted(status_cell(claim))])
    for text in (claim.summary, claim.reason, claim.value):
        yield from indented(text, width)


def status_cell(claim: Claim) -> Styled:
    """The status in its colour."""
    return Styled(claim.status, STYLES[claim.status])


def _name(claim: Claim) -> Styled:
    return Styled(claim.name, "cyan" if claim.status in ("ok", "untyped") else STYLES[claim.status])


def _end(claim: Claim) -> tuple[str, str]:
    return ("" if claim.status == "ok" else status_cell(claim)), claim.summary


def _table(titles: Sequence[str], rows: list[list[str]], claims: Sequence[Claim], width: int | None) -> list[str]:
    header = [*titles, "STATUS", "SUMMARY"]
    if all(claim.status == "ok" for claim in claims):
        header.remove("STATUS")
        for row in rows:
            del row[-2]
    return render_table(header, rows, [claim.reason for claim in claims], width)

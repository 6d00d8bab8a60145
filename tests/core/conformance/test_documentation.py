"""docs/conformance.md quotes the rules verbatim."""

from pathlib import Path

from skyrl_core.conformance import RULES
from skyrl_core.conformance.package.package_check import ALL_PACKAGE_RULES

DOCUMENT = Path(__file__).parents[3] / "docs" / "conformance.md"


def documented() -> list[list[str]]:
    lines = DOCUMENT.read_text(encoding="utf-8").splitlines()
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines if line.startswith("| `")]


def test_every_rule_is_quoted_in_the_document() -> None:
    rules = [[f"`{rule.name}`", rule.explanation, rule.counterexample] for rule in (*RULES, *ALL_PACKAGE_RULES)]
    assert [row[:3] for row in documented()] == rules


def test_the_document_marks_the_rules_that_run_before_training() -> None:
    quick = [row[0] for row in documented() if row[3:] == ["yes"]]
    assert quick == [f"`{rule.name}`" for rule in RULES if rule.quick]

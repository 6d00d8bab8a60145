"""Test functions with one case per rule, so that a broken rule is one failed test with the message of the rule."""

from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

import pytest

from skyrl_core.conformance.check_report import Report
from skyrl_core.conformance.loss_check import check_policy_loss
from skyrl_core.conformance.package.package_check import ALL_PACKAGE_RULES, PackageReport, check_loss_package
from skyrl_core.conformance.package.project import read_project
from skyrl_core.conformance.rules import RULES
from skyrl_core.conformance.waivers import check_waivers, waivers_of
from skyrl_core.contract.policy_loss import PolicyLoss

RuleTest = Callable[..., None]
"""A test function that pytest collects once per rule."""

_Cases = Sequence[tuple[str, str, Callable[[], Report]]]


def policy_loss_tests(*losses: PolicyLoss, waive: Mapping[str, str] | None = None) -> RuleTest:
    """Make a test for every rule and every loss; assign it to a name that starts with ``test_``.

    Args:
        losses: instances with the parameters to test, in either form.
        waive: rules that the losses break on purpose, with the reason. Such a test is expected to fail: if the rule
            holds, that is a failure. Prefer ``conformance_waivers`` in the class, which training honours too.

    Raises:
        ValueError: no loss was passed.
        WaiverError: a waiver names an unknown rule, or gives no reason.
    """
    if not losses:
        raise ValueError("policy_loss_tests got no loss; pass instances, such as FooLoss(FooParams())")
    cases: list[tuple[str, str, Callable[[], Report]]] = []
    for loss in losses:
        check_waivers(waivers_of(loss, waive), RULES)
        report = _on_demand(partial(check_policy_loss, loss, thorough=True, waive=waive))
        cases += [(_label(loss), rule.name, report) for rule in RULES]
    return _test(cases)


def loss_package_tests(folder: Path | str, params: Mapping[str, Any] | None = None) -> RuleTest:
    """Make a test for every rule of a package and of each of its losses; assign it to a name ``test_...``.

    Args:
        folder: the folder with the pyproject.toml, which also holds the waivers, in ``[tool.skyrl.waive]``.
        params: parameters for its losses; None uses their defaults.

    Raises:
        ProjectError: the folder has no readable pyproject.toml.
    """
    project = read_project(Path(folder))
    report = _on_demand(lambda: check_loss_package(folder, params))
    cases = [(project.name, rule.name, _on_demand(lambda: report().package)) for rule in ALL_PACKAGE_RULES]
    for position, name in enumerate(project.losses):
        of_loss = _on_demand(partial(_loss_report, report, position))
        cases += [(name, rule.name, of_loss) for rule in RULES]
    return _test(cases)


def _loss_report(report: Callable[[], PackageReport], position: int) -> Report:
    reports = report().losses
    if not reports:  # the package could not be imported, which another test reports
        return Report(loss_name="", results=(), skipped=tuple(rule.name for rule in RULES))
    return reports[position]


def _on_demand(check: Callable[[], Any]) -> Callable[[], Any]:
    # The check runs with its first test, not while tests are collected.
    return cache(check)


def _test(cases: _Cases) -> RuleTest:
    arguments = [pytest.param(rule, report, id=f"{name}-{rule}") for name, rule, report in cases]

    @pytest.mark.parametrize(("rule", "report"), arguments)
    def test(rule: str, report: Callable[[], Report]) -> None:
        __tracebackhide__ = True
        checked = report()
        if rule in checked.skipped:
            pytest.skip("not checked until the earlier rules hold")
        [result] = [result for result in checked.results if result.rule == rule]
        if result.waived is not None:
            pytest.xfail(f"waived: {result.waived}")
        if not result.passed:
            pytest.fail("\n".join(result.lines()), pytrace=False)

    return test


def _label(loss: PolicyLoss) -> str:
    params = ",".join(f"{name}={getattr(loss.params, name)}" for name in sorted(loss.params.model_fields_set))
    return f"{type(loss).__name__}{'-' if params else ''}{params}"

"""Test functions with one case for each rule. A broken rule is one failed test, with the rule's own message."""

from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

import pytest

from skyrl_core.conformance.check_report import Report
from skyrl_core.conformance.loss_check import RULES, check_policy_loss
from skyrl_core.conformance.package.package_check import ALL_PACKAGE_RULES, PackageReport, check_loss_package
from skyrl_core.conformance.package.project import read_project
from skyrl_core.conformance.waivers import check_waivers, waivers_of
from skyrl_core.contract.policy_loss import PolicyLoss

RuleTest = Callable[..., None]
"""A function that pytest collects once for every rule."""

_Cases = Sequence[tuple[str, str, Callable[[], Report]]]


def policy_loss_tests(*losses: PolicyLoss, waive: Mapping[str, str] | None = None) -> RuleTest:
    """A test for every rule and every loss; assign it to a name that starts with ``test_``.

    Args:
        losses: with the parameters to be tested, in either form.
        waive: rules that they break on purpose, with the reason: they are expected to fail, and a rule that holds after
            all is a failure. Better declared as ``conformance_waivers`` in the class, which training honours too.

    Raises:
        ValueError: there is no loss.
        WaiverError: a waiver names no rule, or gives no reason.
    """
    if not losses:
        raise ValueError("policy_loss_tests was given no loss: pass instances, such as FooLoss(FooParams())")
    cases: list[tuple[str, str, Callable[[], Report]]] = []
    for loss in losses:
        check_waivers(waivers_of(loss, waive), [rule.name for rule in RULES], [r.name for r in RULES if r.gate])
        report = _once(partial(check_policy_loss, loss, thorough=True, waive=waive))
        cases += [(_label(loss), rule.name, report) for rule in RULES]
    return _test(cases)


def loss_package_tests(folder: Path | str, params: Mapping[str, Any] | None = None) -> RuleTest:
    """A test for every rule of a package, and for every rule of each of its losses; assign it to a ``test_`` name.

    Args:
        folder: where its pyproject.toml is, which also holds its waivers, in ``[tool.skyrl.waive]``.
        params: of its losses; by default, their defaults.

    Raises:
        ProjectError: there is no readable pyproject.toml.
    """
    project = read_project(Path(folder))
    report = _once(lambda: check_loss_package(folder, params))
    cases = [(project.name, rule.name, _once(lambda: report().package)) for rule in ALL_PACKAGE_RULES]
    for position, name in enumerate(project.losses):
        of_loss = _once(partial(_loss_report, report, position))
        cases += [(name, rule.name, of_loss) for rule in RULES]
    return _test(cases)


def _loss_report(report: Callable[[], PackageReport], position: int) -> Report:
    reports = report().losses
    if not reports:  # the package could not be imported, which a test of its own says
        return Report(loss_name="", results=(), skipped=tuple(rule.name for rule in RULES))
    return reports[position]


def _once(check: Callable[[], Any]) -> Callable[[], Any]:
    # Checked when the first test of it runs, not when tests are collected.
    return cache(check)


def _test(cases: _Cases) -> RuleTest:
    arguments = [pytest.param(rule, report, id=f"{name}-{rule}") for name, rule, report in cases]

    @pytest.mark.parametrize(("rule", "report"), arguments)
    def test(rule: str, report: Callable[[], Report]) -> None:
        __tracebackhide__ = True
        checked = report()
        if rule in checked.skipped:
            pytest.skip("not checked until the rules before it hold")
        [result] = [result for result in checked.results if result.rule == rule]
        if result.waived is not None:
            pytest.xfail(f"waived: {result.waived}")
        if not result.passed:
            pytest.fail("\n".join(result.lines()), pytrace=False)

    return test


def _label(loss: PolicyLoss) -> str:
    params = ",".join(f"{name}={getattr(loss.params, name)}" for name in sorted(loss.params.model_fields_set))
    return f"{type(loss).__name__}{'-' if params else ''}{params}"

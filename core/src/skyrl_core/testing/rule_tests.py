"""Test functions with one case per rule, so that a broken rule is one failed test with the message of the rule."""

from collections.abc import Callable, Iterator, Mapping, Sequence
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
from skyrl_core.discovery.plugin_call import Guard
from skyrl_core.discovery.plugin_class import construct
from skyrl_core.errors import SkyrlError
from skyrl_core.parameters.param_validation import validate_params

RuleTest = Callable[..., None]
"""A test function that pytest collects once per rule."""

_Outcome = Callable[[], Report | SkyrlError]
"""A check that runs with its first test, not while tests are collected: its report, or why there is none."""


def policy_loss_tests(
    *losses: PolicyLoss | type[PolicyLoss],
    params: Sequence[Mapping[str, Any]] = ({},),
    waive: Mapping[str, str] | None = None,
) -> RuleTest:
    """Make a test for every rule and every loss; assign it to a name that starts with ``test_``.

    Args:
        losses: classes or instances, in either form. A class is built when its first test runs, so parameters that it
            does not accept are a failed test, not an error during the collection of all tests.
        params: the parameters to test each class with, one mapping for each instance to build.
        waive: rules that the losses break on purpose, with the reason. Such a test is expected to fail: if the rule
            holds, that is a failure. Prefer ``conformance_waivers`` in the class, which training honours too.

    Raises:
        ValueError: no loss was passed.
        WaiverError: a waiver of an instance names an unknown rule, or gives no reason.
    """
    if not losses:
        raise ValueError("policy_loss_tests got no loss; pass a class, such as FooLoss, or instances")
    arguments = []
    for label, build in _builders(losses, params, waive):
        arguments += _cases(label, RULES, _on_demand(partial(_checked, build, waive)))
    return _test(arguments)


def loss_package_tests(folder: Path | str, params: Mapping[str, Any] | None = None) -> RuleTest:
    """Make a test for every rule of a package and of each of its losses; assign it to a name ``test_...``.

    Args:
        folder: the folder with the pyproject.toml, which also holds the waivers, in ``[tool.skyrl.waive]``.
        params: parameters for its losses; None uses their defaults.

    Raises:
        ProjectError: the folder has no readable pyproject.toml.
    """
    project = read_project(Path(folder))
    report = _on_demand(partial(check_loss_package, folder, params))
    arguments = _cases(project.name, ALL_PACKAGE_RULES, partial(_part, report, _package_report))
    for position, name in enumerate(project.losses):
        of_loss = partial(_part, report, partial(_loss_report, position))
        arguments += _cases(name, RULES, of_loss, needs_package=True)
    return _test(arguments)


def _builders(
    losses: Sequence[PolicyLoss | type[PolicyLoss]],
    params: Sequence[Mapping[str, Any]],
    waive: Mapping[str, str] | None,
) -> Iterator[tuple[str, Callable[[], PolicyLoss]]]:
    """The label of each loss to test, and a function that returns the loss."""
    for loss in losses:
        if isinstance(loss, PolicyLoss):
            check_waivers(waivers_of(loss, waive), RULES)
            given = {name: getattr(loss.params, name) for name in sorted(loss.params.model_fields_set)}
            yield _label(type(loss), given), partial(_same, loss)
        else:
            yield from ((_label(loss, values), partial(_built, loss, values)) for values in params)


def _same(loss: PolicyLoss) -> PolicyLoss:
    return loss


def _built(cls: type[PolicyLoss], params: Mapping[str, Any]) -> PolicyLoss:
    subject = f"policy_loss_tests({cls.__name__}, params=[{dict(params)}])"
    return construct(Guard(subject, cls.__module__), cls, validate_params(cls.Params, params, subject))


def _checked(build: Callable[[], PolicyLoss], waive: Mapping[str, str] | None) -> Report:
    return check_policy_loss(build(), thorough=True, waive=waive)


def _package_report(report: PackageReport) -> Report:
    return report.package


def _loss_report(position: int, report: PackageReport) -> Report:
    if not report.losses:  # the package could not be imported, which another test reports
        return Report(loss_name="", results=(), skipped=tuple(rule.name for rule in RULES))
    return report.losses[position]


def _on_demand(check: Callable[[], Any]) -> Callable[[], Any]:
    @cache
    def outcome() -> Any:
        try:
            return check()
        except SkyrlError as error:
            return error

    return outcome


def _part(outcome: Callable[[], PackageReport | SkyrlError], select: Callable[[PackageReport], Report]) -> Any:
    report = outcome()
    return report if isinstance(report, SkyrlError) else select(report)


def _cases(label: str, rules: Sequence[Any], outcome: _Outcome, *, needs_package: bool = False) -> list[Any]:
    """The arguments of one test for each rule; the first one reports an error that prevents all checks."""
    return [
        pytest.param(rule.name, outcome, not (position or needs_package), id=f"{label}-{rule.name}")
        for position, rule in enumerate(rules)
    ]


def _test(arguments: Sequence[Any]) -> RuleTest:
    @pytest.mark.parametrize(("rule", "outcome", "reports_error"), arguments)
    def test(rule: str, outcome: _Outcome, reports_error: bool) -> None:
        __tracebackhide__ = True
        checked = outcome()
        if isinstance(checked, SkyrlError):
            if reports_error:
                pytest.fail(str(checked), pytrace=False)
            pytest.skip("not checked, because the loss cannot be built")
        if rule in checked.skipped:
            pytest.skip("not checked until the earlier rules hold")
        [result] = [result for result in checked.results if result.rule == rule]
        if result.waived is not None:
            pytest.xfail(f"waived: {result.waived}")
        if not result.passed:
            pytest.fail("\n".join(result.lines()), pytrace=False)

    return test


def _label(cls: type[PolicyLoss], params: Mapping[str, Any]) -> str:
    given = ",".join(f"{name}={value}" for name, value in params.items())
    return f"{cls.__name__}{'-' if given else ''}{given}"

"""Checks a loss package in a folder: the rules of packages, and all rules for each of its losses."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from skyrl_core.conformance.check_report import Report, RuleResult
from skyrl_core.conformance.golden import check_golden, write_golden
from skyrl_core.conformance.loss_check import check_policy_loss
from skyrl_core.conformance.package.package_rules import PACKAGE_RULES, PackageRule, load_loss
from skyrl_core.conformance.package.project import LossProject, read_project
from skyrl_core.conformance.rule import Violation
from skyrl_core.conformance.waivers import apply_waiver, check_waivers
from skyrl_core.contract.policy_loss import PolicyLoss
from skyrl_core.discovery.plugin_call import Guard
from skyrl_core.discovery.plugin_class import construct
from skyrl_core.errors import ConformanceError
from skyrl_core.parameters.param_validation import validate_params

GOLDEN = PackageRule(
    name="golden",
    explanation="the numbers of a loss match tests/golden.json until its semantics_version changes",
    remedy="undo the change, or raise semantics_version and rewrite the file",
    counterexample="a new default, clip or epsilon under the same semantics_version",
    check=lambda _: [],  # check_loss_package runs the check, which needs instances of the losses
)
ALL_PACKAGE_RULES = (*PACKAGE_RULES, GOLDEN)


@dataclass(frozen=True, kw_only=True)
class PackageReport:
    """The report of a package and of each of its losses."""

    name: str
    package: Report
    losses: tuple[Report, ...]

    @property
    def reports(self) -> tuple[Report, ...]:
        """All reports: the package first, then each loss."""
        return (self.package, *self.losses)

    @property
    def passed(self) -> bool:
        """Whether every rule holds or is waived."""
        return all(report.passed for report in self.reports)

    def raise_for_failures(self) -> None:
        """Raise an error if a rule of the package or of one of its losses is broken.

        Raises:
            ConformanceError: lists each broken rule, what was found and what to change.
        """
        messages = []
        for report in self.reports:
            try:
                report.raise_for_failures()
            except ConformanceError as error:
                messages.append(str(error))
        if messages:
            raise ConformanceError("\n".join(messages))


def check_loss_package(
    folder: Path | str, params: Mapping[str, Any] | None = None, *, rewrite_golden: bool = False
) -> PackageReport:
    """Check the package in a folder. Nothing is installed; its code is imported into this process.

    Args:
        folder: the folder with the pyproject.toml.
        params: parameters for its losses; None uses their defaults.
        rewrite_golden: write tests/golden.json if all losses keep the rules.

    Raises:
        ProjectError: the folder has no readable pyproject.toml.
        InvalidParamsError: the parameters are not valid for a loss.
        PluginLoadError: the constructor of a loss fails.
        WaiverError: a waiver names an unknown rule, or gives no reason.
        ConformanceError: the numbers to write changed under the same semantics_version.
    """
    project = read_project(Path(folder))
    check_waivers(project.waivers, ALL_PACKAGE_RULES)
    with project.importable():
        results: list[RuleResult] = []
        for rule in PACKAGE_RULES:
            results.append(_result(rule, project, partial(rule.check, project)))
            if rule.gate and not results[-1].passed:
                skipped = tuple(later.name for later in ALL_PACKAGE_RULES[len(results) :])
                package = Report(kind="package", loss_name=project.name, results=tuple(results), skipped=skipped)
                return PackageReport(name=project.name, package=package, losses=())
        losses = {name: _instance(load_loss(project, name), params or {}, name) for name in project.losses}
        reports = tuple(check_policy_loss(loss, thorough=True) for loss in losses.values())
        if all(report.passed for report in reports):
            if rewrite_golden:
                write_golden(project.golden_file, losses)
            golden = partial(check_golden, project.golden_file, losses, are_defaults=not params)
            results.append(_result(GOLDEN, project, golden))
    skipped = tuple(rule.name for rule in ALL_PACKAGE_RULES[len(results) :])
    package = Report(kind="package", loss_name=project.name, results=tuple(results), skipped=skipped)
    return PackageReport(name=project.name, package=package, losses=reports)


def _instance(cls: type[PolicyLoss], params: Mapping[str, Any], name: str) -> PolicyLoss:
    subject = f"policy loss {name!r}"
    return construct(Guard(subject, cls.__module__), cls, validate_params(cls.Params, params, subject))


def _result(rule: PackageRule, project: LossProject, check: Callable[[], list[str]]) -> RuleResult:
    try:
        notes = check()
    except Violation as violation:
        result = RuleResult.broken(rule, violation)
    else:
        result = RuleResult(rule=rule.name, explanation=rule.explanation, passed=True, notes=tuple(notes))
    return apply_waiver(result, project.waivers.get(rule.name), strict=True)

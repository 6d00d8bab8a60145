"""Checks a loss package, as a folder: the package as a distribution, and each of its losses against all rules."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from skyrl_core.conformance.check_report import Report, RuleResult
from skyrl_core.conformance.golden import check_golden, write_golden
from skyrl_core.conformance.loss_check import check_policy_loss, waived
from skyrl_core.conformance.package.package_rules import PACKAGE_RULES, PackageRule, load_loss
from skyrl_core.conformance.package.project import LossProject, read_project
from skyrl_core.conformance.rules.rule import Violation
from skyrl_core.conformance.waivers import check_waivers
from skyrl_core.contract.policy_loss import PolicyLoss
from skyrl_core.errors import ConformanceError, PluginLoadError
from skyrl_core.parameters.param_validation import validate_params

GOLDEN = PackageRule(
    name="golden",
    explanation="the numbers of each loss are those in tests/golden.json, as long as its semantics_version is",
    remedy="undo the change, or raise semantics_version and write the file anew",
    breaks="another default, another clip, an epsilon more, under the same semantics_version",
    check=lambda _: [],  # needs instances of the losses: check_loss_package calls it
)
ALL_PACKAGE_RULES = (*PACKAGE_RULES, GOLDEN)


@dataclass(frozen=True, kw_only=True)
class PackageReport:
    """The results of the rules of the package, and a report of each of its losses."""

    name: str
    package: Report
    losses: tuple[Report, ...]

    @property
    def reports(self) -> tuple[Report, ...]:
        """Of the package, and of each loss."""
        return (self.package, *self.losses)

    @property
    def passed(self) -> bool:
        """Whether every rule holds, those aside that are broken on purpose."""
        return all(report.passed for report in self.reports)

    def raise_for_failures(self) -> None:
        """Do nothing if every rule holds.

        Raises:
            ConformanceError: names each broken rule of the package and of its losses.
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
    """Check a folder with a pyproject.toml. Nothing is installed; its code is imported into this process.

    Args:
        folder: of the package.
        params: of its losses; by default, their defaults.
        rewrite_golden: write tests/golden.json if all losses keep the rules.

    Raises:
        ProjectError: there is no readable pyproject.toml.
        InvalidParamsError: the parameters do not fit.
        PluginLoadError: a constructor fails.
        WaiverError: a waiver names no rule, or gives no reason.
        ConformanceError: the numbers to write differ from those in the file, under the same semantics_version.
    """
    project = read_project(Path(folder))
    gates = [rule.name for rule in ALL_PACKAGE_RULES if rule.gate]
    check_waivers(project.waivers, (rule.name for rule in ALL_PACKAGE_RULES), gates)
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
    checked = validate_params(cls.Params, params, f"policy loss {name!r}")
    try:
        return cls(checked)
    except Exception as error:
        why = f"{type(error).__name__}: {error}"
        raise PluginLoadError(f"policy loss {name!r} could not be constructed with {checked!r}: {why}") from error


def _result(rule: PackageRule, project: LossProject, check: Callable[[], list[str]]) -> RuleResult:
    try:
        notes = check()
    except Violation as violation:
        result = RuleResult(
            rule=rule.name,
            explanation=rule.explanation,
            passed=False,
            failure=violation.found,
            remedy=violation.remedy or rule.remedy,
        )
    else:
        result = RuleResult(rule=rule.name, explanation=rule.explanation, passed=True, notes=tuple(notes))
    return waived(result, project.waivers.get(rule.name), strict=True)

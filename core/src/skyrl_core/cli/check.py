"""`skyrl losses check`: checks a loss, or a package of losses, against every rule of the contract."""

from __future__ import annotations

import importlib
import os
import sys
from argparse import Namespace
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from skyrl_core.cli.assignments import params_of
from skyrl_core.cli.colour import paint
from skyrl_core.cli.json_output import print_json
from skyrl_core.cli.table import indented, terminal_width
from skyrl_core.errors import ConformanceError, PluginLoadError, SkyrlError
from skyrl_core.lookup import checked_path
from skyrl_core.registry.resolved_loss import ResolvedLoss

if TYPE_CHECKING:
    from skyrl_core.conformance.check_report import Report, RuleResult
    from skyrl_core.conformance.package.package_check import PackageReport  # the rules import torch
    from skyrl_core.contract.policy_loss import PolicyLoss

SCHEMA_VERSION = 1
INDENT = " " * 7


def run(arguments: Namespace) -> int:
    """Print the result of each rule; return 6 if one is broken."""
    target, params = arguments.name, params_of(arguments.param)
    if _is_folder(target):
        passed = _check_folder(checked_path(target), params, arguments)
    elif arguments.write_golden:
        raise SkyrlError(f"--write-golden writes into the folder of a package; pass a folder instead of {target!r}")
    else:
        passed = _check_loss(target, params, as_json=arguments.json)
    return 0 if passed else ConformanceError.exit_code


def _is_folder(target: str) -> bool:
    # If a folder has the name of a loss, NAME is the loss and ./NAME is the folder.
    return "/" in target or os.sep in target or target in (".", "..")


def _check_folder(folder: Path, params: Mapping[str, Any], arguments: Namespace) -> bool:
    from skyrl_core.conformance.package.package_check import check_loss_package

    report = check_loss_package(folder, params, rewrite_golden=arguments.write_golden)
    if arguments.json:
        print_json(SCHEMA_VERSION, _package_content(folder, report))
    else:
        for part in report.reports:
            print("\n".join([*_lines(part), "", f"{part.kind} {part.loss_name} {_verdict(part)}", ""]))
    return report.passed


def _check_loss(target: str, params: Mapping[str, Any], *, as_json: bool) -> bool:
    if _is_class(target):
        loss, name, distribution, about = _loss_of_class(target, params), target, None, ""
    else:
        resolved = ResolvedLoss.find(target, params)
        claim = resolved.claim
        loss, name, distribution = resolved.scheduled().loss, claim.name, claim.distribution
        about = f" ({distribution} {claim.version})"
    from skyrl_core.conformance import check_policy_loss  # imports torch, so parameters are checked before

    report = check_policy_loss(loss, thorough=True)
    if as_json:
        print_json(SCHEMA_VERSION, {"name": name, "distribution": distribution} | _content(report))
    else:
        print("\n".join([*_lines(report), "", f"{name}{about} {_verdict(report)}"]))
    return report.passed


def _is_class(target: str) -> bool:
    # distribution:name also has a colon, but the names of losses are in lower case.
    return ":" in target and not target.rpartition(":")[2].partition("@")[0].islower()


def _loss_of_class(target: str, params: Mapping[str, Any]) -> PolicyLoss:
    """Construct module:Class, which may be in the current folder.

    Raises:
        PluginLoadError: it cannot be imported or constructed, or is not a PolicyLoss.
        InvalidParamsError: the parameters are not valid.
    """
    from skyrl_core.contract.policy_loss import PolicyLoss
    from skyrl_core.discovery.plugin_call import Guard, PluginCall
    from skyrl_core.discovery.plugin_class import construct
    from skyrl_core.parameters.param_validation import validate_params

    module, _, attribute = target.partition(":")
    sys.path.insert(0, os.getcwd())
    guard = Guard(target, module)
    with PluginCall(guard, "could not be imported", kind=PluginLoadError):
        cls = getattr(importlib.import_module(module), attribute)
    if not (isinstance(cls, type) and issubclass(cls, PolicyLoss)):
        raise PluginLoadError(f"{target} is {cls!r}, not a subclass of PolicyLoss")
    return construct(guard, cls, validate_params(cls.Params, params, f"policy loss {target}"))


def _lines(report: Report) -> list[str]:
    lines = []
    for result in report.results:
        first, *rest = indented(f"{result.rule}: {result.explanation}", terminal_width(), INDENT)
        lines += [f"{_status(result)}  {first.strip()}", *rest, *_details(result)]
    skipped = [f"-      {rule}: not checked until the rules above hold" for rule in report.skipped]
    return [*lines, *(paint(line, "dim") for line in skipped)]


def _status(result: RuleResult) -> str:
    if result.waived is not None:
        return paint("waive", "yellow")
    return f"{paint('ok', 'green')}   " if result.passed else f"{paint('FAIL', 'red')} "


def _details(result: RuleResult) -> list[str]:
    details = [("waived: ", result.waived), ("found:  ", result.failure)]
    details += [("input:  ", f"{name} = {values}") for name, values in result.input.items()]
    details += [("fix:    ", result.remedy), *(("note:   ", note) for note in result.notes)]
    width = terminal_width()
    return [line for label, text in details if text for line in indented(label + text, width, INDENT)]


def _verdict(report: Report) -> str:
    total = len(report.results) + len(report.skipped)
    if not report.passed:
        return f"{paint('breaks', 'red')} {len(report.failures)} of {total} rules"
    if report.waived:
        waived = ", ".join(rule.rule for rule in report.waived)
        return f"{paint('keeps', 'green')} {total - len(report.waived)} of {total} rules; waived: {waived}"
    count = f"all {total}" if not report.skipped else f"{len(report.results)} of {total}"
    return f"{paint('keeps', 'green')} {count} rules"


def _content(report: Report) -> dict[str, Any]:
    rules = [asdict(result) for result in report.results]
    return {"passed": report.passed, "rules": rules, "skipped": list(report.skipped)}


def _package_content(folder: Path, report: PackageReport) -> dict[str, Any]:
    losses = [{"name": each.loss_name} | _content(each) for each in report.losses]
    about = {"folder": str(folder), "distribution": report.name, "passed": report.passed}
    return about | {"package": _content(report.package), "losses": losses}

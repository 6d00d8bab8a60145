"""`skyrl losses signature`: the signature of a policy loss as a chart, as SVG or as numbers."""

from __future__ import annotations

import json
import math
import sys
from argparse import Namespace
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from skyrl_core.cli.assignments import params_of
from skyrl_core.cli.table import indented, terminal_width
from skyrl_core.discovery.plugin_call import Guard, PluginCall
from skyrl_core.errors import ConformanceError, SkyrlError
from skyrl_core.parameters.schema_call import as_json_values
from skyrl_core.printable_text import printable
from skyrl_core.registry.resolved_loss import ResolvedLoss
from skyrl_core.signature.axis import number

if TYPE_CHECKING:
    from skyrl_core.contract.policy_loss import PolicyLoss  # these import torch
    from skyrl_core.signature.measure import Curve, Probe, Signature

SCHEMA_VERSION = 1
WIDTH = 80
_NARROWEST, _WIDEST = 48, 100


def run(arguments: Namespace) -> int:
    """Measure the signature, then print it or write it to a file."""
    resolved = ResolvedLoss.find(arguments.name, params_of(arguments.param))
    claim, loss = resolved.claim, resolved.scheduled().loss
    measured = _measure(loss, arguments)
    if arguments.json:
        about = {"name": claim.name, "distribution": claim.distribution, "params": _params(loss)}
        print(json.dumps({"schema_version": SCHEMA_VERSION} | about | _content(measured), indent=2, allow_nan=False))
    elif arguments.svg:
        _write_svg(arguments.svg, loss, measured)
    else:
        print("\n".join(_page(f"{claim.name} ({claim.distribution} {claim.version})", loss, measured)))
    return 0


def ratio_label(loss: PolicyLoss, *, ascii_only: bool = False) -> str:
    """Return the label of the ratio axis, with the policy in the denominator."""
    from skyrl_core.contract.policy_loss import Need

    needs = loss.needs(loss.params)
    anchor = "rollout" if Need.ROLLOUT_LOG_PROBS in needs and Need.OLD_LOG_PROBS not in needs else "old"
    return f"importance ratio pi / pi_{anchor}" if ascii_only else f"importance ratio π / π_{anchor}"


def describe_curve(curve: Curve) -> str:
    """Describe where a curve jumps and bends; if it does neither, its peak or constant value."""
    parts = [
        f"bends at {number(each.ratio)}, at weight {number(each.below)}"
        if each.kind == "kink"
        else f"jumps at {number(each.ratio)} from {_rounded(each.below)} to {_rounded(each.above)}"
        for each in curve.breaks
    ]
    return "; ".join(parts) or _without_breaks(curve)


def _without_breaks(curve: Curve) -> str:
    if max(curve.weights) - min(curve.weights) < 1e-9:
        return f"weight {_rounded(curve.weights[0])} at every ratio"
    peak = max(range(len(curve.weights)), key=lambda index: abs(curve.weights[index]))
    if peak in (0, len(curve.weights) - 1):
        return "no jump, no bend"
    return f"smooth; largest near {number(round(curve.ratios[peak], 2))}, at {_rounded(curve.weights[peak])}"


def _rounded(weight: float) -> str:
    return number(round(weight, 4) + 0.0)


def _measure(loss: PolicyLoss, arguments: Namespace) -> Signature:
    from skyrl_core.signature.measure import WIDE, Probe, check_range, measure_signature

    ratios = tuple(arguments.range) if arguments.range else None
    probe = Probe(length=arguments.length, probability=arguments.probability)
    try:
        check_range(ratios or WIDE, probe)
    except ValueError as error:
        raise SkyrlError(str(error)) from error
    failed = f"failed on a sequence of {probe.length} equal tokens"
    advice = f"run `skyrl losses check {arguments.name}` to find the cause"
    guard = Guard(arguments.name, type(loss).__module__)
    with PluginCall(guard, failed, kind=ConformanceError, advice=lambda _: advice):
        return measure_signature(loss, ratios=ratios, probe=probe)


def _page(title: str, loss: PolicyLoss, measured: Signature) -> list[str]:
    from skyrl_core.signature.text_chart import chart

    width = min(max(terminal_width() or WIDTH, _NARROWEST), _WIDEST)
    ascii_only = not _prints("⣿┊π")
    params = "  ".join(f"{key}={json.dumps(value)}" for key, value in _params(loss).items())
    lines = [title, *indented(params, width, "  "), ""]
    lines += indented("Weight of a token in the update, -d loss / d log pi:", width, "  ")
    label = ratio_label(loss, ascii_only=ascii_only)
    lines += [*_chart_lines(chart, measured.curves, label, width, ascii_only=ascii_only), ""]
    if measured.singled_out:
        lines += indented("The same for a token that the loss selects by its statistics of the batch:", width, "  ")
        lines += [*_chart_lines(chart, measured.singled_out, label, width, ascii_only=ascii_only), ""]
    for each in _notes(measured):
        lines += indented(each, width, "  ")
    return lines


def _chart_lines(chart: Any, curves: Sequence[Curve], label: str, width: int, *, ascii_only: bool) -> list[str]:
    try:
        lines: list[str] = chart(curves, label, width, ascii_only=ascii_only)
    except ValueError as error:
        raise ConformanceError(f"{error}; run `skyrl losses signature NAME --json` for the numbers") from error
    return lines


def _notes(measured: Signature) -> list[str]:
    notes = [f"A = {curve.advantage:+g}: {describe_curve(curve)}." for curve in measured.curves]
    notes += [f"A = {curve.advantage:+g}, selected: {describe_curve(curve)}." for curve in measured.singled_out]
    if measured.entropy_weight:
        notes.append(f"In addition to the curves, the entropy of the token weighs {measured.entropy_weight:g} per nat.")
    return [*notes, probe_note(measured.probe)]


def probe_note(probe: Probe) -> str:
    """Describe the measured sequence in one sentence."""
    tokens = "1 token" if probe.length == 1 else f"{probe.length} tokens that all have this ratio"
    return f"Measured on a sequence of {tokens}, of probability {probe.probability:g} under the other policy."


def _write_svg(path: Path, loss: PolicyLoss, measured: Signature) -> None:
    from skyrl_core.signature.svg_chart import svg

    try:
        path.write_text(svg(measured, loss.name, ratio_label(loss)), encoding="utf-8")
    except OSError as error:
        raise SkyrlError(f"cannot write {path}: {error.strerror}") from error
    print(f"wrote {printable(str(path), escape=True)}")


def _content(measured: Signature) -> dict[str, Any]:
    return {"entropy_weight": measured.entropy_weight, "probe": asdict(measured.probe)} | {
        key: [_numbers(asdict(curve) | {"breaks": [each._asdict() for each in curve.breaks]}) for curve in curves]
        for key, curves in (("curves", measured.curves), ("singled_out", measured.singled_out))
    }


def _numbers(content: Mapping[str, Any]) -> dict[str, Any]:
    """Replace NaN and infinity, which JSON does not have, with null."""
    return {
        key: [None if isinstance(v, float) and not math.isfinite(v) else v for v in value]
        if isinstance(value, tuple)
        else value
        for key, value in content.items()
    }


def _params(loss: PolicyLoss) -> dict[str, Any]:
    return as_json_values(loss.params)


def _prints(text: str) -> bool:
    try:
        text.encode(sys.stdout.encoding or "ascii")
    except UnicodeEncodeError:
        return False
    return True

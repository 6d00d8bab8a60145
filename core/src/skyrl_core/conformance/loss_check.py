"""Checks one loss against all rules."""

import random
import traceback
from collections.abc import Mapping
from dataclasses import replace

import torch

from skyrl_core.conformance.batches import example_batch
from skyrl_core.conformance.check_report import Report, RuleResult
from skyrl_core.conformance.rules.gradient import GRADIENT, INPUTS_STEER, SAMPLED_ENTROPY
from skyrl_core.conformance.rules.host_sync import NO_HOST_SYNC
from skyrl_core.conformance.rules.interface import DECLARED_NEEDS, SHAPE_DTYPE, SIGNATURE
from skyrl_core.conformance.rules.numeric import FINITE, GRADIENT_SIGN, MASKED_TOKENS, PARTITION_INVARIANCE
from skyrl_core.conformance.rules.parameters import PARAMETERS
from skyrl_core.conformance.rules.precision import PRECISION
from skyrl_core.conformance.rules.purity import DETERMINISTIC, INPUTS_NOT_MUTATED, NO_GRADIENT_TO_INPUTS
from skyrl_core.conformance.rules.rule import Rule, Violation
from skyrl_core.conformance.rules.state import PICKLES, STATE
from skyrl_core.conformance.shrinking import as_lists, smallest_violation
from skyrl_core.conformance.waivers import check_waivers, waivers_of
from skyrl_core.contract.policy_loss import PolicyLoss

RULES: tuple[Rule, ...] = (
    SIGNATURE,
    DECLARED_NEEDS,
    SHAPE_DTYPE,
    FINITE,
    MASKED_TOKENS,
    PARTITION_INVARIANCE,
    GRADIENT_SIGN,
    GRADIENT,
    INPUTS_STEER,
    NO_GRADIENT_TO_INPUTS,
    INPUTS_NOT_MUTATED,
    DETERMINISTIC,
    SAMPLED_ENTROPY,
    PRECISION,
    PARAMETERS,
    NO_HOST_SYNC,
    PICKLES,
    STATE,
)


def check_policy_loss(loss: PolicyLoss, *, thorough: bool = False, waive: Mapping[str, str] | None = None) -> Report:
    """Check the loss, with the parameters that it has, against the rules. On the CPU, without a model.

    Never raises for what the loss does: that is a failure in the report. The state of the global random generators
    is afterwards what it was before.

    Args:
        loss: in either form.
        thorough: every rule, in a second or so; otherwise the quick ones, in a fraction of that, as before training.
        waive: rules that the loss breaks on purpose, with the reason, besides those that its class declares in
            ``conformance_waivers``. One that is no longer needed is a failure of a thorough check.

    Raises:
        WaiverError: a waiver names no rule, or gives no reason.
    """
    waivers = waivers_of(loss, waive)
    check_waivers(waivers, (rule.name for rule in RULES), (rule.name for rule in RULES if rule.gate))
    rules = [rule for rule in RULES if thorough or rule.quick]
    gates = {rule.name for rule in rules if rule.gate}
    results: list[RuleResult] = []
    broken: set[str] = set()
    python_state = random.getstate()
    try:
        with torch.random.fork_rng(devices=[]), torch.enable_grad():
            for rule in rules:
                if broken & (gates | set(rule.requires)):
                    continue
                result = _apply(rule, loss)
                broken |= set() if result.passed else {rule.name}
                results.append(waived(result, waivers.get(rule.name), strict=thorough))
    finally:
        random.setstate(python_state)
    done = {result.rule for result in results}
    return Report(
        loss_name=type(loss).name or type(loss).__name__,
        results=tuple(results),
        skipped=tuple(rule.name for rule in rules if rule.name not in done),
    )


def waived(result: RuleResult, reason: str | None, *, strict: bool) -> RuleResult:
    """The result under a waiver, if there is one; strictly, a waiver of a rule that holds is a failure."""
    if reason is None:
        return result
    if not result.passed:
        return replace(result, waived=reason)
    if not strict:
        return result
    return replace(
        result,
        passed=False,
        failure=f"the rule holds, and is waived because {reason!r}",
        remedy="remove the waiver, so that the rule is kept from now on",
    )


def _apply(rule: Rule, loss: PolicyLoss) -> RuleResult:
    try:
        notes = rule.check(loss, example_batch())
    except Violation as violation:
        return _broken(rule, loss, smallest_violation(rule, loss, violation))
    except Exception as error:  # noqa: BLE001 - a loss may raise anything; the report says what
        frame = traceback.extract_tb(error.__traceback__)[-1]
        found = f"raised {type(error).__name__}: {error} ({frame.filename}, line {frame.lineno})"
        remedy = "make the loss work on float32 tensors on the CPU, here six sequences of up to 8 tokens"
        return _broken(rule, loss, Violation(found, remedy=remedy))
    return RuleResult(rule=rule.name, explanation=rule.explanation, passed=True, notes=tuple(notes))


def _broken(rule: Rule, loss: PolicyLoss, violation: Violation) -> RuleResult:
    return RuleResult(
        rule=rule.name,
        explanation=rule.explanation,
        passed=False,
        failure=violation.found,
        remedy=violation.remedy or rule.remedy,
        input=as_lists(loss, violation.batch) if violation.batch is not None else {},
    )

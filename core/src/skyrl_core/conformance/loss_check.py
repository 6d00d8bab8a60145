"""Checks one loss against the rules of the contract."""

import random
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch

from skyrl_core.conformance.author_code import author_place
from skyrl_core.conformance.batches import example_batch
from skyrl_core.conformance.check_report import Report, RuleResult
from skyrl_core.conformance.restored_settings import restored_settings
from skyrl_core.conformance.rule import Rule, Violation
from skyrl_core.conformance.rules import RULES
from skyrl_core.conformance.shrinking import as_lists, smallest_violation
from skyrl_core.conformance.waivers import apply_waiver, check_waivers, waivers_of
from skyrl_core.contract.policy_loss import PolicyLoss
from skyrl_core.discovery.plugin_call import error_text


def check_policy_loss(loss: PolicyLoss, *, thorough: bool = False, waive: Mapping[str, str] | None = None) -> Report:
    """Check a loss, with its current parameters, against the rules, on the CPU and without a model.

    An exception in the loss is a failure in the report and is never raised. The states of the global random generators
    and the settings of the process are restored.

    Args:
        loss: in either form.
        thorough: check every rule, in about a second; otherwise only the quick ones, as before every training run.
        waive: rules that the loss breaks on purpose, with the reason, in addition to those that its class declares in
            ``conformance_waivers``. In a thorough check, waiving a rule that holds is a failure.

    Raises:
        WaiverError: a waiver names an unknown rule, or gives no reason.
    """
    waivers = waivers_of(loss, waive)
    check_waivers(waivers, RULES)
    rules = [rule for rule in RULES if thorough or rule.quick]
    results: list[RuleResult] = []
    broken, errors = set[str](), set[str]()
    with _restored_generators(), torch.enable_grad():
        for rule in rules:
            if broken & set(rule.requires):
                continue
            with restored_settings():
                result = _apply(rule, loss, errors)
            if result is None:
                continue
            broken |= set() if result.passed else {rule.name}
            results.append(apply_waiver(result, waivers.get(rule.name), strict=thorough))
            if rule.gate and results[-1].mark == "FAIL":
                break
    done = {result.rule for result in results}
    return Report(
        loss_name=type(loss).name or type(loss).__name__,
        results=tuple(results),
        skipped=tuple(rule.name for rule in rules if rule.name not in done),
    )


def _apply(rule: Rule, loss: PolicyLoss, errors: set[str]) -> RuleResult | None:
    """Check one rule; None if it raised an error that an earlier rule has reported."""
    try:
        notes = rule.check(loss, example_batch())
    except Violation as violation:
        smallest = smallest_violation(rule, loss, violation)
        return RuleResult.broken(rule, smallest, as_lists(loss, smallest.batch) if smallest.batch is not None else None)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # noqa: BLE001 - a loss may raise anything, SystemExit too; the report contains it
        where = f"{type(error).__name__} at {author_place(error, loss)}"
        if where in errors:
            return None
        errors.add(where)
        found = f"raised {error_text(error)} at {author_place(error, loss)}"
        remedy = "make the loss work on float32 tensors on the CPU, here six sequences padded to 8 tokens"
        return RuleResult.broken(rule, Violation(found, remedy=remedy))
    return RuleResult(rule=rule.name, explanation=rule.explanation, passed=True, notes=tuple(notes))


@contextmanager
def _restored_generators() -> Iterator[None]:
    state, numpy = random.getstate(), sys.modules.get("numpy")
    numpy_state = numpy.random.get_state() if numpy is not None else None
    try:
        with torch.random.fork_rng(devices=[]):
            yield
    finally:
        random.setstate(state)
        if numpy is not None:
            numpy.random.set_state(numpy_state)

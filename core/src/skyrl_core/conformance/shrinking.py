"""Shrinks a failing input to the smallest part of the example batch that still breaks the rule."""

import math
from collections.abc import Iterator
from itertools import combinations
from typing import Any

import torch

from skyrl_core.conformance.batches import ExampleBatch, example_batch
from skyrl_core.conformance.rule import Rule, Violation
from skyrl_core.conformance.trial import needs_of
from skyrl_core.contract.policy_loss import Need, PolicyLoss
from skyrl_core.losses.params import StandardParams
from skyrl_core.losses.standard import StandardLoss

MAX_ROWS = 2
_DIGITS = 4


def smallest_violation(rule: Rule, loss: PolicyLoss, found: Violation) -> Violation:
    """Find the same violation on as few sequences and tokens as possible.

    A part is used only if a correct loss keeps the rule on it: two tokens of one sign cannot show that signs are wrong.
    """
    if found.batch is None:
        return found
    for part in _parts(example_batch()):
        smaller = _violation(rule, loss, part)
        if smaller and smaller.batch is not None and not _violation(rule, StandardLoss(StandardParams()), part):
            return smaller
    return found


def as_lists(loss: PolicyLoss, batch: ExampleBatch) -> dict[str, Any]:
    """Convert the tensors that the loss reads to JSON values."""
    needs = sorted(need.value for need in Need if need in needs_of(loss))
    return {name: _rounded(getattr(batch, name).tolist()) for name in ("log_probs", *needs, "advantages", "mask")}


def _parts(batch: ExampleBatch) -> Iterator[ExampleBatch]:
    choices = [
        (torch.tensor(rows), width)
        for count in range(1, MAX_ROWS + 1)
        for rows in combinations(range(len(batch.mask)), count)
        for width in range(1, batch.widest(torch.tensor(rows)) + 1)
    ]
    for rows, width in sorted(choices, key=lambda choice: (len(choice[0]) * choice[1], choice[1])):
        yield batch.take(rows, width)


def _violation(rule: Rule, loss: PolicyLoss, batch: ExampleBatch) -> Violation | None:
    try:
        rule.check(loss, batch)
    except Violation as violation:
        return violation
    except KeyboardInterrupt:
        raise
    except BaseException:  # noqa: BLE001 - not the failure that is being shrunk
        return None
    return None


def _rounded(value: Any) -> Any:
    if isinstance(value, list):
        return [_rounded(element) for element in value]
    if isinstance(value, float):
        return float(f"{value:.{_DIGITS}g}") if math.isfinite(value) else str(value)
    return value

"""Rule ``state``: state_dict holds everything that after_step changes, and load_state_dict restores it exactly."""

import copy
import json
import math
from collections.abc import Mapping
from typing import Any

from skyrl_core.conformance.batches import ExampleBatch
from skyrl_core.conformance.rule import Rule, Violation
from skyrl_core.conformance.trial import run
from skyrl_core.contract.policy_loss import PolicyLoss

STEPS = 3


def check_state(loss: PolicyLoss, batch: ExampleBatch) -> list[str]:
    """Compare a loss that has taken some steps with a new one that loads its state."""
    trained, resumed = copy.deepcopy(loss), copy.deepcopy(loss)
    metrics = run(loss, batch).logged()
    for _ in range(STEPS):
        trained.after_step(metrics)
    state = _checked_state(trained.state_dict())
    expected = run(trained, batch)
    resumed.load_state_dict(json.loads(json.dumps(state)))
    if resumed.state_dict() != state:
        raise Violation(f"state_dict returned {state}, but {resumed.state_dict()} after loading it")
    restored = run(resumed, batch)
    if not expected.equal(restored):
        raise Violation(
            f"after {STEPS} steps the loss is {float(expected.total):.9g}; a new one that loads its state {state} "
            f"gives {float(restored.total):.9g} (or other gradients)"
        )
    resumed.after_step(metrics)
    trained.after_step(metrics)
    if trained.state_dict() != resumed.state_dict():
        raise Violation(
            f"one step after loading, the state is {resumed.state_dict()} instead of {trained.state_dict()}"
        )
    return []


def _checked_state(state: Any) -> Mapping[str, float]:
    plain = isinstance(state, dict) and all(
        isinstance(key, str) and isinstance(value, (int, float)) and math.isfinite(value)
        for key, value in state.items()
    )
    if not plain:
        raise Violation(
            f"state_dict returned {state!r}", remedy="return a dict of names to finite numbers, not tensors"
        )
    return dict(state)


STATE = Rule(
    name="state",
    explanation="state_dict holds everything that after_step changes, and load_state_dict restores it exactly",
    remedy="put every attribute that after_step changes into state_dict as a float, and set it in load_state_dict",
    counterexample="self.coef *= 0.99 in after_step without a state_dict: a resumed run starts with the first value",
    check=check_state,
    quick=False,
)

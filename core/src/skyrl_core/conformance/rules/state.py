"""Rules about a loss as an object that is sent, saved and resumed."""

import copy
import json
import math
import pickle
from collections.abc import Mapping
from typing import Any

from skyrl_core.conformance.batches import ExampleBatch
from skyrl_core.conformance.rules.rule import Rule, Violation
from skyrl_core.conformance.trial import Trial, run
from skyrl_core.contract.policy_loss import PolicyLoss

STEPS = 3


def check_pickles(loss: PolicyLoss, batch: ExampleBatch) -> list[str]:
    """The class is found again by module and name, and the loss comes back the same."""
    cls = type(loss)
    try:
        found = pickle.loads(pickle.dumps(cls))
    except Exception as error:
        raise Violation(f"pickle.dumps({cls.__name__}) raised {type(error).__name__}: {error}") from error
    if found is not cls:
        raise Violation(f"{cls.__module__}.{cls.__qualname__} names another class than that of this loss")
    try:
        again = pickle.loads(pickle.dumps(loss))
    except Exception as error:
        raise Violation(f"pickling the loss raised {type(error).__name__}: {error}") from error
    if difference := run(loss, batch).difference(run(again, batch)):
        raise Violation(f"after pickling {difference}")
    return []


def check_state(loss: PolicyLoss, batch: ExampleBatch) -> list[str]:
    """A loss that has taken some steps, and a new one that loads its state, give the same numbers from then on."""
    trained, resumed = copy.deepcopy(loss), copy.deepcopy(loss)
    metrics = logged(run(loss, batch))
    for _ in range(STEPS):
        trained.after_step(metrics)
    state = _checked_state(trained.state_dict())
    before = run(trained, batch)
    resumed.load_state_dict(json.loads(json.dumps(state)))
    if resumed.state_dict() != state:
        raise Violation(f"state_dict gave {state}; after load_state_dict of it, {resumed.state_dict()}")
    if not before.equal(run(resumed, batch)):
        after = run(resumed, batch)
        raise Violation(
            f"after {STEPS} steps the loss is {float(before.total):.9g}; a new one that loads its state {state} gives "
            f"{float(after.total):.9g} (or other gradients)"
        )
    resumed.after_step(metrics)
    trained.after_step(metrics)
    if trained.state_dict() != resumed.state_dict():
        raise Violation(
            f"one step after loading, the state is {resumed.state_dict()} instead of {trained.state_dict()}"
        )
    return []


def logged(trial: Trial) -> dict[str, float]:
    """What a trainer logs of a step and gives to ``after_step``."""
    return {name: metric.result() for name, metric in trial.metrics.items()} | {"loss": float(trial.total)}


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


PICKLES = Rule(
    name="pickles",
    explanation="the class can be found by its module and name, so that another process gets the same loss",
    remedy="define the class at the top level of a module, under its own name; keep no lambdas or open files in it",
    breaks="a class made inside a function; self.weight = lambda ratio: ...",
    check=check_pickles,
    quick=False,
)
STATE = Rule(
    name="state",
    explanation="what after_step changes is in state_dict, and load_state_dict restores it to the last bit",
    remedy="put every attribute that after_step changes into state_dict as a float, and set it in load_state_dict",
    breaks="self.coef *= 0.99 in after_step, and no state_dict: a resumed run starts with the first coefficient",
    check=check_state,
    quick=False,
)

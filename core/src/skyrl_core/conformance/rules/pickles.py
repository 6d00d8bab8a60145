"""Rule ``pickles``: another process can import the class and gets the same loss."""

import pickle

from skyrl_core.conformance.batches import ExampleBatch
from skyrl_core.conformance.rule import Rule, Violation
from skyrl_core.conformance.trial import run
from skyrl_core.contract.policy_loss import PolicyLoss


def check_pickles(loss: PolicyLoss, batch: ExampleBatch) -> list[str]:
    """Pickle the class and the loss, and evaluate the loss that comes back."""
    cls = type(loss)
    try:
        found = pickle.loads(pickle.dumps(cls))
    except Exception as error:
        raise Violation(f"pickle.dumps({cls.__name__}) raised {type(error).__name__}: {error}") from error
    if found is not cls:
        raise Violation(f"{cls.__module__}.{cls.__qualname__} is not the class of this loss but another one")
    try:
        again = pickle.loads(pickle.dumps(loss))
    except Exception as error:
        raise Violation(f"pickling the loss raised {type(error).__name__}: {error}") from error
    if difference := run(loss, batch).difference(run(again, batch)):
        raise Violation(f"after pickling {difference}")
    return []


PICKLES = Rule(
    name="pickles",
    explanation="the class can be imported by its module and name, so that another process gets the same loss",
    remedy="define the class at the top level of a module under its own name; store no lambdas or open files in it",
    counterexample="a class defined inside a function; self.weight = lambda ratio: ...",
    check=check_pickles,
    quick=False,
)

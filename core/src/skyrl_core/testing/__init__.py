"""The rules of the contract as pytest tests, and the inputs that they use, for authors of losses.

In a test file::

    from skyrl_core.testing import loss_package_tests, policy_loss_tests

    test_loss = policy_loss_tests(FooLoss, params=[{}, {"coef": 0.0}])
    test_package = loss_package_tests(Path(__file__).parents[1])

Every rule is a separate test, such as ``test_loss[FooLoss-finite]``.
"""

from skyrl_core.conformance.batches import ExampleBatch, example_batch
from skyrl_core.conformance.package.package_check import PackageReport, check_loss_package
from skyrl_core.conformance.trial import loss_batch
from skyrl_core.testing.rule_tests import loss_package_tests, policy_loss_tests

__all__ = [
    "ExampleBatch",
    "PackageReport",
    "check_loss_package",
    "example_batch",
    "loss_batch",
    "loss_package_tests",
    "policy_loss_tests",
]

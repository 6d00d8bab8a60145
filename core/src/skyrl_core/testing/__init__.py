"""The rules of the contract as pytest tests, for the author of a loss; active only where they are imported.

In a file of tests::

    from skyrl_core.testing import loss_package_tests, policy_loss_tests

    test_loss = policy_loss_tests(FooLoss(FooParams()), FooLoss(FooParams(coef=0.0)))
    test_package = loss_package_tests(Path(__file__).parents[1])

Every rule is a test of its own, such as ``test_loss[FooLoss-finite]``.
"""

from skyrl_core.conformance.package_check import PackageReport, check_loss_package
from skyrl_core.testing.rule_tests import loss_package_tests, policy_loss_tests

__all__ = ["PackageReport", "check_loss_package", "loss_package_tests", "policy_loss_tests"]

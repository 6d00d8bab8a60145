"""The rule tests of an author's package, run by pytest in a separate process, as the author runs them."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from skyrl_core.conformance import RULES, WaiverError
from skyrl_core.conformance.package.package_check import ALL_PACKAGE_RULES
from skyrl_core.conformance.package.project import ProjectError
from skyrl_core.losses.standard import StandardLoss
from skyrl_core.testing import loss_package_tests, policy_loss_tests

ROOT = Path(__file__).parents[3]
LOSSES = """\
from skyrl_core import LossParams, PolicyLoss, TokenLosses


class Right(PolicyLoss):
    name, Params, api_version, semantics_version = "right", LossParams, 1, 1

    def token_losses(self, batch):
        return TokenLosses(values=-(batch.log_probs - batch.old_log_probs).clamp(-20, 20).exp() * batch.advantages)


class WrongSign(Right):
    name, Params, api_version, semantics_version = "wrong_sign", LossParams, 1, 1

    def token_losses(self, batch):
        return TokenLosses(values=-super().token_losses(batch).values)


class AlwaysRaises(Right):
    name, Params, api_version, semantics_version = "raises", LossParams, 1, 1

    def token_losses(self, batch):
        raise RuntimeError("not today")
"""


def run_pytest(folder: Path, test: str) -> str:
    (folder / "my_losses.py").write_text(LOSSES)
    (folder / "test_mine.py").write_text(
        f"from my_losses import *\nfrom skyrl_core.testing import *\nfrom skyrl_core import LossParams\n{test}\n"
    )
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-rA", "--color=no", "-p", "no:cacheprovider", "test_mine.py"],
        cwd=folder,
        env=os.environ | {"COLUMNS": "200", "PYTHONPATH": str(folder)},
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout


def test_every_rule_is_one_passed_test(tmp_path) -> None:
    output = run_pytest(tmp_path, "test_loss = policy_loss_tests(Right(LossParams()))")
    assert f"{len(RULES)} passed" in output
    assert "PASSED test_mine.py::test_loss[Right-finite]" in output


def test_a_broken_rule_is_one_failed_test_with_the_message_of_the_rule_and_no_traceback(tmp_path) -> None:
    output = run_pytest(tmp_path, "test_loss = policy_loss_tests(WrongSign(LossParams()))")
    assert f"1 failed, {len(RULES) - 1} passed" in output
    assert "FAILED test_mine.py::test_loss[WrongSign-gradient_sign]" in output
    assert "found:  at ratio 1 the advantage +1 of token [0, 0] adds 1 to d loss / d log_prob" in output
    assert "input:  log_probs = [[-0.1908]]" in output
    assert "fix:    losses are minimised" in output
    assert "rule_tests.py" not in output.partition("short test summary")[0].partition("FAILURES")[2]


def test_rules_that_depend_on_a_broken_rule_are_skipped(tmp_path) -> None:
    output = run_pytest(tmp_path, "test_loss = policy_loss_tests(AlwaysRaises(LossParams()))")
    assert f"1 failed, {len(RULES) - 1} skipped" in output
    assert "raised RuntimeError: not today" in output


def test_a_waived_rule_is_an_expected_failure_and_a_stale_waiver_an_unexpected_one(tmp_path) -> None:
    waive = '{"gradient_sign": "ascends on purpose"}'
    output = run_pytest(tmp_path, f"test_loss = policy_loss_tests(WrongSign(LossParams()), waive={waive})")
    assert f"{len(RULES) - 1} passed, 1 xfailed" in output
    assert "waived: ascends on purpose" in output
    stale = run_pytest(tmp_path, f"test_loss = policy_loss_tests(Right(LossParams()), waive={waive})")
    assert f"1 failed, {len(RULES) - 1} passed" in stale
    assert "the rule holds, but is waived because 'ascends on purpose'" in stale


def test_the_rules_of_a_package_and_of_its_losses_are_tests(tmp_path) -> None:
    folder = ROOT / "plugins/clipped_pg"
    output = run_pytest(tmp_path, f"test_package = loss_package_tests({str(folder)!r})")
    assert f"{len(ALL_PACKAGE_RULES) + len(RULES)} passed" in output
    assert "PASSED test_mine.py::test_package[skyrl-loss-clippedpg-wheel]" in output
    assert "PASSED test_mine.py::test_package[clipped_pg-finite]" in output


def test_a_package_that_cannot_be_imported_is_one_failed_test(tmp_path) -> None:
    (tmp_path / "pyproject.toml").write_text(
        "[project]\nname = 'foo'\n[project.entry-points.'skyrl.policy_losses']\nfoo = 'no_such_module:Foo'\n"
    )
    output = run_pytest(tmp_path, "test_package = loss_package_tests('.')")
    assert f"1 failed, {len(ALL_PACKAGE_RULES) - 1 + len(RULES)} skipped" in output
    assert "ModuleNotFoundError" in output


def test_the_given_parameters_are_in_the_name_of_the_test(tmp_path) -> None:
    params = "from skyrl_core.losses.cispo import CispoLoss as C\nloss = C(C.Params(anchor='rollout', clip_high=2.0))\n"
    output = run_pytest(tmp_path, f"{params}test_loss = policy_loss_tests(loss)")
    assert "PASSED test_mine.py::test_loss[CispoLoss-anchor=rollout,clip_high=2.0-finite]" in output


def test_importing_the_core_or_its_conformance_rules_does_not_import_pytest() -> None:
    code = "import sys, skyrl_core.conformance; sys.exit('pytest' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_mistakes_are_errors_when_tests_are_collected(tmp_path) -> None:
    with pytest.raises(ValueError, match="got no loss"):
        policy_loss_tests()
    with pytest.raises(WaiverError, match="did you mean 'finite'"):
        policy_loss_tests(StandardLoss(StandardLoss.Params()), waive={"finit": "why"})
    with pytest.raises(WaiverError, match="give the reason"):
        policy_loss_tests(StandardLoss(StandardLoss.Params()), waive={"finite": ""})
    with pytest.raises(ProjectError, match=r"has no pyproject\.toml"):
        loss_package_tests(tmp_path)


def test_a_class_is_tested_with_each_parameters_and_those_that_it_lacks_are_one_failed_test(tmp_path) -> None:
    params = "[{'clip_high': 2.0}, {'clip_hi': 2.0}]"
    loss = "from skyrl_core.losses.cispo import CispoLoss"
    output = run_pytest(tmp_path, f"{loss}\ntest_loss = policy_loss_tests(CispoLoss, params={params})")
    assert f"1 failed, {len(RULES)} passed, {len(RULES) - 1} skipped" in output
    assert "PASSED test_mine.py::test_loss[CispoLoss-clip_high=2.0-finite]" in output
    assert "policy_loss_tests(CispoLoss, params=[{'clip_hi': 2.0}]): invalid parameters" in output
    assert "did you mean 'clip_high'?" in output


def test_a_package_whose_defaults_are_invalid_is_one_failed_test(tmp_path) -> None:
    (tmp_path / "pyproject.toml").write_text(
        "[project]\nname = 'foo'\ndependencies = ['skyrl-core>=0.1,<0.2']\n"
        "[project.entry-points.'skyrl.policy_losses']\nfoo = 'foo_loss:Foo'\n"
        "[project.entry-points.'skyrl.policy_loss_params']\nfoo = 'foo_loss:Params'\n"
    )
    (tmp_path / "foo_loss.py").write_text(
        "from skyrl_core import LossParams\nfrom my_losses import Right\n"
        "class Params(LossParams):\n    low: float\n"
        "class Foo(Right):\n    name, Params, api_version, semantics_version = 'foo', Params, 1, 1\n"
    )
    output = run_pytest(tmp_path, "test_package = loss_package_tests('.')")
    assert f"1 failed, {len(ALL_PACKAGE_RULES) - 1 + len(RULES)} skipped" in output
    assert "low" in output.partition("FAILURES")[2]

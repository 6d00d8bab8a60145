"""Specs that pin the semantics version of a loss."""

import pytest

from skyrl_core.errors import PluginConflictError, UnknownPluginError
from skyrl_core.registry.loss_reference import loss_name
from skyrl_core.registry.loss_registry import LOSSES, load_policy_loss, register_policy_loss

SOURCE = """
raise RuntimeError("imported")
class Loss:
    semantics_version = 3
"""


@pytest.mark.parametrize("reference", ["dual_clip@1", "skyrl-core:dual_clip@1"])
def test_the_right_semantics_are_found(reference: str) -> None:
    assert LOSSES.find(reference).name == "dual_clip"
    assert load_policy_loss(reference).name == "dual_clip"


def test_other_semantics_are_a_conflict_that_names_both() -> None:
    with pytest.raises(PluginConflictError, match=r"has semantics version 1, not 2: .* or write dual_clip@1"):
        LOSSES.find("dual_clip@2")


def test_semantics_are_read_without_importing_the_loss(distributions) -> None:
    distributions.add("odd-dist", {"skyrl.policy_losses": {"odd": "odd_loss:Loss"}}, modules={"odd_loss.py": SOURCE})
    assert LOSSES.find("odd@3").distribution == "odd-dist"
    with pytest.raises(PluginConflictError, match="has semantics version 3, not 1"):
        LOSSES.find("odd@1")


def test_a_loss_that_declares_none_cannot_be_pinned(distributions) -> None:
    modules = {"bare_loss.py": "class Loss:\n    pass\n"}
    distributions.add("bare-dist", {"skyrl.policy_losses": {"bare": "bare_loss:Loss"}}, modules=modules)
    with pytest.raises(PluginConflictError, match="declares no semantics_version"):
        LOSSES.find("bare@1")


def test_a_registered_loss_can_be_pinned(monkeypatch) -> None:
    monkeypatch.setattr(LOSSES, "_registered", {})
    register_policy_loss("mine", type("Mine", (type(load_policy_loss("standard")),), {"semantics_version": 4}))
    assert LOSSES.find("mine@4").name == "mine"
    with pytest.raises(PluginConflictError, match="version 4, not 5"):
        LOSSES.find("mine@5")


@pytest.mark.parametrize("version", ["", "two", "1.0", "-1"])
def test_a_version_is_a_whole_number(version: str) -> None:
    with pytest.raises(UnknownPluginError, match="a whole number, such as dual_clip@1"):
        LOSSES.find(f"dual_clip@{version}")


@pytest.mark.parametrize("reference", ["gspo", "gspo@1", "skyrl-core:gspo", "skyrl-core:gspo@2"])
def test_the_name_in_a_spec(reference: str) -> None:
    assert loss_name(reference) == "gspo"

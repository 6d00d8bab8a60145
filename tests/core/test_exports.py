"""The public names of skyrl_core, imported when they are first used."""

import subprocess
import sys
from importlib.metadata import version

import pytest

import skyrl_core

IMPORT = """
import sys
before = set(sys.modules)
import skyrl_core
new = {name.partition(".")[0] for name in set(sys.modules) - before} - {"skyrl_core", "lazy_loader"}
assert new <= sys.stdlib_module_names, new
from skyrl_core import register_policy_loss, policy_losses, load_policy_loss, describe_loss, PluginPolicy
assert not {"torch", "pydantic"} & set(sys.modules)
"""


def test_importing_the_package_imports_only_lazy_loader_and_the_standard_library():
    subprocess.run([sys.executable, "-c", IMPORT], check=True)


@pytest.mark.parametrize("name", skyrl_core.__all__)
def test_every_public_name_can_be_used(name):
    assert getattr(skyrl_core, name) is getattr(skyrl_core, name)
    assert name in dir(skyrl_core)


def test_the_version_is_that_of_the_distribution():
    assert skyrl_core.__version__ == version("skyrl-core")


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = skyrl_core.no_such_name
    with pytest.raises(ImportError):
        from skyrl_core import no_such_name  # noqa: F401 - the import is what is tested

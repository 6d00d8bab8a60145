"""Installing and uninstalling real wheels in fresh environments changes the listing.

The environments have neither torch nor pydantic: a listing needs only the packages that read metadata and versions.
"""

import re
import tomllib
import zipfile

import pytest

pytestmark = pytest.mark.packages


@pytest.fixture
def built_in(sources):
    """The names of the built-in losses."""
    project = tomllib.loads((sources["skyrl-core"] / "pyproject.toml").read_text())["project"]
    return set(project["entry-points"]["skyrl.policy_losses"])


@pytest.fixture
def environment(tmp_path, new_environment, wheels):
    """An environment with only the core."""
    environment = new_environment(tmp_path / "venv")
    environment.install(wheels["skyrl-core"])
    return environment


def test_with_only_the_core_its_losses_are_listed(environment, built_in, row):
    assert {"standard", "dual_clip", "cispo", "gspo"} <= built_in
    assert environment.listing() == dict.fromkeys(built_in, row("skyrl-core"))


def test_installing_a_plugin_adds_its_row_and_uninstalling_removes_it(environment, wheels, row):
    before = environment.listing()
    environment.install(wheels["skyrl-loss-entropyreg"])
    assert environment.listing() == before | {"entropy_reg": row("skyrl-loss-entropyreg")}
    environment.install(wheels["skyrl-loss-clippedpg"])
    both = environment.listing()
    assert both.keys() - before.keys() == {"entropy_reg", "clipped_pg"}
    environment.pip("uninstall", "--yes", "skyrl-loss-entropyreg")
    assert environment.listing() == before | {"clipped_pg": row("skyrl-loss-clippedpg")}
    environment.pip("uninstall", "--yes", "skyrl-loss-clippedpg")
    assert environment.listing() == before


@pytest.mark.parametrize("command", ["train", "eval", "export", "report", "config", "serve"])
def test_with_only_a_loss_a_command_of_the_trainer_names_the_package_to_install(environment, wheels, run, command):
    environment.install(wheels["skyrl-loss-entropyreg"])
    failed = run("bash", "-c", f"! {environment.bin}/skyrl {command} --loss entropy_reg 2>&1")
    assert failed == (
        f"error: `skyrl {command}` needs the package skyrl-train, which is not installed\n"
        f"install it: {environment.bin}/python -m pip install skyrl-train\n"
        f"or with the extra of the loss: {environment.bin}/python -m pip install 'skyrl-loss-entropyreg[train]'\n"
    )


def test_the_wheels_contain_the_source_the_license_and_py_typed(sources, wheels):
    for name, wheel in wheels.items():
        with zipfile.ZipFile(wheel) as archive:
            files = set(archive.namelist())
        package = {file.partition("/")[0] for file in files if not file.partition("/")[0].endswith(".dist-info")}
        assert len(package) == 1, f"{name} ships {package}"
        source = sources[name] / "src"
        assert {str(file.relative_to(source)) for file in source.rglob("*.py")} <= files
        assert f"{package.pop()}/py.typed" in files
        assert any(file.endswith("licenses/LICENSE") for file in files)


def test_the_documented_commands_install_a_loss_from_an_index_and_list_it(
    tmp_path, new_environment, wheels, index, row, run
):
    for name, wheel in wheels.items():
        index.add(name, wheel)
    environment = new_environment(tmp_path / "venv", with_pip=True)
    environment.install(wheels["skyrl-core"])
    # The index has only the project's packages, and a listing needs no others.
    settings = environment.settings(index.address) | {"PIP_NO_DEPS": "1"}
    output = run("bash", "-c", "pip install skyrl-loss-entropyreg", **settings)
    assert re.search(rf"Downloading {re.escape(index.address)}/skyrl-loss-entropyreg/\S+\.whl", output)
    version, *_ = row("skyrl-loss-entropyreg")
    assert f"Successfully installed skyrl-loss-entropyreg-{version}" in output
    shown = run("bash", "-c", "skyrl losses list", **settings)
    assert re.search(rf"^entropy_reg +skyrl-loss-entropyreg {re.escape(version)} ", shown, flags=re.MULTILINE)
    run("bash", "-c", "pip uninstall -y skyrl-loss-entropyreg", **settings)
    assert "entropy_reg" not in run("bash", "-c", "skyrl losses list", **settings)

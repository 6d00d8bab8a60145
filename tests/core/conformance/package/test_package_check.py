"""A correct package passes; each wrong one fails the rule that it breaks."""

import shutil
import sys
from pathlib import Path

import pytest

from skyrl_core.conformance.package.package_check import ALL_PACKAGE_RULES, check_loss_package
from skyrl_core.conformance.package.project import ProjectError, read_project
from skyrl_core.conformance.waivers import WaiverError
from skyrl_core.errors import ConformanceError, InvalidParamsError

ROOT = Path(__file__).parents[4]
SOURCE = "src/skyrl_loss_scaled/"


@pytest.mark.parametrize("plugin", ["entropy_reg", "clipped_pg"])
def test_both_plugins_pass_without_waivers(plugin: str) -> None:
    report = check_loss_package(ROOT / "plugins" / plugin)
    report.raise_for_failures()
    assert [rule.rule for rule in report.package.results] == [rule.name for rule in ALL_PACKAGE_RULES]
    assert not report.package.waived
    assert not any(loss.waived for loss in report.losses)


def test_a_correct_package_passes_without_installing_or_leaving_anything(package) -> None:
    folder = package()
    before, files = list(sys.path), sorted(folder.rglob("*.*"))
    report = check_loss_package(folder)
    report.raise_for_failures()
    assert [loss.loss_name for loss in report.losses] == ["scaled"]
    assert sys.path == before
    assert [file for file in sorted(folder.rglob("*.*")) if file.suffix != ".pyc"] == files
    notes = {result.rule: result.notes for result in report.package.results if result.notes}
    assert list(notes) == ["golden"]
    assert "tests/golden.json does not exist" in notes["golden"][0]


WRONG = {
    "entry_points": [
        ({"pyproject.toml": ("skyrl.policy_losses", "skyrl.policy_loses")}, "has no entry point in"),
        ({"pyproject.toml": ("loss:ScaledLoss", "los:ScaledLoss")}, "ModuleNotFoundError"),
        ({"pyproject.toml": ("loss:ScaledLoss", "loss:Scaled")}, "has no 'Scaled'"),
        ({"pyproject.toml": ("loss:ScaledLoss", "loss:TokenLosses")}, "not a subclass of PolicyLoss"),
        ({"pyproject.toml": ("scaled = ", "Scaled = ")}, "'Scaled' is not a name"),
        (
            {SOURCE + "loss.py": ('name = "scaled"', 'name = "scale"')},
            "name = 'scale', but its entry point is 'scaled'",
        ),
        ({SOURCE + "loss.py": ("from skyrl_core", "import sys; sys.exit(3)\nfrom skyrl_core")}, "SystemExit: 3"),
    ],
    "params_entry_points": [
        ({"pyproject.toml": ("skyrl.policy_loss_params", "skyrl.policy_loss_param")}, "but no entry point for them"),
        ({"pyproject.toml": ("params:ScaledParams", "params:LossParams")}, "the class has Params"),
        (
            {"pyproject.toml": ('scaled = "skyrl_loss_scaled.params', 'other = "skyrl_loss_scaled.params')},
            "but no entry point for them",
        ),
    ],
    "requirements": [
        ({"pyproject.toml": ('"skyrl-core>=0.1,<0.2"', '"numpy"')}, "do not include skyrl-core"),
        ({"pyproject.toml": ("skyrl-core>=0.1,<0.2", "Skyrl_Core>=0.1")}, "has no upper bound"),
        ({"pyproject.toml": ("skyrl-core>=0.1,<0.2", "skyrl-core<0.2")}, "has no lower bound"),
        (
            {"pyproject.toml": ("skyrl-core>=0.1,<0.2", "skyrl-core>=0.2,<0.3")},
            "does not allow the installed skyrl-core",
        ),
        ({"pyproject.toml": ('<0.2"', '<0.2", "torch==2.5.1"')}, "'torch==2.5.1' could replace the torch build"),
    ],
    "light_params": [
        ({SOURCE + "params.py": ("from pydantic", "import torch\nfrom pydantic")}, "fails without torch"),
        ({SOURCE + "__init__.py": "from skyrl_loss_scaled.loss import ScaledLoss\n"}, "fails without torch"),
    ],
    "wheel": [
        ({SOURCE + "py.typed": None}, "the wheel lacks skyrl_loss_scaled/py.typed"),
        ({"LICENSE": None, "pyproject.toml": ('license-files = ["LICENSE"]\n', "")}, "the wheel lacks a license file"),
        (
            {"pyproject.toml": ("[tool.hatch", '[tool.hatch.build]\nexclude = ["params.py"]\n\n[tool.hatch')},
            "the wheel lacks skyrl_loss_scaled/params.py",
        ),
        ({"pyproject.toml": ('version = "0.1.0"', 'version = "no"')}, "hatchling.build cannot build the wheel: "),
    ],
}


@pytest.mark.parametrize(
    ("rule", "changes", "found"), [(rule, *each) for rule, wrong in WRONG.items() for each in wrong]
)
def test_a_wrong_package_fails_exactly_the_rule_that_it_breaks(package, rule, changes, found) -> None:
    report = check_loss_package(package(changes))
    [failure] = report.package.failures
    assert failure.rule == rule
    assert found in failure.failure
    assert failure.remedy
    with pytest.raises(ConformanceError, match=f"package 'skyrl-loss-scaled' breaks 1 of 6 rules[^$]*{rule}"):
        report.raise_for_failures()


def test_a_dependency_that_cannot_be_parsed_is_quoted(package) -> None:
    report = check_loss_package(package({"pyproject.toml": ("skyrl-core>=0.1,<0.2", "skyrl-core >=banana")}))
    [failure] = [each for each in report.package.failures if each.rule == "requirements"]
    assert failure.failure.startswith("dependencies has 'skyrl-core >=banana', which is not a valid requirement: ")


def test_every_package_rule_has_a_package_that_breaks_it() -> None:
    assert [*WRONG, "golden"] == [rule.name for rule in ALL_PACKAGE_RULES]


def test_a_wrong_loss_in_a_correct_package_is_reported_for_the_loss(package) -> None:
    report = check_loss_package(package({SOURCE + "loss.py": ("values=-self", "values=self")}))
    assert not report.passed
    assert report.package.passed
    assert report.package.skipped == ("golden",)
    assert [failure.rule for failure in report.losses[0].failures] == ["gradient_sign"]


def test_a_rule_that_a_package_breaks_on_purpose_can_be_waived(package) -> None:
    waive = '[tool.skyrl.waive]\nrequirements = "released together with the core"\n\n[tool.hatch'
    unbounded = {"pyproject.toml": ("[tool.hatch", waive)}
    folder = package(unbounded)
    text = (folder / "pyproject.toml").read_text().replace("skyrl-core>=0.1,<0.2", "skyrl-core")
    [stale] = check_loss_package(folder).package.failures
    assert stale.failure == "the rule holds, but is waived because 'released together with the core'"
    (folder / "pyproject.toml").write_text(text)
    report = check_loss_package(folder)
    assert report.passed
    assert [(result.rule, result.waived) for result in report.package.waived] == [
        ("requirements", "released together with the core")
    ]
    (folder / "pyproject.toml").write_text(text.replace("requirements =", "requirement ="))
    with pytest.raises(WaiverError, match="no such rule; did you mean 'requirements'"):
        check_loss_package(folder)


def test_parameters_are_checked_and_used(package) -> None:
    assert check_loss_package(package(), {"scale": 3.0}).passed
    with pytest.raises(InvalidParamsError, match="scale = 0: must be > 0"):
        check_loss_package(package(), {"scale": 0})


def test_without_the_build_backend_only_the_folder_is_checked_and_a_note_is_left(package) -> None:
    absent = {"pyproject.toml": ('build-backend = "hatchling.build"', 'build-backend = "no_such_backend.api"')}
    folder = package(absent)
    [wheel] = [result for result in check_loss_package(folder).package.results if result.rule == "wheel"]
    assert wheel.passed
    assert "no wheel was built, because the backend no_such_backend.api is not installed" in wheel.notes[0]
    assert wheel.notes[0].endswith(f"{sys.executable} -m pip install hatchling")
    (folder / SOURCE / "py.typed").unlink()
    [failure] = check_loss_package(folder).package.failures
    assert failure.failure == "the folder lacks skyrl_loss_scaled/py.typed"


def test_another_installed_package_of_the_same_name_is_a_failure(package, tmp_path, monkeypatch) -> None:
    folder = package()
    shutil.copytree(folder / "src", tmp_path / "elsewhere")
    monkeypatch.syspath_prepend(str(tmp_path / "elsewhere"))
    import skyrl_loss_scaled.loss  # noqa: F401 - another package of this name is now imported

    [failure] = check_loss_package(folder).package.failures
    assert "another package has the same name" in failure.failure


@pytest.mark.parametrize(
    ("tables", "source"),
    [
        ("", "src"),
        ("[tool.hatch.build.targets.wheel]\npackages = ['lib/python/foo']\n", "lib/python"),
        ("[tool.setuptools.packages.find]\nwhere = ['lib']\n", "lib"),
        ("[tool.setuptools]\npackage-dir = {'' = 'code'}\n", "code"),
    ],
)
def test_the_source_folder_follows_the_settings_of_the_build_backend(tmp_path, tables, source) -> None:
    (tmp_path / "src").mkdir()
    (tmp_path / "pyproject.toml").write_text(f"[project]\nname = 'foo'\n{tables}")
    assert read_project(tmp_path).source == tmp_path / source


def test_the_source_of_a_flat_layout_is_the_folder_itself(tmp_path) -> None:
    (tmp_path / "pyproject.toml").write_text("[project]\nname = 'foo'\n")
    assert read_project(tmp_path).source == tmp_path


def test_a_folder_without_a_readable_pyproject_is_an_error(tmp_path) -> None:
    with pytest.raises(ProjectError, match=r"has no pyproject\.toml"):
        read_project(tmp_path)
    (tmp_path / "pyproject.toml").write_text("[project\n")
    with pytest.raises(ProjectError, match="cannot be read"):
        read_project(tmp_path)

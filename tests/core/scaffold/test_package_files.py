"""The files of a new package: their declarations, and that they pass the project's style and type checks."""

import ast
import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement

from skyrl_core.scaffold.folder import write_folder
from skyrl_core.scaffold.naming import MAX_LENGTH, package_names
from skyrl_core.scaffold.package_files import compatible_requirement, package_files

ROOT = Path(__file__).parents[3]
FORMS = ["token", "scalar"]
# The shortest name and the longest ones, of one word and of many: the formatter must not change any line for either.
NAMES = ["q", "soft_clip", "a" * MAX_LENGTH, "_".join("a" * (MAX_LENGTH // 2))]


def files_of(name="soft_clip", form="token", core_version="0.1.0", year=2031):
    return package_files(package_names(name), form, core_version=core_version, year=year)


def as_toml(table, path=()):
    """Format a TOML table as lines."""
    plain = {key: value for key, value in table.items() if not isinstance(value, dict)}
    lines = [f"[{'.'.join(path)}]"] if path else []
    lines += [f"{json.dumps(key)} = {json.dumps(value)}" for key, value in plain.items()]
    for key in table.keys() - plain.keys():
        lines += as_toml(table[key], (*path, json.dumps(key)))
    return lines


@pytest.mark.parametrize("form", FORMS)
def test_a_package_has_these_files(form):
    assert set(files_of(form=form)) == {
        ".github/workflows/test.yml",
        ".gitignore",
        "LICENSE",
        "README.md",
        "pyproject.toml",
        "src/skyrl_loss_softclip/__init__.py",
        "src/skyrl_loss_softclip/loss.py",
        "src/skyrl_loss_softclip/params.py",
        "src/skyrl_loss_softclip/py.typed",
        "tests/test_soft_clip.py",
    }


def test_the_entry_points_name_the_classes_of_the_loss_and_its_parameters():
    files = files_of()
    project = tomllib.loads(files["pyproject.toml"])["project"]
    assert (project["name"], project["license"]) == ("skyrl-loss-softclip", "Apache-2.0")
    assert project["dependencies"] == ["skyrl-core>=0.1,<0.2"]
    assert project["optional-dependencies"]["train"] == ["skyrl-train>=0.1,<0.2"]
    assert project["entry-points"] == {
        "skyrl.policy_losses": {"soft_clip": "skyrl_loss_softclip.loss:SoftClipLoss"},
        "skyrl.policy_loss_params": {"soft_clip": "skyrl_loss_softclip.params:SoftClipParams"},
    }
    for module, name in (("loss", "SoftClipLoss"), ("params", "SoftClipParams")):
        tree = ast.parse(files[f"src/skyrl_loss_softclip/{module}.py"])
        assert name in [node.name for node in tree.body if isinstance(node, ast.ClassDef)]


def test_it_needs_the_same_python_and_build_backend_as_the_core():
    ours = tomllib.loads((ROOT / "core/pyproject.toml").read_text())
    theirs = tomllib.loads(files_of()["pyproject.toml"])
    assert theirs["build-system"] == ours["build-system"]
    assert theirs["project"]["requires-python"] == ours["project"]["requires-python"]
    assert theirs["tool"]["ruff"]["line-length"] == 120


@pytest.mark.parametrize(
    ("version", "requirement", "accepted", "rejected"),
    [
        ("0.1.0", "skyrl-core>=0.1,<0.2", ["0.1.0", "0.1.9"], ["0.0.9", "0.2.0"]),
        ("0.9.3", "skyrl-core>=0.9,<0.10", ["0.9.0", "0.9.12"], ["0.10.0", "1.0"]),
        ("7", "skyrl-core>=7.0,<7.1", ["7", "7.0.2"], ["6.9", "7.1"]),
        ("1.4", "skyrl-core>=1.4,<1.5", ["1.4", "1.4.2"], ["1.5", "1.3"]),
        ("0.2.0.dev3", "skyrl-core>=0.2.0.dev3,<0.3", ["0.2.0.dev3", "0.2.0", "0.2.1"], ["0.2.0.dev2", "0.3"]),
        ("0.2.0rc1", "skyrl-core>=0.2.0rc1,<0.3", ["0.2.0rc1", "0.2.0"], ["0.2.0b1", "0.1.9"]),
        ("0.2.1.post1+local", "skyrl-core>=0.2,<0.3", ["0.2.0", "0.2.1.post1"], ["0.3.0"]),
    ],
)
def test_it_requires_this_core_up_to_the_next_minor_version(version, requirement, accepted, rejected):
    assert compatible_requirement("skyrl-core", version) == requirement
    specifier = Requirement(requirement).specifier
    assert [each for each in accepted + rejected if specifier.contains(each, prereleases=True)] == accepted


def test_the_license_is_the_project_license_with_another_copyright_line():
    ours = (ROOT / "LICENSE").read_text()
    [copyright_line] = [line for line in ours.splitlines() if line.startswith("   Copyright 20")]
    assert files_of()["LICENSE"] == ours.replace(copyright_line, "   Copyright 2031 The skyrl-loss-softclip authors")


def test_the_workflow_installs_the_package_and_runs_its_tests():
    job = yaml.safe_load(files_of()[".github/workflows/test.yml"])["jobs"]["test"]
    commands = [step["run"] for step in job["steps"] if "run" in step]
    assert commands == ['python -m pip install ".[test]"', "python -m pytest"]
    assert all(Requirement(f"python>={version}") for version in job["strategy"]["matrix"]["python"])
    assert {"with": {"python-version": "${{ matrix.python }}"}, "uses": "actions/setup-python@v5"} in job["steps"]


def test_the_readme_shows_how_to_install_list_check_and_train():
    readme = files_of()["README.md"]
    for line in (
        "pip install skyrl-train skyrl-loss-softclip",
        "skyrl losses list",
        "skyrl losses check soft_clip",
        "skyrl train --loss soft_clip",
    ):
        assert f"\n{line}\n" in readme


@pytest.mark.parametrize("form", FORMS)
def test_no_placeholder_is_left_and_every_file_ends_with_one_newline(form):
    for path, text in files_of(form=form).items():
        assert "$" not in text.replace("${{ ", ""), path
        assert text == "" or (text.endswith("\n") and not text.endswith("\n\n")), path


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", NAMES)
def test_ruff_finds_nothing_regardless_of_the_length_of_the_name(name, form, tmp_path):
    package = tmp_path / "package"
    write_folder(package, files_of(name, form))
    ours = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["ruff"] | {"src": ["src"]}
    (tmp_path / "ours.toml").write_text("\n".join(as_toml(ours)))
    for settings in ([], ["--config", str(tmp_path / "ours.toml")]):
        for command in (["check", "--no-cache"], ["format", "--check", "--diff", "--no-cache"]):
            ruff = [sys.executable, "-m", "ruff", *command, *settings, "."]
            done = subprocess.run(ruff, cwd=package, capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stdout + done.stderr


def test_ruff_with_such_a_config_finds_an_unsorted_import(tmp_path):
    (tmp_path / "ours.toml").write_text("\n".join(as_toml({"lint": {"select": ["I"]}})))
    (tmp_path / "module.py").write_text("import sys\nimport os\n")
    ruff = [sys.executable, "-m", "ruff", "check", "--no-cache", "--config", "ours.toml", "."]
    assert subprocess.run(ruff, cwd=tmp_path, capture_output=True, check=False).returncode == 1


def test_mypy_strict_finds_nothing(tmp_path):
    sources, names = [], {"soft_clip": "token", "soft_mean": "scalar"}
    for name, form in names.items():
        write_folder(tmp_path / name, files_of(name, form))
        sources += sorted(map(str, (tmp_path / name).rglob("*.py")))
    search_path = os.pathsep.join(str(tmp_path / name / "src") for name in names)
    mypy = [sys.executable, "-m", "mypy", "--config-file", "pyproject.toml", *sources]
    environment = {**os.environ, "MYPYPATH": search_path}
    done = subprocess.run(mypy, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.stdout == f"Success: no issues found in {len(sources)} source files\n", done.stderr

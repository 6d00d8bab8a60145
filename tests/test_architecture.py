"""The rules of the source tree that no linter knows: sizes, names, imports without torch, versions, requirements."""

import ast
import importlib
import re
import subprocess
import sys
import tomllib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

ROOT = Path(__file__).parents[1]
PLUGINS = sorted(path.parent.relative_to(ROOT).as_posix() for path in ROOT.glob("plugins/*/pyproject.toml"))
PACKAGES = ["core", "trainer", *PLUGINS]
MODULES = sorted(path for package in PACKAGES for path in (ROOT / package / "src").rglob("*.py"))

MAX_FILE_LINES = 300
MAX_FUNCTION_LINES = 60
VAGUE_NAMES = {"utils", "util", "common", "helpers", "helper", "misc"}
HEAVY = ["torch", "transformers", "deepspeed", "accelerate"]
# Packages, or single modules, that must be importable where none of HEAVY is: they serve commands that answer at once.
LIGHT = [
    "skyrl_core.cli",
    "skyrl_core.discovery.plugin_group",
    "skyrl_core.errors",
    "skyrl_core.parameters.loss_params",
]
LIGHT += [
    "skyrl_core.losses.params",
    "skyrl_core.registry.loss_registry",
    "skyrl_core.registry.estimator_registry",
    "skyrl_core.registry.resolved_loss",
    "skyrl_core.parameters.parameter_plan",
]
LIGHT += ["skyrl_train.config", "skyrl_train.environments", "skyrl_train.tracking", "skyrl_train.commands"]
LIGHT += [
    "skyrl_train.entrypoints",
    "skyrl_train.data",
    "skyrl_train.rollout.rollout_engine",
    "skyrl_train.rollout.seeds",
]
LIGHT += ["skyrl_loss_entropyreg.params", "skyrl_loss_clippedpg.params"]
# The config's defaults are the one place where the trainer may name a loss.
MAY_NAME_LOSSES = {ROOT / "trainer/src/skyrl_train/config/schema.py"}

# What other packages may import.
FACES = ["skyrl_core", "skyrl_core.maths", "skyrl_core.testing", "skyrl_train"]
PUBLIC = {*FACES, "skyrl_train.algorithms.policy_losses", "skyrl_train.entrypoints.main_base"}
# The schemas of losses and of estimators; the rollout engines hf, vllm and vllm_server.
SAME_ROLE = {"__main__.py", "engine.py", "params.py"}

every_module = pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(ROOT).as_posix())


def project(package: str) -> dict:
    """The [project] table of a package; "." is the workspace."""
    return tomllib.loads((ROOT / package / "pyproject.toml").read_text())["project"]


def loss_names() -> set[str]:
    """The losses that our distributions declare."""
    groups = (project(package).get("entry-points", {}) for package in PACKAGES)
    return {name for group in groups for name in group.get("skyrl.policy_losses", {})}


def functions(tree: ast.Module) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    return (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


def strings_in_code(tree: ast.Module) -> Iterator[ast.Constant]:
    """String constants that are not docstrings or other bare statements."""
    bare = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    constants = (node for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str))
    return (node for node in constants if id(node) not in bare)


def modules_below(name: str) -> list[str]:
    """The module of this name and, where it is a package, everything in it."""
    parts = name.split(".")
    [source] = [ROOT / package / "src" for package in PACKAGES if (ROOT / package / "src" / parts[0]).is_dir()]
    target = source.joinpath(*parts)
    if not target.is_dir():
        return [name]
    paths = sorted(path.relative_to(source).with_suffix("") for path in target.rglob("*.py"))
    return [".".join(path.parts).removesuffix(".__init__") for path in paths]


@every_module
def test_a_file_has_at_most_300_lines(path):
    assert len(path.read_text().splitlines()) <= MAX_FILE_LINES


@every_module
def test_a_function_has_at_most_60_lines(path):
    long = {
        node.name: node.end_lineno - node.lineno + 1
        for node in functions(ast.parse(path.read_text()))
        if node.end_lineno - node.lineno + 1 > MAX_FUNCTION_LINES
    }
    assert not long


@every_module
def test_a_module_says_in_its_first_line_what_it_owns(path):
    docstring = ast.get_docstring(ast.parse(path.read_text()))
    assert docstring
    assert docstring.splitlines()[0].strip()


@every_module
def test_a_name_says_what_is_inside(path):
    assert not VAGUE_NAMES & set(path.relative_to(ROOT).with_suffix("").parts)


def test_the_trainer_names_no_loss():
    names = loss_names()
    assert {"standard", "entropy_reg"} <= names
    found = [
        f"{path.relative_to(ROOT)}:{node.lineno}: {node.value!r}"
        for path in sorted((ROOT / "trainer/src").rglob("*.py"))
        if path not in MAY_NAME_LOSSES
        for node in strings_in_code(ast.parse(path.read_text()))
        if names & set(node.value.split("."))
    ]
    assert not found


@pytest.mark.parametrize(
    ("call", "home"),
    [
        ("get_close_matches(", ["core/src/skyrl_core/errors.py"]),
        ("fsync(", ["trainer/src/skyrl_train/tracking/atomic_file.py"]),
        (
            "isprintable(",
            ["core/src/skyrl_core/printable_text.py", "trainer/src/skyrl_train/config/yaml_text.py"],
        ),
        ("import yaml", ["trainer/src/skyrl_train/config/yaml_text.py"]),
        ("importlib.metadata", []),
    ],
)
def test_what_has_one_home_is_written_nowhere_else(call, home):
    assert [path.relative_to(ROOT).as_posix() for path in MODULES if call in path.read_text()] == home


@pytest.mark.parametrize("name", LIGHT)
def test_light_modules_import_without_the_heavy_packages(name):
    block = f"import sys; sys.modules.update(dict.fromkeys({HEAVY!r}))"
    imports = "\n".join(f"import {module}" for module in modules_below(name))
    done = subprocess.run([sys.executable, "-c", f"{block}\n{imports}"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", FACES)
def test_everything_that_a_face_exports_can_be_imported(name):
    face = importlib.import_module(name)
    assert face.__all__
    assert not [exported for exported in face.__all__ if not hasattr(face, exported)]
    assert set(face.__all__) <= set(dir(face))


def modules_imported(text: str) -> set[str]:
    """The modules of our two main packages that a text imports from: Python, a template or a page with code in it."""
    return set(re.findall(r"^\s*(?:from|import) (skyrl_(?:core|train)[\w.]*)", text, flags=re.MULTILINE))


AUTHORS = sorted(
    path
    for pattern in ("README.md", "docs/*.md", "examples/**/*", "plugins/**/*", "core/README.md", "trainer/README.md")
    for path in ROOT.glob(pattern)
    if path.suffix in {".md", ".py"}
) + sorted(ROOT.glob("core/src/skyrl_core/scaffold/templates/*.template"))


@pytest.mark.parametrize("path", AUTHORS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_what_authors_read_imports_from_the_public_face_only(path):
    assert modules_imported(path.read_text()) <= PUBLIC


@pytest.mark.parametrize("folder", ["losses", "advantages"])
def test_built_in_losses_and_estimators_import_what_authors_import(folder):
    room = f"skyrl_core.{folder}."
    for path in (ROOT / "core/src/skyrl_core" / folder).glob("*.py"):
        if path.name not in {"sum.py", "sum_params.py"}:  # a loss made of other losses looks them up
            assert {name for name in modules_imported(path.read_text()) if not name.startswith(room)} <= PUBLIC, path


@pytest.mark.parametrize("folder", ["trainer/src", "benchmarks"])
def test_the_trainer_imports_from_the_faces_of_cores_rooms_only(folder):
    for path in (ROOT / folder).rglob("*.py"):
        deep = {name for name in modules_imported(path.read_text()) if name.startswith("skyrl_core.")}
        assert not {name for name in deep if name.count(".") > 1}, path


def test_no_two_modules_share_a_name_unless_they_have_the_same_role():
    names = Counter(path.name for path in MODULES if path.name != "__init__.py" and "plugins" not in path.parts)
    assert {name for name, count in names.items() if count > 1} <= SAME_ROLE


def test_all_distributions_have_the_version_of_the_changelog():
    versions = {package: project(package)["version"] for package in [".", *PACKAGES]}
    changelog = (ROOT / "CHANGELOG.md").read_text()
    coming = re.search(r"^## \[Unreleased\]\n\nBecomes (\S+)\.$", changelog, flags=re.MULTILINE)
    released = re.findall(r"^## \[(\d+\.\d+\.\d+)\] - \d{4}-\d\d-\d\d$", changelog, flags=re.MULTILINE)
    assert coming or released, "CHANGELOG.md has neither a released version nor `Becomes X.Y.Z.` under Unreleased"
    assert released == sorted(released, key=Version, reverse=True)
    expected = coming[1] if coming else released[0]
    assert versions == dict.fromkeys(versions, expected)


@pytest.mark.parametrize("package", PACKAGES)
def test_no_distribution_caps_or_pins_torch(package):
    # A pin could replace a user's CUDA build; only the constraints of the checks pin.
    extras = project(package).get("optional-dependencies", {}).values()
    lines = project(package)["dependencies"] + [line for extra in extras for line in extra]
    torch = [requirement for requirement in map(Requirement, lines) if requirement.name == "torch"]
    assert all(clause.operator in {">=", ">"} for requirement in torch for clause in requirement.specifier)


def test_uv_and_pip_install_the_same_versions():
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pip = [line for line in lines if line and not line.startswith("#")]
    uv = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["uv"]["constraint-dependencies"]
    assert pip == uv == sorted(pip)


@pytest.mark.parametrize("package", PACKAGES)
def test_every_distribution_ships_the_license(package):
    assert (ROOT / package / "LICENSE").read_bytes() == (ROOT / "LICENSE").read_bytes()

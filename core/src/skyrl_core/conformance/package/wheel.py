"""The wheel of a loss package, built in a copy of its folder with the installed build backend."""

import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from packaging.metadata import parse_email
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from skyrl_core.conformance.package.project import LossProject
from skyrl_core.conformance.rule import Violation

BUILD_SECONDS = 120
_NOT_SOURCE = shutil.ignore_patterns(".*", "dist", "build", "__pycache__", "*.egg-info", "venv", "node_modules")
_BUILD = """
import importlib, sys
backend = importlib.import_module(sys.argv[1].partition(":")[0])
for name in filter(None, sys.argv[1].partition(":")[2].split(".")):
    backend = getattr(backend, name)
print(backend.build_wheel(sys.argv[2]))
"""


@dataclass(frozen=True, kw_only=True)
class Wheel:
    """The names of a wheel's files, and the contents of its metadata files."""

    files: frozenset[str]
    metadata: Mapping[str, str]  # name of a file in the dist-info folder -> its text


def build_wheel(project: LossProject) -> Wheel | str:
    """Build the wheel, or return why it was not built: nothing is downloaded, so the backend must be installed.

    Raises:
        Violation: the backend fails.
    """
    module = project.backend.partition(":")[0]
    try:
        installed = find_spec(module) is not None
    except ModuleNotFoundError:  # the package of the backend is missing
        installed = False
    if not installed:
        command = f"{shlex.quote(sys.executable)} -m pip install {shlex.join(project.build_requirements)}"
        return f"no wheel was built, because the backend {module} is not installed: {command}"
    with tempfile.TemporaryDirectory() as folder:
        copy, out = Path(folder, "project"), Path(folder, "out")
        shutil.copytree(project.folder, copy, ignore=_NOT_SOURCE)
        out.mkdir()
        done = subprocess.run(
            [sys.executable, "-c", _BUILD, project.backend, str(out)],
            cwd=copy,
            env={key: value for key, value in os.environ.items() if key != "PYTHONPATH"},
            capture_output=True,
            text=True,
            check=False,
            timeout=BUILD_SECONDS,
        )
        if done.returncode:
            reason = (done.stderr.strip().splitlines() or ["no message"])[-1]
            raise Violation(f"{module} cannot build the wheel: {reason}")
        with zipfile.ZipFile(next(out.glob("*.whl"))) as archive:
            names = archive.namelist()
            described = [name for name in names if name.partition("/")[0].endswith(".dist-info")]
            texts = {name.partition("/")[2]: archive.read(name).decode("utf-8", "replace") for name in described}
    return Wheel(files=frozenset(names), metadata=texts)


def missing_from_wheel(wheel: Wheel, project: LossProject) -> list[str]:
    """List what the wheel lacks."""
    missing = []
    for value in dict.fromkeys([*project.losses.values(), *project.params.values()]):
        path = value.partition(":")[0].replace(".", "/")
        if not {f"{path}.py", f"{path}/__init__.py"} & wheel.files:
            missing.append(f"{path}.py")
        if value not in wheel.metadata.get("entry_points.txt", ""):
            missing.append(f"the entry point {value}")
    for package in project.packages:
        if f"{package}/__init__.py" in wheel.files and f"{package}/py.typed" not in wheel.files:
            missing.append(f"{package}/py.typed")
    if not any("licen" in name.lower() for name in (*wheel.metadata, *wheel.files)):
        missing.append("a license file")
    # The rule `requirements` checks the dependencies that pyproject.toml lists.
    if project.requirements is None and "skyrl-core" not in _required(wheel.metadata.get("METADATA", "")):
        missing.append("Requires-Dist: skyrl-core")
    return missing


def _required(metadata: str) -> set[str]:
    """Return the names of the distributions that a wheel requires."""
    requirements = parse_email(metadata)[0].get("requires_dist", [])
    return {canonicalize_name(Requirement(each).name) for each in requirements}

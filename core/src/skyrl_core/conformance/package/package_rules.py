"""The rules of a loss package: its entry points, requirements, imports and wheel."""

import importlib
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from skyrl_core.conformance.package.project import LossProject
from skyrl_core.conformance.package.wheel import build_wheel, missing_from_wheel
from skyrl_core.conformance.rule import BaseRule, Violation
from skyrl_core.contract.policy_loss import PolicyLoss, is_scalar_form
from skyrl_core.discovery.claim import NAME_RULE, is_name
from skyrl_core.discovery.plugin_group import POLICY_LOSS_PARAMS, POLICY_LOSSES
from skyrl_core.parameters.loss_params import OpenLossParams
from skyrl_core.version import __version__

_CORE = Version(__version__)
_FLOORS, _CEILINGS = {">", ">=", "==", "===", "~="}, {"<", "<=", "==", "===", "~="}
_WITHOUT_TORCH = "import importlib, sys; sys.modules['torch'] = None; importlib.import_module(sys.argv[1])"
IMPORT_SECONDS = 60


@dataclass(frozen=True, kw_only=True)
class PackageRule(BaseRule):
    """One guarantee that a loss package gives to everyone who installs it."""

    check: Callable[[LossProject], list[str]]  # within project.importable(); returns notes, raises Violation


def load_loss(project: LossProject, name: str) -> type[PolicyLoss]:
    """Import the class of a loss from the folder of its project.

    Raises:
        Violation: it cannot be imported, is not a PolicyLoss, has another name, or comes from another folder.
    """
    value = project.losses[name]
    loss = _import(project, value)
    if not (isinstance(loss, type) and issubclass(loss, PolicyLoss)):
        raise Violation(f"{name} = {value!r} is {loss!r}, not a subclass of PolicyLoss")
    if loss.name != name and not (is_scalar_form(loss) and not loss.name):
        raise Violation(f"{value} has name = {loss.name!r}, but its entry point is {name!r}")
    return loss


def check_entry_points(project: LossProject) -> list[str]:
    """Require at least one loss, and load each by its entry point."""
    if not project.losses:
        raise Violation(
            f"pyproject.toml has no entry point in {POLICY_LOSSES!r}",
            remedy=f'add [project.entry-points."{POLICY_LOSSES}"] with a line: name = "package.loss:Class"',
        )
    for name in project.losses:
        if not is_name(name):
            raise Violation(f"{name!r} is not a name: {NAME_RULE}")
        load_loss(project, name)
    return []


def check_params_entry_points(project: LossProject) -> list[str]:
    """Compare the schemas of the entry points with those of the classes."""
    notes = []
    for name in project.losses:
        schema = load_loss(project, name).Params
        if name in project.params:
            declared = _import(project, project.params[name])
            if declared is not schema:
                found = f"{name} = {project.params[name]!r} is {declared!r}, but the class has Params = {schema!r}"
                raise Violation(found)
        elif schema is OpenLossParams:
            notes.append(f"{name} declares no Params: its parameters in a config are not checked")
        else:
            raise Violation(f"{name} has Params = {schema.__module__}:{schema.__name__}, but no entry point for them")
    if unknown := sorted(project.params.keys() - project.losses.keys()):
        raise Violation(f"{', '.join(unknown)}: entry points for parameters, but no losses of this package")
    return notes


def check_requirements(project: LossProject) -> list[str]:
    """Check the version bounds of skyrl-core and torch."""
    if project.requirements is None:
        return ["dependencies are computed by the build, and were not checked"]
    core, torch = (_requirement(project.requirements, name) for name in ("skyrl-core", "torch"))
    if core is None:
        raise Violation("dependencies do not include skyrl-core")
    for bound_name, operators in (("lower", _FLOORS), ("upper", _CEILINGS)):
        if not operators & _operators(core):
            raise Violation(f"'{core}' has no {bound_name} bound")
    if not core.specifier.contains(_CORE, prereleases=True):
        raise Violation(f"'{core}' does not allow the installed skyrl-core {_CORE}")
    if torch and _CEILINGS & _operators(torch):
        raise Violation(
            f"'{torch}' could replace the torch build that a GPU needs",
            remedy="leave torch out, or give it only a lower bound",
        )
    return []


def _requirement(requirements: tuple[str, ...], name: str) -> Requirement | None:
    """Return the requirement on a distribution; None if it is not required."""
    for text in requirements:
        try:
            requirement = Requirement(text)
        except InvalidRequirement as error:
            raise Violation(f"dependencies has {text!r}, which is not a valid requirement: {error}") from error
        if canonicalize_name(requirement.name) == name:
            return requirement
    return None


def _operators(requirement: Requirement) -> set[str]:
    return {bound.operator for bound in requirement.specifier}


def check_light_params(project: LossProject) -> list[str]:
    """Import the modules of the parameters in a process without torch."""
    search_path = os.pathsep.join(filter(None, [str(project.source), os.environ.get("PYTHONPATH", "")]))
    for module in dict.fromkeys(value.partition(":")[0] for value in project.params.values()):
        done = subprocess.run(
            [sys.executable, "-B", "-c", _WITHOUT_TORCH, module],  # -B for the same reason as in `importable`
            env={**os.environ, "PYTHONPATH": search_path},
            capture_output=True,
            text=True,
            check=False,
            timeout=IMPORT_SECONDS,
        )
        if done.returncode:
            lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
            places = [line.strip() for line in lines if line.strip().startswith("File ") and "<" not in line]
            raise Violation(f"import {module} fails without torch: {lines[-1]} ({places[-1] if places else module})")
    return []


def check_wheel(project: LossProject) -> list[str]:
    """Build the wheel in a temporary folder, and check its files and metadata."""
    wheel = build_wheel(project)
    if isinstance(wheel, str):
        return [f"only the folder was checked: {wheel}", *_missing_from_folder(project)]
    if missing := missing_from_wheel(wheel, project):
        raise Violation(f"the wheel lacks {', '.join(missing)}")
    return []


def _missing_from_folder(project: LossProject) -> list[str]:
    missing = [f"{package}/py.typed" for package in project.packages if not _is_typed(project.source / package)]
    if not any(project.folder.glob("LICEN[CS]E*")):
        missing.append("a license file")
    if missing:
        raise Violation(f"the folder lacks {', '.join(missing)}")
    return []


def _is_typed(package: Path) -> bool:
    return not package.is_dir() or (package / "py.typed").is_file()


def _import(project: LossProject, value: str) -> object:
    module_name, _, attribute = value.partition(":")
    try:
        module = importlib.import_module(module_name)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # a module may call sys.exit
        raise Violation(f"import {module_name} raised {type(error).__name__}: {error}") from error
    file = Path(getattr(module, "__file__", None) or "")
    if not file.resolve().is_relative_to(project.source):
        raise Violation(
            f"{module_name} was imported from {file}, not from {project.source}: another package has the same name"
        )
    if not hasattr(module, attribute):
        raise Violation(f"{value!r}: {module_name} has no {attribute!r}")
    return getattr(module, attribute)


PACKAGE_RULES: tuple[PackageRule, ...] = (
    PackageRule(
        name="entry_points",
        explanation="every entry point resolves to a PolicyLoss of this package whose name is that of the entry point",
        remedy="correct the line in pyproject.toml, or the name in the class",
        counterexample='foo = "my_package.los:FooLoss"; name = "bar" in the class of the entry point foo',
        check=check_entry_points,
        gate=True,
        waivable=False,
    ),
    PackageRule(
        name="params_entry_points",
        explanation="the parameter schema in the entry points is the Params of the class",
        remedy=f"in {POLICY_LOSS_PARAMS!r}, add the class's Params under the name of the loss",
        counterexample="an entry point with the schema of another loss; no entry point for a loss with Params",
        check=check_params_entry_points,
    ),
    PackageRule(
        name="requirements",
        explanation="skyrl-core has a lower and an upper version bound, and torch has no upper bound",
        remedy=f'write "skyrl-core>={_CORE.major}.{_CORE.minor},<NEXT", where NEXT is the next minor version',
        counterexample='dependencies = ["skyrl-core"]; dependencies = ["torch==2.5"]',
        check=check_requirements,
    ),
    PackageRule(
        name="light_params",
        explanation="importing the parameters does not import torch",
        remedy="put the parameters into a separate module, and keep the package's __init__.py empty",
        counterexample="from my_package.loss import FooLoss in my_package/__init__.py",
        check=check_light_params,
    ),
    PackageRule(
        name="wheel",
        explanation="the wheel has the entry points and their modules, py.typed and the license",
        remedy="add the file, and configure the build backend to include it",
        counterexample="packages = [...] without one of them; no py.typed; no LICENSE",
        check=check_wheel,
    ),
)

"""Renders the files of a new loss's package from templates."""

from collections.abc import Mapping
from importlib.resources import files
from string import Template
from typing import Literal

from packaging.version import Version

from skyrl_core.scaffold.naming import PackageNames

Form = Literal["token", "scalar"]

_TEMPLATES: Mapping[str, str] = {
    ".github/workflows/test.yml": "test.yml",
    ".gitignore": "gitignore",
    "LICENSE": "LICENSE",
    "README.md": "README.md",
    "pyproject.toml": "pyproject.toml",
    "src/$module/__init__.py": "init.py",
    "src/$module/loss.py": "loss_$form.py",
    "src/$module/params.py": "params.py",
    "src/$module/py.typed": "py.typed",
    "tests/test_$loss.py": "test_loss.py",
}
"""Path in the package -> name of the template."""

_HOW_REDUCED: Mapping[Form, str] = {
    "token": "The trainer averages the token losses, as set by `trainer.algorithm.loss_reduction`.",
    "scalar": "The loss is the mean over the tokens, regardless of `trainer.algorithm.loss_reduction`.",
}


def package_files(names: PackageNames, form: Form, *, core_version: str, year: int) -> dict[str, str]:
    """Render all files of the package, by relative path.

    Args:
        names: from ``package_names``.
        form: ``token`` returns one loss per token, ``scalar`` one number.
        core_version: the package requires this skyrl-core or a later one of the same minor version, and its extra
            `train` a skyrl-train of the same versions.
        year: of the copyright.
    """
    values = names._asdict() | {
        "form": form,
        "core": compatible_requirement("skyrl-core", core_version),
        "trainer": compatible_requirement("skyrl-train", core_version),
        "year": year,
        "how_reduced": _HOW_REDUCED[form],
    }
    folder = files("skyrl_core.scaffold") / "templates"
    written = {}
    for path, template in _TEMPLATES.items():
        name = f"{Template(template).substitute(values)}.template"
        text = (folder / name).read_text(encoding="utf-8")
        written[Template(path).substitute(values)] = Template(text).substitute(values)
    return written


def compatible_requirement(distribution: str, version: str) -> str:
    """Derive the requirement on a distribution of this project: skyrl-core 0.3.1 gives ``skyrl-core>=0.3,<0.4``."""
    installed = Version(version)
    # 0.3.0.dev1 comes before 0.3, so a lower bound of 0.3 would exclude it.
    lowest = installed.public if installed.is_prerelease else f"{installed.major}.{installed.minor}"
    return f"{distribution}>={lowest},<{installed.major}.{installed.minor + 1}"

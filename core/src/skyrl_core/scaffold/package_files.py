"""The files of a new loss's package, as text."""

import re
from collections.abc import Mapping
from importlib.resources import files
from string import Template
from typing import Literal

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
"""Path in the package: name of the template."""

_HOW_REDUCED: Mapping[Form, str] = {
    "token": "The trainer averages the token losses, as set by `trainer.algorithm.loss_reduction`.",
    "scalar": "The loss is the mean over the tokens, whatever `trainer.algorithm.loss_reduction` is.",
}


def package_files(names: PackageNames, form: Form, *, core_version: str, year: int) -> dict[str, str]:
    """Text by relative path.

    Args:
        names: from ``package_names``.
        form: ``token`` returns a loss for every token, ``scalar`` reduces by itself.
        core_version: the package requires this skyrl-core or a later one of the same minor version.
        year: of the copyright.
    """
    values = names._asdict() | {
        "form": form,
        "core": core_requirement(core_version),
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


def core_requirement(version: str) -> str:
    """The requirement on skyrl-core: 0.3.1 gives ``skyrl-core>=0.3,<0.4``."""
    release = re.match(r"(\d+)\.(\d+)(?:\.\d+)*", version)
    if release is None:
        raise ValueError(f"the version of skyrl-core, {version!r}, does not start with two numbers")
    major, minor = int(release[1]), int(release[2])
    # 0.3.0.dev1 comes before 0.3, so that a bound of 0.3 would exclude it.
    before_release = re.match(r"(a|b|rc|\.dev)\d+", version[release.end() :])
    lowest = version.partition("+")[0] if before_release else f"{major}.{minor}"
    return f"skyrl-core>={lowest},<{major}.{minor + 1}"

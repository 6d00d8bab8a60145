"""`skyrl losses new`: writes the package of a new loss and prints the next commands."""

import shlex
from datetime import date
from itertools import groupby
from pathlib import Path, PurePosixPath

from skyrl_core import __version__
from skyrl_core.cli.json_output import print_json
from skyrl_core.scaffold.folder import write_folder
from skyrl_core.scaffold.naming import PackageNames, package_names
from skyrl_core.scaffold.package_files import Form, package_files

SCHEMA_VERSION = 1


def new(name: str, folder: Path | None, form: Form, *, as_json: bool) -> int:
    """Write the package of a new loss.

    Raises:
        SkyrlError: the name is not available, or the folder cannot be written; nothing is left behind.
    """
    names = package_names(name)
    target = folder or Path(names.distribution)
    files = package_files(names, form, core_version=__version__, year=date.today().year)
    write_folder(target, files)
    commands, tests = _next_commands(names, target), f"python -m pytest {shlex.quote(str(target))}"
    if as_json:
        content = {
            "folder": str(target),
            "form": form,
            **names._asdict(),
            "files": sorted(files),
            "next": commands,
            "tests": tests,
        }
        print_json(SCHEMA_VERSION, content)
    else:
        print("\n".join([f"{target}/", *_tree(files, _notes(names)), "", "next:", *(f"  {c}" for c in commands)]))
        print(f"after each change:\n  {tests}")
    return 0


def _next_commands(names: PackageNames, folder: Path) -> list[str]:
    return [
        f"python -m pip install -e {shlex.quote(f'{folder}[test,train]')}",
        f"skyrl losses check {names.loss}",
        f"skyrl train --loss {names.loss}",
    ]


def _notes(names: PackageNames) -> dict[str, str]:
    return {
        "loss.py": f"{names.loss_class}: put your equation here",
        "params.py": f"{names.params_class}: its parameters",
        f"test_{names.loss}.py": "the rules of the contract, and values worked out by hand",
        "test.yml": "runs the tests on every push",
    }


def _tree(files: dict[str, str], notes: dict[str, str]) -> list[str]:
    """Format one line per folder and file, indented by two spaces per level."""
    paths = sorted(map(PurePosixPath, files), key=lambda path: (str(path.parent), path.name))
    lines = []
    for folder, inside in groupby(paths, key=lambda path: path.parent):
        nested = folder != PurePosixPath(".")
        lines += [f"  {folder}/"] if nested else []
        for path in inside:
            line = f"{'    ' if nested else '  '}{path.name}"
            lines.append(f"{line:<24}{notes[path.name]}" if path.name in notes else line)
    return lines

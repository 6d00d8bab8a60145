"""A loss package as a source folder: its pyproject.toml, and its modules, importable without installing it."""

import importlib
import sys
import tomllib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from skyrl_core.discovery.plugin_group import POLICY_LOSS_PARAMS, POLICY_LOSSES
from skyrl_core.errors import SkyrlError


class ProjectError(SkyrlError):
    """The folder has no readable pyproject.toml."""


@dataclass(frozen=True, kw_only=True)
class LossProject:
    """The declarations of a loss package."""

    folder: Path
    source: Path  # the folder to put on sys.path
    name: str
    requirements: tuple[str, ...] | None  # None if the build computes them
    losses: Mapping[str, str]  # name -> module:Class
    params: Mapping[str, str]
    backend: str  # of the build: module, or module:object
    build_requirements: tuple[str, ...]  # what the build needs
    waivers: Mapping[str, str]  # [tool.skyrl.waive]

    @property
    def packages(self) -> list[str]:
        """Return the top-level packages of its losses and their parameters."""
        values = [*self.losses.values(), *self.params.values()]
        return list(dict.fromkeys(value.partition(":")[0].partition(".")[0] for value in values))

    @property
    def golden_file(self) -> Path:
        """Return the path of the file with the golden numbers of its losses."""
        return self.folder / "tests" / "golden.json"

    @contextmanager
    def importable(self) -> Iterator[None]:
        """Put its source first on sys.path; importing it writes nothing into its folder."""
        path, no_bytecode = list(sys.path), sys.dont_write_bytecode
        sys.path.insert(0, str(self.source))
        # Bytecode is reused for a source of the same size and second, so an edit right after a check would be missed.
        sys.dont_write_bytecode = True
        importlib.invalidate_caches()
        try:
            yield
        finally:
            sys.path[:], sys.dont_write_bytecode = path, no_bytecode


def read_project(folder: Path) -> LossProject:
    """Read the pyproject.toml of a folder.

    Raises:
        ProjectError: the file is missing or not valid.
    """
    folder = folder.resolve()
    file = folder / "pyproject.toml"
    try:
        content = tomllib.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ProjectError(f"{folder} has no pyproject.toml; pass the folder of a loss package") from None
    except (OSError, ValueError) as error:
        raise ProjectError(f"{file} cannot be read: {error}") from error
    project, groups = _table(content, "project"), _table(content, "project", "entry-points")
    build = _table(content, "build-system")
    dependencies = None if "dependencies" in project.get("dynamic", ()) else project.get("dependencies", ())
    return LossProject(
        folder=folder,
        source=_source_folder(folder, content),
        name=str(project.get("name", folder.name)),
        requirements=None if dependencies is None else tuple(dependencies),
        losses=groups.get(POLICY_LOSSES, {}),
        params=groups.get(POLICY_LOSS_PARAMS, {}),
        backend=build.get("build-backend", "setuptools.build_meta"),
        build_requirements=tuple(map(str, build.get("requires", ("setuptools",)))),
        waivers=_table(content, "tool", "skyrl", "waive"),
    )


def _source_folder(folder: Path, content: Mapping[str, Any]) -> Path:
    """Take it from the settings of hatch or setuptools; default to src if it exists, else to the folder itself."""
    packages = _table(content, "tool", "hatch", "build", "targets", "wheel").get("packages")
    where = _table(content, "tool", "setuptools", "packages", "find").get("where")
    directories = _table(content, "tool", "setuptools").get("package-dir", {})
    if packages:
        return folder / Path(packages[0]).parent
    if where:
        return folder / str(where[0])
    if "" in directories:
        return folder / str(directories[""])
    return folder / "src" if (folder / "src").is_dir() else folder


def _table(content: Mapping[str, Any], *keys: str) -> dict[str, Any]:
    table: Any = content
    for key in keys:
        table = table.get(key, {}) if isinstance(table, Mapping) else {}
    return dict(table) if isinstance(table, Mapping) else {}

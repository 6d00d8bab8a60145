"""Throw-away distributions on sys.path, and the `skyrl` command as a process of its own."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

import pytest

Groups = Mapping[str, Mapping[str, str]]
RunSkyrl = Callable[..., "subprocess.CompletedProcess[str]"]


def pytest_configure() -> None:
    """A shell lets what it starts in the background ignore Ctrl-C, and programs inherit that: here they hear it."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_runtest_setup() -> None:
    """The random numbers of a test do not depend on the tests before it, which are others wherever some run at once."""
    if torch := sys.modules.get("torch"):
        torch.manual_seed(0)


class DistributionFolder:
    """A folder like site-packages."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def add(
        self,
        name: str,
        groups: Groups,
        *,
        version: str = "1.0",
        summary: str = "",
        requires: Iterable[str] = (),
        metadata: bool = True,
        modules: Mapping[str, str] | None = None,
    ) -> Path:
        """Write a dist-info folder, and modules by relative path; returns the dist-info folder."""
        info = self.path / f"{name.replace('-', '_')}-{version}.dist-info"
        info.mkdir(parents=True)
        if metadata:
            lines = ["Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}", f"Summary: {summary}"]
            lines += [f"Requires-Dist: {requirement}" for requirement in requires]
            (info / "METADATA").write_text("\n".join([*lines, "", "Name: not-a-header", ""]))
        sections = [
            "\n".join([f"[{group}]", *(f"{key} = {value}" for key, value in entries.items()), ""])
            for group, entries in groups.items()
        ]
        (info / "entry_points.txt").write_text("\n".join(sections))
        for relative, source in (modules or {}).items():
            file = self.path / relative
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(source)
        return info


@pytest.fixture
def distributions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[DistributionFolder]:
    """An empty folder at the front of sys.path; what is imported from it is forgotten afterwards."""
    folder = tmp_path / "site"
    folder.mkdir()
    monkeypatch.syspath_prepend(str(folder))
    yield DistributionFolder(folder)
    for name, module in list(sys.modules.items()):
        if str(getattr(module, "__file__", None) or "").startswith(str(tmp_path)):
            del sys.modules[name]


@pytest.fixture
def run_skyrl(tmp_path: Path) -> RunSkyrl:
    """Run `skyrl ARGUMENTS` in a process that also sees the folder of ``distributions``."""

    def run(*arguments: str, **environment: str) -> "subprocess.CompletedProcess[str]":
        search_path = os.pathsep.join(filter(None, [str(tmp_path / "site"), os.environ.get("PYTHONPATH", "")]))
        # Of a pipe there is no width; readline has put that of a terminal there where tests run side by side.
        inherited = {key: value for key, value in os.environ.items() if key not in ("COLUMNS", "LINES")}
        return subprocess.run(
            [sys.executable, "-m", "skyrl_core.cli.main", *arguments],
            env={**inherited, "PYTHONPATH": search_path, **environment},
            capture_output=True,
            text=True,
            check=False,
        )

    return run

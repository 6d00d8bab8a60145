"""The memory of this machine: main memory, as far as this process may use it, and GPUs. Imports no torch."""

import os
import shutil
import subprocess
from pathlib import Path

from skyrl_core.discovery import installed_version

CGROUP_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")
QUERY_LIMIT = 10.0
"""Seconds for nvidia-smi, which hangs on a broken driver."""


def main_memory() -> int | None:
    """Bytes of main memory that this process may use: the machine's, or the limit of its container."""
    try:
        limits = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    except (OSError, ValueError):
        return None
    for file in CGROUP_LIMITS:
        try:
            limits.append(int(Path(file).read_text()))
        except (OSError, ValueError):  # no such file, or the limit `max`
            continue
    return min(limits)


def gpu_memory() -> list[int]:
    """Bytes of each NVIDIA GPU that training would use; empty without one, or if torch is a CPU build."""
    program = shutil.which("nvidia-smi")
    if program is None or _is_cpu_build():
        return []
    command = [program, "--query-gpu=memory.total", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=QUERY_LIMIT, check=True)
        found = [int(line) * 2**20 for line in done.stdout.split("\n") if line.strip()]
    except (OSError, subprocess.SubprocessError, ValueError):
        return []
    return _visible(found, os.environ.get("CUDA_VISIBLE_DEVICES"))


def _visible(found: list[int], chosen: str | None) -> list[int]:
    """The GPUs that CUDA_VISIBLE_DEVICES leaves; names other than numbers are only counted."""
    if chosen is None:
        return found
    names = [name.strip() for name in chosen.split(",") if name.strip() not in ("", "-1")]
    if all(name.isdecimal() and int(name) < len(found) for name in names):
        return [found[int(name)] for name in names]
    return found[: len(names)]


def _is_cpu_build() -> bool:
    version = installed_version("torch")
    return version is None or version.endswith("+cpu")

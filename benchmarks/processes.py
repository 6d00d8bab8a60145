"""Seconds of whole processes that take turns, so that other load on the machine meets all of them."""

import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

Seconds = dict[str, list[float]]


def take_turns(measures: Mapping[str, Callable[[], float]], rounds: int) -> Seconds:
    """The seconds that each measure returns; one more round, the first, fills caches and is thrown away."""
    found: Seconds = {name: [] for name in measures}
    for _ in range(rounds + 1):
        for name, measure in measures.items():
            found[name].append(measure())
    return {name: seconds[1:] for name, seconds in found.items()}


def to_the_end(command: Sequence[str], *, path: str = "", exit_code: int = 0) -> float:
    """Seconds from the start of a process to its end.

    Raises:
        SystemExit: it ends with another exit code.
    """
    started = time.perf_counter()
    done = subprocess.run(command, env=environment(path), capture_output=True, text=True, check=False)
    elapsed = time.perf_counter() - started
    if done.returncode != exit_code:
        raise SystemExit(f"{' '.join(command)}: exit code {done.returncode}\n{done.stderr[-3000:]}")
    return elapsed


def environment(path: str, **variables: str) -> dict[str, str]:
    """Of a process that sees this folder of distributions before all others."""
    search_path = os.pathsep.join(filter(None, [path, os.environ.get("PYTHONPATH", "")]))
    return {**os.environ, "PYTHONPATH": search_path, **variables}


def skyrl() -> str:
    """The installed command.

    Raises:
        SystemExit: there is none.
    """
    found = shutil.which("skyrl", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]))
    if found is None:
        raise SystemExit("the command `skyrl` is not installed: python -m pip install -e ./core")
    return found


def table(seconds: Seconds, ratios: Mapping[str, float]) -> str:
    """Markdown: median, least and most of each, and how many times it takes what it is compared with."""
    lines = ["| process | median | from, to | ratio |", "|---|---|---|---|"]
    for name, values in seconds.items():
        ratio = f"{ratios[name]:.2f}" if name in ratios else ""
        spread = f"{min(values):.3f} to {max(values):.3f} s"
        lines.append(f"| {name} | {statistics.median(values):.3f} s | {spread} | {ratio} |")
    return "\n".join(lines)

"""Time complete processes in turns, so that other load on the machine affects all alike."""

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
    """The seconds that each measure returns; an extra first round fills caches and is discarded."""
    found: Seconds = {name: [] for name in measures}
    for _ in range(rounds + 1):
        for name, measure in measures.items():
            found[name].append(measure())
    return {name: seconds[1:] for name, seconds in found.items()}


def to_the_end(command: Sequence[str], *, path: str = "", exit_code: int = 0) -> float:
    """The seconds from the start of a process to its end.

    Raises:
        SystemExit: the process ends with another exit code.
    """
    started = time.perf_counter()
    done = subprocess.run(command, env=environment(path), capture_output=True, text=True, check=False)
    elapsed = time.perf_counter() - started
    if done.returncode != exit_code:
        raise SystemExit(f"{' '.join(command)}: exit code {done.returncode}\n{done.stderr[-3000:]}")
    return elapsed


def environment(path: str, **variables: str) -> dict[str, str]:
    """The environment of a process that sees this folder of distributions before all others."""
    search_path = os.pathsep.join(filter(None, [path, os.environ.get("PYTHONPATH", "")]))
    return {**os.environ, "PYTHONPATH": search_path, **variables}


def skyrl() -> str:
    """The path of the installed `skyrl` command.

    Raises:
        SystemExit: it is not installed.
    """
    found = shutil.which("skyrl", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]))
    if found is None:
        raise SystemExit("the command `skyrl` is not installed: python -m pip install -e ./core")
    return found


def table(seconds: Seconds, ratios: Mapping[str, float]) -> str:
    """Markdown: median, minimum and maximum of each process, and its ratio to the one it is compared with."""
    lines = ["| process | median | from, to | ratio |", "|---|---|---|---|"]
    for name, values in seconds.items():
        ratio = f"{ratios[name]:.2f}" if name in ratios else ""
        spread = f"{min(values):.3f} to {max(values):.3f} s"
        lines.append(f"| {name} | {statistics.median(values):.3f} s | {spread} | {ratio} |")
    return "\n".join(lines)

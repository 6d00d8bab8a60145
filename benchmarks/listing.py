"""How long `skyrl losses list` takes, as a whole process, against bare Python that reads the same entry points.

The bar: at most twice as long. Runs are interleaved, so that other load on the machine meets both; medians are
compared, here and with 300 more distributions on the path.
"""

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

BAR = 2.0
BARE = "from importlib.metadata import entry_points; print(list(entry_points(group='skyrl.policy_losses')))"


def main() -> int:
    """Print a table; 1 if a ratio is above the bar."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=20, help="processes of each kind")
    parser.add_argument("--distributions", type=int, default=300, help="synthetic distributions of the second row")
    arguments = parser.parse_args()
    skyrl = shutil.which("skyrl", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]))
    if skyrl is None:
        parser.error("the command `skyrl` is not installed: python -m pip install -e ./core")
    commands = {"bare Python": [sys.executable, "-c", BARE], "skyrl losses list": [skyrl, "losses", "list"]}

    ratios = []
    print(f"{'on the path':<32}{'bare Python':>14}{'skyrl losses list':>20}{'ratio':>8}")
    with tempfile.TemporaryDirectory() as folder:
        write_distributions(Path(folder), arguments.distributions)
        for label, path in (("as installed", ""), (f"with {arguments.distributions} more", folder)):
            bare, ours = medians(list(commands.values()), path, arguments.runs)
            ratios.append(ours / bare)
            print(f"{label:<32}{1000 * bare:>11.1f} ms{1000 * ours:>17.1f} ms{ours / bare:>8.2f}")
    print(f"\n{'met' if max(ratios) <= BAR else 'MISSED'}: at most {BAR:g} times bare Python")
    return 0 if max(ratios) <= BAR else 1


def medians(commands: Sequence[Sequence[str]], path: str, runs: int) -> list[float]:
    """Median seconds of each command, run in turn; one run of each warms the caches of the file system."""
    times: list[list[float]] = [[] for _ in commands]
    for _ in range(runs + 1):
        for command, seconds in zip(commands, times, strict=True):
            start = time.perf_counter()
            subprocess.run(command, env={**os.environ, "PYTHONPATH": path}, stdout=subprocess.DEVNULL, check=True)
            seconds.append(time.perf_counter() - start)
    return [statistics.median(seconds[1:]) for seconds in times]


def write_distributions(folder: Path, count: int) -> None:
    """Distributions such as any environment has: metadata, and scripts as entry points; every tenth has a loss."""
    for number in range(count):
        info = folder / f"synthetic_{number}-1.0.dist-info"
        info.mkdir()
        header = f"Metadata-Version: 2.1\nName: synthetic-{number}\nVersion: 1.0\nSummary: Number {number}\n\n"
        (info / "METADATA").write_text(header + "A long description.\n" * 200)
        groups = f"[console_scripts]\nsynthetic{number} = synthetic_{number}.main:main\n"
        if number % 10 == 0:
            groups += f"[skyrl.policy_losses]\nsynthetic_{number} = synthetic_{number}.loss:Loss\n"
            package = folder / f"synthetic_{number}"
            package.mkdir()
            (package / "__init__.py").write_text("")
            (package / "loss.py").write_text(f'"""Loss number {number}."""\n' + "x = 1\n" * 100)
        (info / "entry_points.txt").write_text(groups)


if __name__ == "__main__":
    sys.exit(main())

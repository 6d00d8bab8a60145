"""Time of a complete `skyrl losses list` process, compared with bare Python that reads the same entry points.

The goal is at most twice the time. Processes take turns, so that other load on the machine affects both. Medians are
compared for the installed packages, and with 300 more distributions on the path.
"""

import argparse
import statistics
import sys
import tempfile
from pathlib import Path

from processes import Seconds, skyrl, table, take_turns, to_the_end
from record import Row, record

GOAL = 2.0
READS = "from importlib_metadata import entry_points; print(list(entry_points(group='skyrl.policy_losses')))"
BARE, LISTING = "bare Python", "`skyrl losses list`"


def main() -> int:
    """Print a table for each path; exit code 1 if a ratio is above the goal."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=20, help="processes of each kind")
    parser.add_argument("--distributions", type=int, default=300, help="synthetic distributions of the second row")
    parser.add_argument("--write", action="store_true", help="write the results and the summary table")
    arguments = parser.parse_args()
    seconds: Seconds = {}
    ratios, rows = {}, []
    with tempfile.TemporaryDirectory() as folder:
        write_distributions(Path(folder), arguments.distributions)
        for where, path in (("as installed", ""), (f"with {arguments.distributions} more", folder)):
            found = measure(path, arguments.runs)
            ratio = statistics.median(found[LISTING]) / statistics.median(found[BARE])
            seconds |= {f"{name}, {where}": values for name, values in found.items()}
            ratios[f"{LISTING}, {where}"] = ratio
            rows.append(Row(measure=f"{LISTING} / {BARE}, {where}", result=f"{ratio:.2f}", goal=f"≤ {GOAL:g}"))
    text, met = table(seconds, ratios), max(ratios.values()) <= GOAL
    print(f"{text}\n\n{'met' if met else 'MISSED'}: at most {GOAL:g} times bare Python")
    if arguments.write:
        how = (__doc__ or "").split("\n", 2)[2].strip()
        record("listing", rows, f"# Listing of losses\n\n{how}\n\n{text}\n\nRounds: {arguments.runs}.")
    return 0 if met else 1


def measure(path: str, runs: int) -> Seconds:
    """The seconds of both processes, with this folder on the path."""
    command = [skyrl(), "losses", "list"]
    measures = {
        BARE: lambda: to_the_end([sys.executable, "-c", READS], path=path),
        LISTING: lambda: to_the_end(command, path=path),
    }
    return take_turns(measures, runs)


def write_distributions(folder: Path, count: int) -> None:
    """Write typical distributions: metadata, and scripts as entry points; every tenth has a loss."""
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

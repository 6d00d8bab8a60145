"""How long a wrong parameter takes to be reported, against `import torch` alone: whole processes, interleaved."""

import argparse
import json
import statistics
import subprocess
import sys
import time

GOAL = 0.5
WRONG = ["--loss", "entropy_reg", "trainer.algorithm.entropy_reg.entropy_coef=-1"]
COMMANDS = {
    "wrong parameter": [sys.executable, "-m", "skyrl_core.cli.main", "train", *WRONG],
    "import torch": [sys.executable, "-c", "import torch"],
}
EXIT_CODES = {"wrong parameter": 4, "import torch": 0}


def seconds_of(name: str) -> float:
    """Run a command to its end; the exit code must be the expected one."""
    started = time.perf_counter()
    done = subprocess.run(COMMANDS[name], capture_output=True, text=True, check=False)
    elapsed = time.perf_counter() - started
    if done.returncode != EXIT_CODES[name]:
        raise SystemExit(f"{name}: exit code {done.returncode}\n{done.stderr}")
    return elapsed


def main() -> int:
    """Measure and print; exit code 1 if the goal is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    for name in COMMANDS:
        seconds_of(name)  # fills the file cache and writes bytecode
    seconds: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for _ in range(arguments.rounds):
        for name in COMMANDS:
            seconds[name].append(seconds_of(name))
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    ratio = medians["wrong parameter"] / medians["import torch"]
    if arguments.json:
        print(json.dumps({"seconds": seconds, "medians": medians, "ratio": ratio, "goal": GOAL}, indent=2))
    else:
        for name, median in medians.items():
            spread = f"{min(seconds[name]):.2f} to {max(seconds[name]):.2f}"
            print(f"{name:<16} {median:.2f} s (median of {arguments.rounds}, {spread})")
        print(f"{'ratio':<16} {ratio:.2f} (goal: at most {GOAL})")
    return 0 if ratio <= GOAL else 1


if __name__ == "__main__":
    sys.exit(main())

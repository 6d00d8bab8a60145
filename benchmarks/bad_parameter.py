"""Time until a wrong parameter is reported, compared with `import torch`: complete processes, in turns."""

import argparse
import json
import statistics
import sys

from processes import table, take_turns, to_the_end
from record import Row, record

GOAL = 0.5
WRONG, TORCH = "a wrong parameter", "`import torch`"
OVERRIDE = "trainer.algorithm.entropy_reg.entropy_coef=-1"
COMMAND = [sys.executable, "-m", "skyrl_core.cli.main", "train", "--loss", "entropy_reg", OVERRIDE]
INVALID = 4
"""The exit code of invalid parameters."""


def main() -> int:
    """Measure and print; exit code 1 if the goal is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--write", action="store_true", help="write the results and the summary table")
    arguments = parser.parse_args()
    measures = {
        WRONG: lambda: to_the_end(COMMAND, exit_code=INVALID),
        TORCH: lambda: to_the_end([sys.executable, "-c", "import torch"]),
    }
    seconds = take_turns(measures, arguments.rounds)
    ratio = statistics.median(seconds[WRONG]) / statistics.median(seconds[TORCH])
    text = table(seconds, {WRONG: ratio})
    if arguments.json:
        print(json.dumps({"seconds": seconds, "ratio": ratio, "goal": GOAL}, indent=2))
    else:
        print(f"{text}\n\n{'met' if ratio <= GOAL else 'MISSED'}: at most {GOAL:g} of the time of `import torch`")
    if arguments.write:
        row = Row(measure="wrong parameter reported / `import torch`", result=f"{ratio:.2f}", goal=f"≤ {GOAL:g}")
        title = f"# A wrong parameter\n\n`skyrl train --loss entropy_reg {OVERRIDE}`, until exit code {INVALID}."
        record("bad_parameter", [row], f"{title}\n\n{text}\n\nRounds: {arguments.rounds}.")
    return 0 if ratio <= GOAL else 1


if __name__ == "__main__":
    sys.exit(main())

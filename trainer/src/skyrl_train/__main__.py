"""`python -m skyrl_train` is `skyrl train`; before the name of a command, such as `config`, it is `skyrl`."""

import runpy
import sys

from skyrl_train.entrypoints import main_base
from skyrl_train.ranks.exit_process import exit_process


def main() -> int:
    """Train, or run the command that the first argument names."""
    first = sys.argv[1] if len(sys.argv) > 1 else ""
    if not first or first.startswith("-") or "=" in first:
        return main_base.main(prog="python -m skyrl_train")
    runpy.run_module("skyrl_core", run_name="__main__", alter_sys=True)
    return 0  # not reached: the command exits


if __name__ == "__main__":
    exit_process(main)

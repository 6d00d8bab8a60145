"""`python -m skyrl_train` is `skyrl train`; with the name of another command, it is that command."""

import sys

from skyrl_core.cli.main import TRAINER_COMMANDS, main
from skyrl_train.entrypoints import main_base
from skyrl_train.ranks.exit_process import exit_process

if __name__ == "__main__":
    if sys.argv[1:2] and sys.argv[1] in TRAINER_COMMANDS:
        exit_process(main)
    exit_process(lambda: main_base.main(prog="python -m skyrl_train"))

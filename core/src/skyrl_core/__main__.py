"""`python -m skyrl_core` is the `skyrl` command, for a shell that does not find it."""

import sys

from skyrl_core.cli.main import main

if __name__ == "__main__":
    sys.exit(main())

"""Check a configuration, then print its plan or train."""
# PYTHON_ARGCOMPLETE_OK

from collections.abc import Sequence

from skyrl_train.entrypoints import main_base


def main(argv: Sequence[str] | None = None) -> int:
    """Check a configuration, then print its plan or train. Raises SystemExit as `main_base.main` does."""
    return main_base.main(argv, prog="skyrl train")

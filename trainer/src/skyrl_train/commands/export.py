"""Write the model of a run as a folder that transformers and vLLM load."""

import argparse
from collections.abc import Sequence
from pathlib import Path


def main(argv: Sequence[str] | None = None) -> int:
    """Export the model and print the folder.

    Raises:
        SkyrlError: there is no intact checkpoint, or the folder cannot be written.
    """
    parser = argparse.ArgumentParser(
        prog="skyrl export", description="Write the model of a run as a folder that transformers and vLLM load."
    )
    parser.add_argument("run", type=Path, metavar="RUN", help="a run folder, or a checkpoint in one")
    parser.add_argument(
        "folder", type=Path, nargs="?", metavar="FOLDER", help="a new folder; default: RUN/exported/step_N"
    )
    options = parser.parse_args(argv)
    from skyrl_train.checkpoints.model_export import export

    print(export(options.run, options.folder))
    return 0

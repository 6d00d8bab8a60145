"""Write the model of a run as a folder that transformers and vLLM load."""
# PYTHON_ARGCOMPLETE_OK

from collections.abc import Sequence
from pathlib import Path

from skyrl_core.cli import CommandParser

EXAMPLES = (
    "skyrl export runs/gspo-20260101-120000",
    "skyrl export runs/gspo-20260101-120000/checkpoints/step_50 my-model",
)


def main(argv: Sequence[str] | None = None) -> int:
    """Export the model and print the folder.

    Raises:
        SkyrlError: there is no intact checkpoint, or the folder cannot be written.
    """
    about = "Write the model of a run as a folder that transformers and vLLM load."
    parser = CommandParser(prog="skyrl export", description=about, examples=EXAMPLES)
    parser.add_argument("run", type=Path, metavar="RUN", help="a run folder, or a checkpoint in one")
    parser.add_argument(
        "folder", type=Path, nargs="?", metavar="FOLDER", help="a new folder; default: RUN/exported/step_N"
    )
    options = parser.parse_args(argv)
    from skyrl_train.checkpoints.model_export import export

    print(export(options.run, options.folder))
    return 0

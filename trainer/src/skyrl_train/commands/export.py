"""Write the model of a run as a folder that transformers and vLLM load, and push it to a hub."""
# PYTHON_ARGCOMPLETE_OK

from collections.abc import Sequence

from skyrl_core.cli import CommandParser
from skyrl_core.lookup import checked_path

EXAMPLES = (
    "skyrl export runs/gspo-20260101-120000",
    "skyrl export runs/gspo-20260101-120000/checkpoints/step_50 my-model",
)


def main(argv: Sequence[str] | None = None) -> int:
    """Export the model and print the folder; with --push, also the address of the repository.

    Raises:
        SkyrlError: there is no intact checkpoint, the folder cannot be written, or the upload fails.
    """
    about = "Write the model of a run as a folder that transformers and vLLM load."
    parser = CommandParser(prog="skyrl export", description=about, examples=EXAMPLES)
    parser.add_argument("run", type=checked_path, metavar="RUN", help="a run folder, or a checkpoint in one")
    parser.add_argument(
        "folder", type=checked_path, nargs="?", metavar="FOLDER", help="a new folder; default: RUN/exported/step_N"
    )
    parser.add_argument(
        "--push",
        metavar="REPO",
        help="upload the folder to this repository on the Hugging Face Hub, OWNER/NAME; a new one is private",
    )
    parser.add_argument(
        "--trust-remote-code",
        action="store_true",
        help="run the Python code that comes with the model of the run; whatever the configuration of the run says",
    )
    parser.add_argument("--public", action="store_true", help="with --push: make a new repository public")
    options = parser.parse_args(argv)
    if options.public and not options.push:
        parser.error("--public has no effect without --push REPO: add it, or remove --public")
    if options.push:
        from skyrl_train.checkpoints.hub_push import check_push

        check_push(options.push)
    from skyrl_train.checkpoints.model_export import export

    folder = export(options.run, options.folder, reuse=bool(options.push), trust_remote_code=options.trust_remote_code)
    print(folder)
    if options.push:
        from skyrl_train.checkpoints.hub_push import push

        print(push(folder, options.push, source=options.run, public=options.public))
    return 0

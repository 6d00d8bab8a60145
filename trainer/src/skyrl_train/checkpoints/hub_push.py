"""Pushes an exported model to the Hugging Face Hub."""

import shlex
from pathlib import Path

import huggingface_hub
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

from skyrl_core.errors import SkyrlError

LOCAL_ONLY = ("skyrl.json",)
"""Files that name paths of this machine. The model card has what they say about the model."""


def check_push(repository: str) -> None:
    """Check what can be checked before the export, which may take minutes.

    Raises:
        SkyrlError: the name of the repository is not valid, or there is no token.
    """
    try:
        validate_repo_id(repository)
    except HFValidationError as error:
        raise SkyrlError(f"--push {repository} is not the name of a repository: give OWNER/NAME. {error}") from error
    if huggingface_hub.get_token() is None:
        raise SkyrlError(
            "--push needs a Hugging Face token with write access: set HF_TOKEN, or run `hf auth login`. "
            "Nothing was exported."
        )


def push(folder: Path, repository: str, *, source: Path, public: bool) -> str:
    """Upload an exported folder in one commit, and return the address of the repository.

    A new repository is private unless ``public`` is set; the visibility of an existing one does not change.

    Args:
        folder: an exported model; it is never changed.
        repository: ``owner/name``, or ``name`` in the account of the token.
        source: the run or checkpoint, for the command in the error.
        public: make a new repository public.

    Raises:
        SkyrlError: the hub cannot be reached or refuses.
    """
    hub = huggingface_hub.HfApi()
    try:
        created = hub.create_repo(repository, private=not public, exist_ok=True)
        hub.upload_folder(
            repo_id=created.repo_id,
            folder_path=folder,
            ignore_patterns=list(LOCAL_ONLY),
            commit_message=f"Export of {source.name}",
        )
    except Exception as error:  # the HTTP library of the client, and with it its errors, depends on the version
        words = ["skyrl", "export", str(source), str(folder), "--push", repository, *(["--public"] if public else [])]
        reason = " ".join(str(error).split()).rstrip(".") or type(error).__name__
        raise SkyrlError(
            f"the model is exported to {folder}, but could not be pushed to {repository} at {hub.endpoint}: {reason}. "
            f"To retry, run `{shlex.join(words)}`; it uses the exported folder."
        ) from error
    return str(created)

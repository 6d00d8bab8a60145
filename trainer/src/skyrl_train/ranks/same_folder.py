"""Checks that every rank can use the run folder of rank 0: each writes its part of a checkpoint there."""

import os
import secrets
import socket
import time
from pathlib import Path

from skyrl_core.errors import SkyrlError
from skyrl_train.ranks.ranks import Ranks

APPEARING = 10.0
"""Seconds in which other machines must see a new file; network file systems cache folders for some seconds."""


def check_same_folder(folder: Path, ranks: Ranks) -> None:
    """Rank 0 writes a token into the folder, and all other ranks look for it. Collective.

    Raises:
        SkyrlError: some ranks do not see it; the same error on all ranks.
    """
    if ranks.world_size == 1:
        return
    token = ranks.broadcast(f".seen-{secrets.token_hex(8)}" if ranks.is_main else None)
    if ranks.is_main:
        (folder / token).touch()
    ranks.broadcast(None)  # the token exists now
    answers = ranks.gather((socket.gethostname(), str(folder.absolute()), _problem(folder, token)))
    if ranks.is_main:
        (folder / token).unlink()
    problems = [
        f"  rank {rank} on {host}: {path} {problem}" for rank, (host, path, problem) in enumerate(answers) if problem
    ]
    if problems:
        host, path, _ = answers[0]
        raise SkyrlError(
            "\n".join(
                [
                    f"not every rank can use the run folder, which rank 0 on {host} created as {path}:",
                    *problems,
                    "each rank writes its part of a checkpoint there: set run_folder to a folder on a file system that "
                    "all machines share",
                ]
            )
        )


def _problem(folder: Path, token: str) -> str | None:
    limit = time.monotonic() + APPEARING
    while not (folder / token).exists():
        if time.monotonic() > limit:
            return "is another folder" if folder.is_dir() else "does not exist"
        time.sleep(0.2)
    return None if os.access(folder, os.W_OK) else "is not writable"

"""Answers calls of one peer's functions over a pipe: `python serve.py PEER`.

A message is its length, 8 bytes, and a dict in the format of torch.save. The process sees the peer's folder first on
its path, and never our packages.
"""

import importlib
import io
import os
import struct
import sys
import traceback
from pathlib import Path

OURS = ("skyrl_core", "skyrl_train", "skyrl_loss_entropyreg", "skyrl_loss_clippedpg")


def main(peer: str, folder: str) -> None:
    for package in OURS:
        sys.modules[package] = None  # importing it is an error
    requests = os.fdopen(os.dup(0), "rb")
    replies = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what the peer prints must not get between the replies
    import torch

    code = importlib.import_module(f"{peer}_code")
    where = Path(code.MODULE.__file__).resolve()
    if not where.is_relative_to(Path(folder).resolve()):
        raise SystemExit(f"{peer} was imported from {where}, not from {folder}")
    while header := requests.read(8):
        request = torch.load(io.BytesIO(requests.read(*struct.unpack("<Q", header))), weights_only=True)
        try:
            reply = {"result": getattr(code, request["function"])(**request["arguments"])}
        except Exception as error:  # noqa: BLE001 - the caller raises it
            traceback.print_exc()
            reply = {"error": f"{type(error).__name__}: {error}"}
        buffer = io.BytesIO()
        torch.save(reply, buffer)
        replies.write(struct.pack("<Q", buffer.tell()) + buffer.getvalue())
        replies.flush()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])

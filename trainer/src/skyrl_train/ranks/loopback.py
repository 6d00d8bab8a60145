"""The loopback interface: ranks of one machine listen there only, so that nobody else can connect to a run."""

import os
import socket

ADDRESS = "127.0.0.1"

NAMES = ("lo", "lo0")  # Linux, macOS

GLOO, NCCL = "GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"
"""Environment variables with the interface of each library."""


def stay_on_this_machine(*, nccl: bool) -> None:
    """Make collectives of this process use the loopback interface, if a launcher or the user chose no other.

    Args:
        nccl: also those of NCCL, which reads its variable once and uses it for every group.
    """
    existing = {name for _, name in socket.if_nameindex()}
    found = next((name for name in NAMES if name in existing), None)
    if found is None:
        return
    for variable in (GLOO, NCCL) if nccl else (GLOO,):
        os.environ.setdefault(variable, found)


def are_on_one_machine() -> bool:
    """Whether all ranks run on this machine, according to their launcher."""
    local = os.environ.get("LOCAL_WORLD_SIZE", os.environ.get("LOCAL_SIZE"))  # deepspeed's launcher sets the latter
    return local is not None and local == os.environ.get("WORLD_SIZE")

"""The process that `skyrl train --num-processes` starts: torch's elastic launcher, on the loopback interface only.

    python -m skyrl_train.ranks.launcher PROCESSES PROGRAM [ARGUMENT ...]

torchrun's store listens on all interfaces, and whoever reaches it can end the run. This one takes a socket that is
bound to 127.0.0.1 already, on a free port.
"""

import logging
import os
import signal
import socket
import sys
import uuid
from collections.abc import Sequence

from torch.distributed import TCPStore  # type: ignore[attr-defined]  # torch does not list it
from torch.distributed.elastic.multiprocessing import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.elastic.rendezvous import RendezvousHandler, RendezvousParameters, rendezvous_handler_registry
from torch.distributed.elastic.rendezvous.static_tcp_rendezvous import StaticTCPRendezvous
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from skyrl_train.machine.parent_watch import child_of_this_process, watch_parent
from skyrl_train.ranks.loopback import ADDRESS
from skyrl_train.tracking.stderr import say

BACKEND = "skyrl_loopback"
TIMEOUT = 600
"""Seconds for the ranks to find each other."""


class LoopbackRendezvous(StaticTCPRendezvous):
    """The meeting point of the ranks of one machine, whose store no other machine can reach."""

    def __init__(self, run_id: str) -> None:
        listener = socket.create_server((ADDRESS, 0))
        port = listener.getsockname()[1]
        super().__init__(ADDRESS, port, 0, 1, run_id, TIMEOUT)
        descriptor = listener.detach()  # the store closes it
        self._store = TCPStore(
            ADDRESS, port, 1, is_master=True, timeout=self.timeout, multi_tenant=True, master_listen_fd=descriptor
        )

    def get_backend(self) -> str:
        return BACKEND


def _rendezvous(parameters: RendezvousParameters) -> RendezvousHandler:
    return LoopbackRendezvous(parameters.run_id)


def main(arguments: Sequence[str]) -> int:
    """Run the program in each process. Returns 0, or the exit code of the process that failed first."""
    logging.disable(logging.ERROR)  # torch's lines about its processes; the run's last lines say how it ended
    watch_parent()  # SIGTERM makes the launcher end its processes in order
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # the trainer chooses its threads later
    os.environ |= child_of_this_process()
    rendezvous_handler_registry.register(BACKEND, _rendezvous)
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=int(arguments[0]),
        run_id=uuid.uuid4().hex,
        rdzv_backend=BACKEND,
        local_addr=ADDRESS,
        max_restarts=0,
        monitor_interval=0.1,
    )
    try:
        elastic_launch(config, sys.executable)("-u", *arguments[1:])
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        if failure.exitcode < 0:  # the process could not report it
            say(f"error: the process of rank {rank} was ended by {signal.Signals(-failure.exitcode).name}")
        return failure.exitcode if failure.exitcode > 0 else 128 - failure.exitcode
    except SignalException as stop:
        return 128 + int(stop.sigval)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

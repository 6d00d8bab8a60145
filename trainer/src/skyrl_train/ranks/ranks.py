"""The process group of a run: this process's rank, and the collectives that the trainer uses."""

import atexit
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from skyrl_core.errors import PluginError, SkyrlError
from skyrl_train.ranks.loopback import are_on_one_machine, stay_on_this_machine
from skyrl_train.ranks.shared_error import SharedError

T = TypeVar("T")

ALONE = {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1"}
"""The environment of a run with one process; DeepSpeed and accelerate read it."""


class Ranks:
    """The process group of a run: one process, or those that a launcher started."""

    def __init__(self, *, alone: bool = False) -> None:
        self._alone = alone
        self.rank = int(os.environ["RANK"])
        self.world_size = int(os.environ["WORLD_SIZE"])
        self.local_world_size = int(os.environ.get("LOCAL_WORLD_SIZE", self.world_size))
        cuda = torch.cuda.is_available()
        self.device = torch.device("cuda", int(os.environ["LOCAL_RANK"])) if cuda else torch.device("cpu")

    @classmethod
    def start(cls, *, timeout: timedelta = timedelta(minutes=30), nccl_to_servers: bool = False) -> "Ranks":
        """Join the group that the launcher describes in the environment, or form a group of one process.

        Ranks of one machine listen on its loopback interface only. ``nccl_to_servers``: except for NCCL, which also
        sends weights to rollout servers.
        """
        alone = "WORLD_SIZE" not in os.environ or "RANK" not in os.environ
        if alone:
            os.environ |= ALONE
        if are_on_one_machine():
            stay_on_this_machine(nccl=not nccl_to_servers)
        ranks = cls(alone=alone)
        if ranks.device.type == "cuda":
            torch.cuda.set_device(ranks.device)
        if not dist.is_initialized():
            # One process uses a store in memory, without a port that could be in use.
            where: dict[str, Any] = {"init_method": "env://"}
            if alone:
                where = {"store": dist.HashStore()}  # type: ignore[attr-defined]  # public, but absent from the stubs
            backend = "nccl" if ranks.device.type == "cuda" else "gloo"
            dist.init_process_group(backend, rank=ranks.rank, world_size=ranks.world_size, timeout=timeout, **where)
            # At exit, not at a run's end: DeepSpeed keeps the first group that it sees, and another run may follow.
            atexit.unregister(_destroy_group)
            atexit.register(_destroy_group)
        return ranks

    @property
    def is_main(self) -> bool:
        """Whether this process writes files and prints."""
        return self.rank == 0

    def sum(self, values: Tensor) -> Tensor:
        """Element-wise sum over ranks, on this rank's device."""
        return self._reduce(values, dist.ReduceOp.SUM)

    def max(self, values: Tensor) -> Tensor:
        """Element-wise maximum over ranks, on this rank's device."""
        return self._reduce(values, dist.ReduceOp.MAX)

    def _reduce(self, values: Tensor, operation: dist.ReduceOp.RedOpType) -> Tensor:
        values = values.detach().to(self.device, copy=True)
        if self.world_size > 1:
            with _detects_lost_rank():
                dist.all_reduce(values, operation)
        return values

    def gather(self, value: Any) -> list[Any]:
        """The values of all ranks, in rank order, on every rank. They are pickled: keep them small."""
        return self._gather(value, None)

    def gather_in_thread(self) -> Callable[[Any], list[Any]]:
        """A `gather` for another thread. It needs a separate group: calls of two threads would mix. Collective."""
        group = dist.new_group(backend="gloo") if self.world_size > 1 else None
        return lambda value: self._gather(value, group)

    def _gather(self, value: Any, group: dist.ProcessGroup | None) -> list[Any]:
        if self.world_size == 1:
            return [value]
        gathered: list[Any] = [None] * self.world_size
        with _detects_lost_rank():
            dist.all_gather_object(gathered, value, group=group)
        return gathered

    def broadcast(self, value: Any) -> Any:
        """The value of rank 0, on every rank."""
        if self.world_size == 1:
            return value
        box = [value]
        with _detects_lost_rank():
            dist.broadcast_object_list(box, src=0)
        return box[0]

    def together(self, work: Callable[[], T]) -> T:
        """The result of this rank's work, once every rank has done its own. Collective; the work must not be.

        Raises:
            SharedError: the work raised a SkyrlError on some rank; the same error on all ranks.
        """
        if self.world_size == 1:
            return work()
        outcome: list[T] = []
        failure: SkyrlError | None = None
        try:
            outcome.append(work())
        except SkyrlError as error:
            failure = error
        reports = self.gather(failure and (str(failure), failure.exit_code))
        for rank, report in enumerate(reports):
            if report is not None:
                shared = SharedError(f"on rank {rank}: {report[0]}")
                shared.exit_code = report[1]
                raise shared from failure
        return outcome[0]

    def can_continue_after(self, error: BaseException) -> bool:
        """Whether all ranks raised this error at the same point, so that they can still work together."""
        return self.world_size == 1 or isinstance(error, SharedError)

    def end_run(self) -> None:
        """End this run; the next run of the process uses the group again."""
        if self._alone:
            # Otherwise that run, or a child process, would look for a launcher.
            for name in ALONE:
                os.environ.pop(name, None)


SETTLING = 0.2
"""Seconds at exit in which gloo's threads release the tensors of the last collective."""


def _destroy_group() -> None:
    """Destroy the process group before the interpreter shuts down.

    A thread of gloo that releases a tensor during shutdown aborts the process ("terminate called without an active
    exception"). DeepSpeed keeps references to the group in too many places to end its threads, so they get some time.
    """
    if not dist.is_initialized():
        return
    dist.destroy_process_group()
    if dist.is_gloo_available():
        time.sleep(SETTLING)


@contextmanager
def released_group() -> Iterator[None]:
    """Destroy the process group that the body forms, so that the process can form another one afterwards."""
    had_one = dist.is_initialized()
    try:
        yield
    finally:
        deepspeed: Any = sys.modules.get("deepspeed.comm.comm")
        if dist.is_initialized() and not had_one:
            # Through DeepSpeed, which then forgets the group and its copies.
            known = deepspeed is not None and deepspeed.is_initialized()
            (deepspeed if known else dist).destroy_process_group()
            if deepspeed is not None:
                deepspeed.cdb = None


LOST = "another rank exited without an error message or stopped responding; it may have run out of memory"


class RankLost(SkyrlError):
    """A collective failed or timed out: another rank is gone, and its message says why."""


@contextmanager
def _detects_lost_rank() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        reason = str(error).strip().split("\n")[0]
        raise RankLost(f"{LOST} ({reason})") from error


def is_broken_collective(error: BaseException) -> bool:
    """Whether the error shows that another rank is gone; DeepSpeed's collectives show it in their text only.

    The cause of a PluginError counts: a rollout engine reads the weights through a collective.
    """
    if isinstance(error, PluginError) and error.__cause__ is not None:
        return is_broken_collective(error.__cause__)
    gloo = ("gloo/transport", "Connection closed by peer", "Connection reset by peer")
    nccl = ("ncclRemoteError", "remote process exited", "collective operation timeout")
    return isinstance(error, RankLost | dist.DistNetworkError) or (
        isinstance(error, RuntimeError) and any(text in str(error) for text in gloo + nccl)
    )

"""Sends weights from the trainer's GPU to those of vLLM servers over NCCL. Needs vLLM in the trainer.

It follows the interface of vLLM 0.32. The tests of this repository have no GPU and do not run it.
"""

import asyncio
import concurrent.futures
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any
from urllib.parse import urlsplit

import torch
from torch import Tensor

from skyrl_core.errors import SkyrlError
from skyrl_train.config.extras import install_extra
from skyrl_train.rollout.rollout_engine import WeightSource
from skyrl_train.rollout.vllm_server.client import Server, ServerError, run_all
from skyrl_train.rollout.vllm_server.http_weights import begin_update, name_weights
from skyrl_train.rollout.weights import checkpoint_tensors

PASSES = 2
"""Iterations of the weights on every rank: one for their shapes, one for their values."""

JOIN_LIMIT = 60.0
"""Seconds to wait for a failed transfer to end."""


class Source:
    """The trained weights as vLLM's ``WeightSource``."""

    def __init__(self, weights: WeightSource) -> None:
        self._weights = weights
        self._left = PASSES
        self._open: Iterator[tuple[str, Tensor]] = iter(())

    def metadata(self) -> list[Any]:
        """Name, type and full shape of each tensor."""
        from vllm.distributed.weight_transfer import ParamMeta

        return [ParamMeta(name, tensor.dtype, tuple(tensor.shape)) for name, tensor in self]

    def __iter__(self) -> Iterator[tuple[str, Tensor]]:
        self._left -= 1
        self._open = checkpoint_tensors(self._weights)
        return self._open

    def drain(self) -> None:
        """Finish all iterations, because the other ranks make them, too."""
        for _ in self._open:
            pass
        while self._left:
            for _ in self:
                pass


class Client:
    """The four calls of vLLM's sender, sent from its threads to all servers at once."""

    def __init__(self, servers: Sequence[Server], workers: Sequence[int], loop: asyncio.AbstractEventLoop) -> None:
        self._servers, self._workers, self._loop = servers, workers, loop

    def init_weight_transfer_engine(self, init_info: dict[str, Any]) -> None:
        """Add the workers of each server to the group, with consecutive ranks."""
        bodies, first = [], int(init_info["rank_offset"])
        for count in self._workers:
            bodies.append({"init_info": init_info | {"rank_offset": first}})
            first += count
        self._call("/init_weight_transfer_engine", bodies)

    def start_weight_update(self) -> None:
        """Do nothing: the update starts before the group is created."""

    def update_weights(self, update_info: dict[str, Any]) -> None:
        """Return once every worker has received all tensors."""
        self._call("/update_weights", [{"update_info": update_info}] * len(self._servers))

    def finish_weight_update(self) -> None:
        """End the update; the weights are named later, once the caches are cleared."""
        self._call("/finish_weight_update", [{}] * len(self._servers))

    def _call(self, path: str, bodies: Sequence[dict[str, Any]]) -> None:
        calls = [_post(server, path, body) for server, body in zip(self._servers, bodies, strict=True)]
        asyncio.run_coroutine_threadsafe(run_all(calls), self._loop).result()


async def push_over_nccl(
    servers: Sequence[Server], weights: WeightSource, version: str, device: torch.device, timeout: float
) -> None:
    """Send the weights to each server, as ``push_weights`` does; called on rank 0.

    Each transfer creates a group, because one that is broken by the restart of a server looks like a good one.

    Raises:
        SkyrlError: vLLM is not installed next to the trainer.
        ServerError: a server failed, or the transfer took more than ``timeout`` seconds.
    """
    source = Source(weights)
    try:
        await _transfer(servers, source, device, timeout)
        await run_all([_post(server, "/shutdown_weight_transfer_engine", {}) for server in servers])
        await run_all([name_weights(server, version) for server in servers])
    except SkyrlError:
        source.drain()
        raise


async def _transfer(servers: Sequence[Server], source: Source, device: torch.device, timeout: float) -> None:
    factory, init_info = _vllm()
    workers = [int((await server.call("GET", "/get_world_size"))["world_size"]) for server in servers]
    await run_all([begin_update(server) for server in servers])
    client = Client(servers, workers, asyncio.get_running_loop())
    info = init_info(rank=0, world_size=1 + sum(workers), **_address(servers[0]))
    senders: list[Any] = []

    def send() -> None:
        torch.cuda.set_device(device)  # a new thread uses device 0
        senders.append(factory.trainer_init(info, client=client, source=source))
        senders[0].send_weights()

    # A daemon, so that the process never waits for NCCL when it exits.
    outcome: concurrent.futures.Future[None] = concurrent.futures.Future()
    thread = threading.Thread(target=_run, args=(send, outcome), daemon=True)
    thread.start()
    try:
        async with asyncio.timeout(timeout):
            await asyncio.wrap_future(outcome)
    except TimeoutError:
        raise ServerError(f"the weights did not reach the rollout servers over nccl within {timeout:g} s") from None
    finally:
        for sender in senders:
            sender.model_update_group.destroy()  # which also ends a transfer that hangs
        await asyncio.to_thread(thread.join, JOIN_LIMIT)


def _run(send: Callable[[], None], outcome: concurrent.futures.Future[None]) -> None:
    try:
        send()
    except ServerError as error:
        outcome.set_exception(error)
    except (RuntimeError, ValueError, OSError) as error:  # what NCCL and torch raise
        outcome.set_exception(ServerError(f"the weights could not be sent over nccl: {error}"))
    else:
        outcome.set_result(None)


def _vllm() -> tuple[Any, Any]:
    try:
        from vllm.distributed.weight_transfer import WeightTransferTrainerFactory
        from vllm.distributed.weight_transfer.nccl_engine import NCCLTrainerInitInfo
    except ImportError as error:
        raise SkyrlError(
            "rollout.server.weight_transfer: nccl needs vLLM on the trainer's machine, too: "
            f"{install_extra('vllm')}, or set http"
        ) from error
    return WeightTransferTrainerFactory, NCCLTrainerInitInfo


def _address(server: Server) -> dict[str, Any]:
    """A free port of this machine, at its address towards the server."""
    parts = urlsplit(server.url)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect((parts.hostname, parts.port or 80))  # sends nothing
        address = probe.getsockname()[0]
    with socket.socket() as probe:
        probe.bind((address, 0))
        return {"master_address": address, "master_port": probe.getsockname()[1]}


async def _post(server: Server, path: str, body: dict[str, Any]) -> None:
    await server.call("POST", path, body)

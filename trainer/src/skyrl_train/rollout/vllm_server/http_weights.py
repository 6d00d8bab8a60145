"""Sends weights to vLLM servers in HTTP requests: needs no shared folder and no port of the trainer."""

import asyncio
import base64
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from skyrl_train.rollout.rollout_engine import WeightSource
from skyrl_train.rollout.vllm_server.client import Server, ServerError, run_all
from skyrl_train.rollout.weights import checkpoint_tensors

REQUEST_BYTES = 32 * 2**20
"""Bytes of weights in one request: a server can hold several requests, and the overhead of each is negligible."""

INCOMPLETE = "skyrl-incomplete"
"""The version of a server between the first and the last request of an update; no sample of it is used."""

CACHE_ATTEMPTS, CACHE_PAUSE = 50, 0.2
"""Attempts to clear a cache, which requests of an interrupted run may still use, and seconds between attempts."""


async def push_weights(servers: Sequence[Server], weights: WeightSource, version: str) -> None:
    """Send the weights to each server. A server has ``version`` only once it has all of them.

    The source is always iterated to its end, because other ranks iterate with this one.

    Raises:
        ServerError: a server failed.
    """
    requests = pieces_of(weights)
    try:
        await run_all([begin_update(server) for server in servers])
        for pieces in requests:
            await run_all([_send(server, pieces) for server in servers])
        await run_all([_finish(server, version) for server in servers])
    except ServerError:
        for _ in requests:
            pass
        raise


def pieces_of(weights: WeightSource, request_bytes: int = REQUEST_BYTES) -> Iterator[list[dict[str, Any]]]:
    """The tensors cut into pieces of JSON, one list for each request; large tensors span several requests."""
    pieces: list[dict[str, Any]] = []
    room = request_bytes
    for name, tensor in checkpoint_tensors(weights):
        data = _bytes_of(tensor)
        about = {"name": name, "dtype": str(tensor.dtype).removeprefix("torch."), "shape": list(tensor.shape)}
        start = 0
        while start < len(data):
            part = data[start : start + room]
            pieces.append({**about, "offset": start, "data": base64.b64encode(part).decode()})
            start += len(part)
            room -= len(part)
            if not room:
                yield pieces
                pieces, room = [], request_bytes
    if pieces:
        yield pieces


def _bytes_of(tensor: Tensor) -> memoryview:
    flat = tensor.detach().to("cpu").contiguous().view(-1)
    return flat.view(torch.uint8).numpy().data


async def begin_update(server: Server) -> None:
    """Mark the server's weights as incomplete and start an update, after closing one that was left open."""
    await server.set_weight_version(INCOMPLETE)
    try:
        await server.call("POST", "/start_weight_update")
    except ServerError:
        # A trainer that died during an update left it open. A failing update closes it.
        await _fail_update(server)
        await server.call("POST", "/start_weight_update")


async def _fail_update(server: Server) -> None:
    try:
        await server.call("POST", "/update_weights", {"update_info": {"pieces": [{}]}})
    except ServerError:
        return
    raise AssertionError("a server accepted an empty piece")


async def _send(server: Server, pieces: list[dict[str, Any]]) -> None:
    await server.call("POST", "/update_weights", {"update_info": {"pieces": pieces}})


async def _finish(server: Server, version: str) -> None:
    await server.call("POST", "/finish_weight_update")
    await name_weights(server, version)


async def name_weights(server: Server, version: str) -> None:
    """End an update: clear the caches of the old weights, then name the new ones."""
    await _empty_cache(server)
    await server.set_weight_version(version)


async def _empty_cache(server: Server) -> None:
    for _ in range(CACHE_ATTEMPTS):
        if (await server.call("POST", "/reset_prefix_cache"))["success"]:
            return
        await asyncio.sleep(CACHE_PAUSE)
    raise ServerError(
        f"the rollout server at {server.url} cannot clear its prefix cache, because it serves requests of another "
        "client: use separate servers for each run"
    )

"""Weights on their way to vLLM servers, in HTTP requests: no shared folder, no port of the trainer, any machine."""

import asyncio
import base64
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from skyrl_train.rollout.rollout_engine import WeightSource
from skyrl_train.rollout.vllm_server.client import Server, ServerError, all_of

REQUEST_BYTES = 32 * 2**20
"""Of weights in one request: few enough that a server holds several, many enough that requests cost nothing."""

INCOMPLETE = "skyrl-incomplete"
"""The version of a server between the first and the last request of an update; no sample of it is used."""

CACHE_ATTEMPTS, CACHE_PAUSE = 50, 0.2
"""Requests of a run that was interrupted hold on to the cache for a moment; seconds between attempts."""


async def push_weights(servers: Sequence[Server], weights: WeightSource, version: str) -> None:
    """Give the weights to each server, whole or not at all: one that could not finish never has ``version``.

    The source is iterated to its end in any case, because other ranks iterate with this one.

    Raises:
        ServerError: as of the server that fails.
    """
    requests = pieces_of(weights)
    try:
        await all_of([begin_update(server) for server in servers])
        for pieces in requests:
            await all_of([_send(server, pieces) for server in servers])
        await all_of([_finish(server, version) for server in servers])
    except ServerError:
        for _ in requests:
            pass
        raise


def pieces_of(weights: WeightSource, request_bytes: int = REQUEST_BYTES) -> Iterator[list[dict[str, Any]]]:
    """The tensors cut into pieces of JSON, a list for each request; large ones are spread over several."""
    pieces: list[dict[str, Any]] = []
    room = request_bytes
    for name, tensor in weights.named_tensors():
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
    """Name its weights incomplete, then begin; also where an update was left open."""
    await server.set_weight_version(INCOMPLETE)
    try:
        await server.call("POST", "/start_weight_update")
    except ServerError:
        # A trainer that died in the middle of an update has left it open. An update that fails closes it.
        await _break_off(server)
        await server.call("POST", "/start_weight_update")


async def _break_off(server: Server) -> None:
    try:
        await server.call("POST", "/update_weights", {"update_info": {"pieces": [{}]}})
    except ServerError:
        return
    raise AssertionError("a server took a piece of nothing")


async def _send(server: Server, pieces: list[dict[str, Any]]) -> None:
    await server.call("POST", "/update_weights", {"update_info": {"pieces": pieces}})


async def _finish(server: Server, version: str) -> None:
    await server.call("POST", "/finish_weight_update")
    await name_weights(server, version)


async def name_weights(server: Server, version: str) -> None:
    """The end of an update: first what was computed with the old weights has to go from the caches."""
    await _empty_cache(server)
    await server.set_weight_version(version)


async def _empty_cache(server: Server) -> None:
    for _ in range(CACHE_ATTEMPTS):
        if (await server.call("POST", "/reset_prefix_cache"))["success"]:
            return
        await asyncio.sleep(CACHE_PAUSE)
    raise ServerError(
        f"the rollout server at {server.url} cannot empty its prefix cache, because it works on requests of somebody "
        "else; give each run servers of its own"
    )

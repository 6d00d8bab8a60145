"""The HTTP client of one vLLM server: its requests and its errors. Imports no vLLM."""

import asyncio
from collections.abc import AsyncIterator, Coroutine, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

import httpx2

from skyrl_train.ranks.shared_error import SharedError

CONNECT_TIMEOUT = 15.0
"""Seconds after which a machine that does not accept the connection counts as lost."""

POLL_TIMEOUT = 15.0
"""Seconds that a server has to answer a health check, which does not involve its engine."""

POLLS, POLL_PAUSE = 4, 0.2
"""Failed health checks before a server counts as lost; seconds between two checks."""

KEEP_ALIVE = 2.0
"""Seconds for which an idle connection is reused. vLLM closes it after 5, which could break a request."""


class ServerError(SharedError):
    """A rollout server refuses a request, or does not answer in time. The engine raises it on all ranks."""


class ServerLostError(ServerError):
    """A rollout server cannot be reached, or no longer has the weights that it received."""


@dataclass(frozen=True, kw_only=True)
class ServerDescription:
    """The settings of a server that training depends on."""

    model: str
    served_name: str
    max_model_len: int
    dtype: str  # as torch prints it
    logprobs_mode: str
    chunked_prefill: bool
    device: str
    weight_transfer: str | None
    workers: int


class Server:
    """The HTTP interface of one server. Call its coroutines inside ``async with server.connected()``."""

    def __init__(self, url: str, *, timeout: float) -> None:
        """``timeout``: longest time for an answer, in seconds."""
        self.url = url.rstrip("/")
        self._timeout = timeout
        self._http: httpx2.AsyncClient

    @asynccontextmanager
    async def connected(self) -> AsyncIterator[None]:
        """Opens connections, which live as long as the event loop of this call."""
        # The caller limits concurrency. Proxies of the environment are not meant for rollout servers.
        limits = httpx2.Limits(max_connections=None, max_keepalive_connections=None, keepalive_expiry=KEEP_ALIVE)
        timeout = httpx2.Timeout(None, connect=CONNECT_TIMEOUT)
        async with httpx2.AsyncClient(base_url=self.url, timeout=timeout, limits=limits, trust_env=False) as http:
            self._http = http
            yield

    async def is_healthy(self) -> bool:
        """Whether the server answers and its engine is alive."""
        for _ in range(POLLS):
            try:
                async with asyncio.timeout(POLL_TIMEOUT):
                    return (await self._http.get("/health")).status_code == HTTPStatus.OK
            except TimeoutError:
                return False
            except httpx2.TransportError:
                # Perhaps only the connection is broken: a server closes it after an error.
                await asyncio.sleep(POLL_PAUSE)
        return False

    async def describe(self) -> ServerDescription:
        """The settings that the server was started with."""
        answer = await self.call("GET", "/server_info", params={"config_format": "json"})
        config = answer["vllm_config"]
        model, transfer = config["model_config"], config["weight_transfer_config"]
        return ServerDescription(
            model=model["model"],
            served_name=_first(model["served_model_name"]),
            max_model_len=model["max_model_len"],
            dtype=model["dtype"],
            logprobs_mode=model["logprobs_mode"],
            chunked_prefill=config["scheduler_config"]["enable_chunked_prefill"],
            device=config["device_config"]["device"],
            weight_transfer=transfer and transfer["backend"],
            workers=config["parallel_config"]["world_size"],
        )

    async def weight_version(self) -> str:
        """The name that the last weight update gave to the weights; ``default`` before the first."""
        return str((await self.call("GET", "/weight_info"))["weight_version"])

    async def set_weight_version(self, version: str) -> None:
        """Give the current weights a new name."""
        await self.call("POST", "/update_weight_version", {"new_version": version})

    async def generate(self, token_ids: Sequence[int], sampling_params: dict[str, Any]) -> dict[str, Any]:
        """The answer to one prompt."""
        body = {"token_ids": list(token_ids), "sampling_params": sampling_params}
        return await self.call("POST", "/inference/v1/generate", body)

    async def call(
        self, method: str, path: str, body: dict[str, Any] | None = None, params: dict[str, str] | None = None
    ) -> dict[str, Any]:
        """The answer to one request, as JSON.

        Raises:
            ServerLostError: no server answers, or its engine has died.
            ServerError: the server answers with an error, or not in time.
        """
        try:
            async with asyncio.timeout(self._timeout):
                response = await self._http.request(method, path, json=body, params=params)
        except TimeoutError:
            raise ServerError(
                f"the rollout server at {self.url} has not answered {path} within {self._timeout:g} s: it hangs or is "
                "far slower than expected; check its log, or raise rollout.server.request_timeout"
            ) from None
        except httpx2.TransportError as error:
            raise ServerLostError(f"no rollout server answers at {self.url} ({_text(error)})") from error
        if response.status_code >= HTTPStatus.INTERNAL_SERVER_ERROR and not await self.is_healthy():
            raise ServerLostError(f"the engine of the rollout server at {self.url} has died")
        if response.status_code != HTTPStatus.OK:
            raise ServerError(
                f"the rollout server at {self.url} refuses {path} ({response.status_code}): {_reason(response)}"
            )
        answer: dict[str, Any] = response.json()
        return answer


async def run_all(calls: Sequence[Coroutine[Any, Any, None]]) -> None:
    """Run all calls concurrently to their ends, then raise the most serious error."""
    results = await asyncio.gather(*calls, return_exceptions=True)
    errors = [result for result in results if isinstance(result, BaseException)]
    for error in sorted(errors, key=lambda error: isinstance(error, ServerLostError)):
        raise error


def _first(names: str | list[str]) -> str:
    return names if isinstance(names, str) else names[0]


def _text(error: httpx2.TransportError) -> str:
    return str(error) or type(error).__name__


def _reason(response: httpx2.Response) -> str:
    """vLLM's error message, which the body has in one of two forms."""
    try:
        body = response.json()
    except ValueError:
        return response.text.strip()[:500] or "without a reason"
    error = body.get("error", body.get("detail", body)) if isinstance(body, dict) else body
    return str(error.get("message", error) if isinstance(error, dict) else error)[:500]

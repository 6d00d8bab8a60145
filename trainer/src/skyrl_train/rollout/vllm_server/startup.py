"""Waits for rollout servers and checks that their settings fit the run."""

import asyncio
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Self
from urllib.parse import urlsplit

from skyrl_train.config.schema import RunConfig
from skyrl_train.policy.model_loading import load_config
from skyrl_train.rollout.rollout_engine import EngineSetup, longest_response
from skyrl_train.rollout.vllm.sampling_params import DTYPES, LOGPROBS_MODE
from skyrl_train.rollout.vllm_server.client import Server, ServerDescription, ServerError, ServerLostError, run_all
from skyrl_train.rollout.vllm_server.vllm_plugin import HTTP_BACKEND

BACKENDS = {"http": HTTP_BACKEND, "nccl": "nccl"}
"""vLLM's names for the values of ``rollout.server.weight_transfer``."""

PAUSE, REPORT_EVERY = 1.0, 20.0
"""Seconds between two checks for a server, and between two messages about the wait."""


@dataclass(frozen=True, kw_only=True)
class ServerNeeds:
    """The settings that a server must have to serve a run."""

    model: str
    names: frozenset[str]
    max_model_len: int
    dtype: str
    weight_transfer: str

    @classmethod
    def of(cls, setup: EngineSetup) -> Self:
        """The needs of this run."""
        rollout = setup.config.rollout
        return cls(
            model=setup.config.model,
            names=frozenset({setup.config.model, setup.model}),
            max_model_len=longest_sequence(setup.config, setup.model),
            dtype=DTYPES[setup.config.trainer.deepspeed.precision],
            weight_transfer=BACKENDS[rollout.server.weight_transfer],
        )

    def differences(self, found: ServerDescription) -> Iterator[str]:
        """A description of each setting that does not fit."""
        if self.names.isdisjoint({found.served_name, found.model}):
            yield f"it serves the model {found.served_name!r}, this run needs {self.model!r}"
        if found.max_model_len < self.max_model_len:
            yield (
                f"its sequences have at most {found.max_model_len} tokens (max_model_len), this run needs "
                f"{self.max_model_len}"
            )
        if found.dtype.removeprefix("torch.") != self.dtype:
            yield f"it computes in {found.dtype.removeprefix('torch.')}, the trainer in {self.dtype}"
        if found.logprobs_mode != LOGPROBS_MODE:
            yield f"its log-probs are {found.logprobs_mode}, not those of the sampled distribution ({LOGPROBS_MODE})"
        if found.weight_transfer != self.weight_transfer:
            yield f"its weight transfer is {found.weight_transfer or 'disabled'}, this run needs {self.weight_transfer}"
        if found.device == "cpu" and found.chunked_prefill:
            yield "chunked prefill is enabled, and on a CPU a chunked prompt with a seed crashes vLLM"


def longest_sequence(config: RunConfig, model: str) -> int:
    """Tokens of the longest prompt and response, at most the model's number of positions.

    Raises:
        SkyrlError: the model's configuration cannot be read.
    """
    positions = getattr(load_config(model, config.model_options).get_text_config(), "max_position_embeddings", None)
    wanted = config.rollout.max_prompt_tokens + longest_response(config)
    return min(wanted, positions) if positions else wanted


async def wait_for_servers(
    servers: Sequence[Server], needs: ServerNeeds, timeout: float, message: Callable[[str], None]
) -> None:
    """Wait until each server answers and fits.

    Raises:
        ServerError: a server does not answer within ``timeout`` seconds, or was started with other settings.
    """
    await run_all([_wait_for(server, needs, timeout, message) for server in servers])


async def _wait_for(server: Server, needs: ServerNeeds, timeout: float, message: Callable[[str], None]) -> None:
    started = reported = time.monotonic()
    while True:
        if await server.is_healthy():
            try:
                return _check(server, await _description(server), needs)
            except ServerLostError:
                message(f"the rollout server at {server.url} no longer answers")
        now = time.monotonic()
        if now - started >= timeout:
            raise ServerError(
                f"no rollout server answers at {server.url} after {timeout:g} s: start one with "
                f"`{command(server.url)}`, or correct rollout.server.urls"
            )
        if now - reported >= REPORT_EVERY:
            reported = now
            message(f"waiting for the rollout server at {server.url}: {now - started:.0f} of {timeout:g} s")
        await asyncio.sleep(PAUSE)


async def _description(server: Server) -> ServerDescription:
    try:
        return await server.describe()
    except ServerLostError:
        raise
    except ServerError as error:
        raise ServerError(f"{error}; start a server for this run with `{command(server.url)}`") from error


def _check(server: Server, found: ServerDescription, needs: ServerNeeds) -> None:
    differences = list(needs.differences(found))
    if differences:
        raise ServerError(
            f"the rollout server at {server.url} has other settings than this run: {'; '.join(differences)}. Start one "
            f"that fits with `{command(server.url)}`"
        )


def command(url: str) -> str:
    """The command that starts a server at this address."""
    parts = urlsplit(url)
    return f"skyrl serve --config FILE --host {parts.hostname} --port {parts.port or 80}"

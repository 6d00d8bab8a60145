"""Samples with vLLM servers in other processes or on other machines; `skyrl serve` starts one.

Each server holds weights under a name that this run gave them, and each answer carries that name. So a sample of other
weights, from a server that was restarted or only half updated, is never used.
"""

import asyncio
import secrets
from collections.abc import Callable, Coroutine, Sequence
from contextlib import AsyncExitStack
from itertools import pairwise
from typing import Any

from skyrl_train.rollout.rollout_engine import EngineSetup, HandOver, Sample, SampleRequest, Sampling, WeightSource
from skyrl_train.rollout.stop_strings import StopStrings
from skyrl_train.rollout.vllm.sampling_params import log_prob_arguments, sampling_arguments
from skyrl_train.rollout.vllm_server.answers import prompt_log_probs, sample_of, version_of
from skyrl_train.rollout.vllm_server.client import Server, ServerError, ServerLostError, run_all
from skyrl_train.rollout.vllm_server.http_weights import push_weights
from skyrl_train.rollout.vllm_server.nccl_weights import PASSES, push_over_nccl
from skyrl_train.rollout.vllm_server.startup import ServerNeeds, wait_for_servers

ATTEMPTS = 4
"""Attempts at one batch or weight sync, if a server is lost each time, before the run fails."""

Work = Callable[[], Coroutine[Any, Any, None]]
Request = tuple[int, Sequence[int], dict[str, Any]]
"""An index, token ids, and vLLM's sampling parameters."""
StoreAnswer = Callable[[int, dict[str, Any]], None]
"""Takes the index of a request and its answer."""


class VllmServerEngine:
    """The rollout engine vllm_server: all ranks send requests to all servers; rank 0 sends the weights."""

    shares_weights = False
    works_elsewhere = True

    def __init__(self, setup: EngineSetup) -> None:
        """Wait for the servers and check that they fit this run.

        Raises:
            ServerError: a server does not answer in time, or was started with other settings.
        """
        self._settings = setup.config.rollout.server
        self._servers = [Server(url, timeout=self._settings.request_timeout) for url in self._settings.urls]
        self._needs = ServerNeeds.of(setup)
        self._end_tokens = setup.end_tokens
        self._tokenizer = setup.tokenizer
        self._rank = setup.rank
        self._device = setup.device
        self._gather = setup.gather
        self._message = setup.message
        self._run = self._gather(secrets.token_hex(4))[0]  # two runs never give the same name to their weights
        self._syncs = 0
        self._current = False  # whether the servers should have the weights of the last sync
        self._weights: WeightSource | None = None
        self._policy_version = 0
        self._await_servers(self._settings.start_timeout)

    def generate(
        self, requests: Sequence[SampleRequest], sampling: Sampling, hand_over: HandOver | None = None
    ) -> list[Sample]:
        """One sample for each request of this rank, in order. Collective."""
        prompts = [request.prompt_ids for request in requests]
        arguments = [sampling_arguments(request, sampling, self._end_tokens) for request in requests]
        samples: dict[int, Sample] = {}
        stop = StopStrings(sampling.stop, self._tokenizer)

        def store(index: int, answer: dict[str, Any]) -> None:
            samples[index] = sample_of(answer, self._end_tokens, self._policy_version, stop)
            if hand_over is not None:
                hand_over(index, samples[index])

        async def generate_missing() -> None:
            missing = [index for index in range(len(requests)) if index not in samples]
            parts = shares(missing, len(self._servers), self._rank)
            await self._send_all([[(i, prompts[i], arguments[i]) for i in part] for part in parts], store)

        self._retry_until_done(generate_missing)
        return [samples[index] for index in range(len(requests))]

    def log_probs(self, sequences: Sequence[Sequence[int]]) -> list[tuple[float, ...]]:
        """The log-probs of all sequences from each server in turn. Collective."""
        values: dict[int, tuple[float, ...]] = {}

        def store(index: int, answer: dict[str, Any]) -> None:
            values[index] = prompt_log_probs(answer, sequences[index % len(sequences)])

        async def compute() -> None:
            count, arguments = len(sequences), log_prob_arguments()
            servers = range(len(self._servers))
            await self._send_all(
                [[(n * count + i, ids, arguments) for i, ids in enumerate(sequences)] for n in servers], store
            )

        self._retry_until_done(compute)
        return [values[index] for index in range(len(values))]

    def sync_weights(self, weights: WeightSource, policy_version: int) -> None:
        """Send the weights to all servers. Collective: every rank iterates them, and rank 0 sends.

        Raises:
            ServerError: a server refuses them, or was lost and does not return in time.
        """

        async def nothing_more() -> None:
            return

        self._weights, self._policy_version, self._current = weights, policy_version, False
        self._retry_until_done(nothing_more)

    def close(self) -> None:
        """Leave the servers running: they may serve the next run."""

    def _retry_until_done(self, work: Work) -> None:
        """Do the work on every rank with servers that have the current weights, and again if one is lost."""
        lost: str | None = None
        for _ in range(ATTEMPTS):
            if lost is not None:
                self._message(f"{lost}; waiting for it, then sending the weights and the lost requests again")
                self._await_servers(self._settings.restart_timeout)
            lost = None if self._current else self._attempt(self._push)
            if lost is None:
                lost = self._attempt(work)
            self._current = lost is None
            if lost is None:
                return
        raise ServerError(f"{lost}; this happened {ATTEMPTS} times in a row: look for the reason in the server's log")

    def _attempt(self, work: Work) -> str | None:
        """Do the work on every rank. Returns why a server was lost on any rank; the same on every rank.

        Raises:
            ServerError: the work failed on this rank or on another one.
        """
        own: ServerError | None = None
        try:
            asyncio.run(self._connected(work))
        except ServerError as error:
            own = error
        reports = self._gather(own and (isinstance(own, ServerLostError), str(own)))
        if own is not None and not isinstance(own, ServerLostError):
            raise own
        for rank, report in enumerate(reports):
            if report is not None and not report[0]:
                raise ServerError(f"on rank {rank}: {report[1]}")
        return next((report[1] for report in reports if report is not None), None)

    async def _connected(self, work: Work) -> None:
        async with AsyncExitStack() as stack:
            for server in self._servers:
                await stack.enter_async_context(server.connected())
            await work()

    async def _push(self) -> None:
        assert self._weights is not None, "sync_weights must be called first"
        # Raises on every rank, before any server is notified, if the weights are being trained.
        self._weights.named_tensors()
        self._syncs += 1
        nccl = self._settings.weight_transfer == "nccl"
        if self._rank > 0:
            for _ in range(PASSES if nccl else 1):
                for _ in self._weights.named_tensors():
                    pass
        elif nccl:
            limit = self._settings.request_timeout
            await push_over_nccl(self._servers, self._weights, self._version, self._device, limit)
        else:
            await push_weights(self._servers, self._weights, self._version)

    @property
    def _version(self) -> str:
        """The name of the current weights; a repeated sync gets a new one."""
        return f"skyrl-{self._run}-sync-{self._syncs}-step-{self._policy_version}"

    async def _send_all(self, requests: Sequence[Sequence[Request]], store: StoreAnswer) -> None:
        """Send each server its requests, and store every valid answer even if a server is lost."""
        await run_all([self._send(*pair, store) for pair in zip(self._servers, requests, strict=True)])

    async def _send(self, server: Server, requests: Sequence[Request], store: StoreAnswer) -> None:
        if not requests:
            return
        self._check_version(server, await server.weight_version())
        limit = asyncio.Semaphore(self._settings.max_concurrency)

        async def send(index: int, token_ids: Sequence[int], arguments: dict[str, Any]) -> None:
            async with limit:
                answer = await server.generate(token_ids, arguments)
            self._check_version(server, version_of(answer))
            store(index, answer)

        await run_all([send(*request) for request in requests])

    def _check_version(self, server: Server, version: str) -> None:
        if version != self._version:
            raise ServerLostError(
                f"the rollout server at {server.url} was restarted, or another run uses it: its weights are "
                f"{version!r}, not {self._version!r}"
            )

    def _await_servers(self, timeout: float) -> None:
        async def wait() -> None:
            if self._rank == 0:
                await wait_for_servers(self._servers, self._needs, timeout, self._message)

        lost = self._attempt(wait)
        assert lost is None, "wait_for_servers raises an error for a missing server"


def shares(indices: Sequence[int], servers: int, rank: int) -> list[Sequence[int]]:
    """The requests of each server. Neighbours stay together, because they share a prompt.

    Shares differ by at most one; which servers get the larger ones depends on the rank.
    """
    bounds = [len(indices) * part // servers for part in range(servers + 1)]
    parts = [indices[low:high] for low, high in pairwise(bounds)]
    return [parts[(number + rank) % servers] for number in range(servers)]

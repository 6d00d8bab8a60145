"""Samples with vLLM servers, which are other processes or machines; `skyrl serve` starts one.

Each server holds weights under a name that this run gave them, and each answer carries that name: a sample of other
weights, of a server that was started again or only half updated, is never used.
"""

import asyncio
import secrets
from collections.abc import Callable, Coroutine, Sequence
from contextlib import AsyncExitStack
from itertools import pairwise
from typing import Any

from skyrl_train.rollout.rollout_engine import EngineSetup, HandOver, Sample, SampleRequest, Sampling, WeightSource
from skyrl_train.rollout.vllm.sampling_params import sampling_arguments, scoring_arguments
from skyrl_train.rollout.vllm_server.answers import given_log_probs, sample_of, version_of
from skyrl_train.rollout.vllm_server.client import Server, ServerError, ServerLostError, all_of
from skyrl_train.rollout.vllm_server.http_weights import push_weights
from skyrl_train.rollout.vllm_server.nccl_weights import PASSES, push_over_nccl
from skyrl_train.rollout.vllm_server.startup import ServerNeeds, wait_for_servers

ATTEMPTS = 4
"""How often one batch, or one weight sync, is begun before a run gives up on servers that go away each time."""

Work = Callable[[], Coroutine[Any, Any, None]]
Question = tuple[int, Sequence[int], dict[str, Any]]
"""A number, token ids, and vLLM's sampling parameters."""
Keep = Callable[[int, dict[str, Any]], None]
"""Takes the number of a question and its answer."""


class VllmServerEngine:
    """All ranks send their requests to all servers; rank 0 gives them their weights."""

    shares_weights = False
    works_elsewhere = True

    def __init__(self, setup: EngineSetup) -> None:
        """Wait for the servers and check that they fit this run.

        Raises:
            ServerError: one is not there in time, or was started with something else.
        """
        self._settings = setup.config.rollout.server
        self._servers = [Server(url, timeout=self._settings.request_timeout) for url in self._settings.urls]
        self._needs = ServerNeeds.of(setup)
        self._end_tokens = setup.end_tokens
        self._rank = setup.rank
        self._device = setup.device
        self._gather = setup.gather
        self._message = setup.message
        self._run = self._gather(secrets.token_hex(4))[0]  # two runs never give the same name to their weights
        self._syncs = 0
        self._current = False  # whether the servers are believed to have the weights of the last sync
        self._weights: WeightSource | None = None
        self._policy_version = 0
        self._await_servers(self._settings.start_timeout)

    def generate(
        self, requests: Sequence[SampleRequest], sampling: Sampling, hand_over: HandOver | None = None
    ) -> list[Sample]:
        """One sample for each request of this rank, in order. All ranks call it together."""
        prompts = [request.prompt_ids for request in requests]
        asked = [sampling_arguments(request, sampling, self._end_tokens) for request in requests]
        samples: dict[int, Sample] = {}

        def keep(index: int, answer: dict[str, Any]) -> None:
            samples[index] = sample_of(answer, self._end_tokens, self._policy_version)
            if hand_over is not None:
                hand_over(index, samples[index])

        async def draw() -> None:
            missing = [index for index in range(len(requests)) if index not in samples]
            parts = shares(missing, len(self._servers), self._rank)
            questions = [[(index, prompts[index], asked[index]) for index in part] for part in parts]
            await self._ask_all(questions, keep)

        self._until_done(draw)
        return [samples[index] for index in range(len(requests))]

    def log_probs(self, sequences: Sequence[Sequence[int]]) -> list[tuple[float, ...]]:
        """Those of each server, one server after the other. All ranks call it together."""
        values: dict[int, tuple[float, ...]] = {}

        def keep(index: int, answer: dict[str, Any]) -> None:
            values[index] = given_log_probs(answer, sequences[index % len(sequences)])

        async def score() -> None:
            count, arguments = len(sequences), scoring_arguments()
            numbers = range(len(self._servers))
            questions = [[(n * count + i, ids, arguments) for i, ids in enumerate(sequences)] for n in numbers]
            await self._ask_all(questions, keep)

        self._until_done(score)
        return [values[index] for index in range(len(values))]

    def sync_weights(self, weights: WeightSource, policy_version: int) -> None:
        """Give all servers the weights. Collective: every rank iterates them, and rank 0 sends.

        Raises:
            ServerError: a server refuses them, or went away and is not back in time.
        """

        async def nothing_more() -> None:
            return

        self._weights, self._policy_version, self._current = weights, policy_version, False
        self._until_done(nothing_more)

    def close(self) -> None:
        """The servers go on: they may serve the next run."""

    def _until_done(self, work: Work) -> None:
        """Do the work on every rank with servers that have the current weights, again where one was lost."""
        lost: str | None = None
        for _ in range(ATTEMPTS):
            if lost is not None:
                self._message(f"{lost}; waiting for it, then it gets the weights again and lost requests are repeated")
                self._await_servers(self._settings.restart_timeout)
            lost = None if self._current else self._attempt(self._push)
            if lost is None:
                lost = self._attempt(work)
            self._current = lost is None
            if lost is None:
                return
        raise ServerError(f"{lost}; that was {ATTEMPTS} times in a row, so the run gives up: the server's log says why")

    def _attempt(self, work: Work) -> str | None:
        """Do it on every rank. Returns how a server was lost, anywhere; the same on every rank.

        Raises:
            ServerError: what went wrong here, or that it went wrong on another rank.
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
        assert self._weights is not None, "sync_weights comes before all else"
        # On every rank alike, and before a server hears of it: weights that are being trained say so here.
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
        """The name of the current weights: a sync that failed and is done again has another one."""
        return f"skyrl-{self._run}-sync-{self._syncs}-step-{self._policy_version}"

    async def _ask_all(self, questions: Sequence[Sequence[Question]], keep: Keep) -> None:
        """Send each server its questions, and keep all answers that are good even if a server is lost."""
        await all_of([self._ask(*pair, keep) for pair in zip(self._servers, questions, strict=True)])

    async def _ask(self, server: Server, questions: Sequence[Question], keep: Keep) -> None:
        if not questions:
            return
        self._insist_on_version(server, await server.weight_version())
        places = asyncio.Semaphore(self._settings.max_concurrency)

        async def one(index: int, token_ids: Sequence[int], arguments: dict[str, Any]) -> None:
            async with places:
                answer = await server.generate(token_ids, arguments)
            self._insist_on_version(server, version_of(answer))
            keep(index, answer)

        await all_of([one(*question) for question in questions])

    def _insist_on_version(self, server: Server, version: str) -> None:
        if version != self._version:
            raise ServerLostError(
                f"the rollout server at {server.url} was started again, or another run uses it: its weights are "
                f"{version!r}, not {self._version!r}"
            )

    def _await_servers(self, timeout: float) -> None:
        async def wait() -> None:
            if self._rank == 0:
                await wait_for_servers(self._servers, self._needs, timeout, self._message)

        lost = self._attempt(wait)
        assert lost is None, "who waits for servers says what is missing in the end"


def shares(indices: Sequence[int], servers: int, rank: int) -> list[Sequence[int]]:
    """The requests of each server: neighbours stay together, for they have the prompt in common.

    Shares differ by one at most; which server has the larger ones depends on the rank.
    """
    bounds = [len(indices) * part // servers for part in range(servers + 1)]
    parts = [indices[low:high] for low, high in pairwise(bounds)]
    return [parts[(number + rank) % servers] for number in range(servers)]

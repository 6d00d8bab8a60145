"""Computes rewards with a deadline in worker processes, so that none can stop, slow or corrupt a run."""

import os
import pickle
import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from multiprocessing.connection import wait
from types import TracebackType
from typing import Any, Self

from skyrl_core.errors import PluginLoadError, SkyrlError, UnknownPluginError
from skyrl_train.config.schema import EnvironmentConfig
from skyrl_train.environments.environment import Completion, Environment, Row, guard_of
from skyrl_train.rewards.reward_result import Score
from skyrl_train.rewards.reward_stream import Inbox, Item, ScoreStream
from skyrl_train.rewards.worker_handle import START_TIMEOUT, WORKER_VARIABLE, WorkerProcess
from skyrl_train.rewards.worker_main import too_slow
from skyrl_train.rewards.worker_setup import worker_setup

_CHUNKS_PER_WORKER = 4
"""Chunks of the waiting items per worker, if there are several: more balance the load better but cost more messages."""

_MAX_FAILED_STARTS = 3
"""Consecutive workers that may die while they start, for example because the system is short of memory."""

_BLOCKED = (
    ": an async reward blocks the event loop of its worker, in which others wait; await every slow call, or remove "
    "`async`"
)

_CLOSE_TIMEOUT = 1.0
"""Seconds for idle workers to exit by themselves."""


class _Batch:
    """The items of one call or stream, those that still wait for a worker, and the scores so far."""

    def __init__(self) -> None:
        self.items: list[Item] = []
        self.scores: dict[int, Score] = {}
        self.retried: set[int] = set()  # items on which a worker died
        self.waiting: deque[int] = deque()

    def add(self, items: Sequence[Item]) -> None:
        """Add items to those that wait."""
        self.waiting.extend(range(len(self.items), len(self.items) + len(items)))
        self.items.extend(items)

    def next_chunk(self, chunks: int) -> list[int]:
        """Remove and return the items of the next chunk, if this many chunks remain."""
        return [self.waiting.popleft() for _ in range(-(-len(self.waiting) // chunks))]

    @property
    def in_order(self) -> list[Score]:
        return [self.scores[index] for index in range(len(self.items))]

    def payload(self, tasks: Sequence[int]) -> list[bytes]:
        """The items, each pickled separately: pickled together, samples of a prompt would share its row."""
        try:
            return [pickle.dumps(self.items[index], protocol=pickle.HIGHEST_PROTOCOL) for index in tasks]
        except Exception as error:
            rows = ", ".join(sorted({self.items[index][1].label for index in tasks})[:3])
            raise SkyrlError(
                f"rows cannot be sent to the reward workers: {type(error).__name__}: {error}; keep plain data in "
                f"the columns of rows {rows}, ..."
            ) from error

    def fail(self, index: int, what: str) -> None:
        self.scores[index] = Score(error=f"{what} (row {self.items[index][1].label})")


def _is_async(environment: Environment, name: str) -> bool:
    with guard_of(environment, name).calling("is_async"):
        return bool(environment.is_async)


class Scorer:
    """Computes rewards in worker processes that start at the first call and end with the context manager.

    A reward that raises, hangs, exits, crashes or does not return a finite number affects only its sample: the score
    has an error and no reward.
    """

    def __init__(
        self,
        environments: Mapping[str, Environment],
        *,
        workers: int = 1,
        deadline: float = 10.0,
        weights: Mapping[str, float] | None = None,
    ) -> None:
        """Prepare the workers without starting them.

        Args:
            environments: the environments by the references that rows use.
            workers: the number of processes.
            deadline: seconds allowed for one reward.
            weights: of the rewards of an environment that returns several; 1 without a weight.

        Raises:
            PluginLoadError: an environment cannot be sent to another process.
            SkyrlError: this process is itself a reward worker.
        """
        if os.environ.get(WORKER_VARIABLE):
            raise SkyrlError(
                "a reward worker imported the script that defines its environment, and the script started a training "
                'run: put the call under `if __name__ == "__main__":`'
            )
        self._names = frozenset(environments)
        self._setup = worker_setup(environments, deadline, dict(weights or {}))
        self._awaited = frozenset(name for name, environment in environments.items() if _is_async(environment, name))
        self._deadline = deadline
        self._size = workers
        self._failed_starts = 0  # since a worker was last ready
        self._workers: list[WorkerProcess] = []
        self._workers_lock = threading.Lock()  # held by the call or stream that uses the workers
        self._streams: list[ScoreStream] = []

    @classmethod
    def of(cls, settings: EnvironmentConfig, environments: Mapping[str, Environment]) -> Self:
        """The scorer that the section `environment` describes."""
        return cls(environments, workers=settings.workers, deadline=settings.deadline, weights=settings.weights)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def score(self, items: Sequence[Item]) -> list[Score]:
        """The scores, in the order of the items; waits until running streams have finished.

        Raises:
            UnknownPluginError: a row names an environment that the scorer does not have.
            PluginLoadError: a worker cannot import an environment.
            SkyrlError: a row cannot be sent to a worker, or no process can be started.
        """
        self._check_names(items)
        batch = _Batch()
        batch.add(items)
        with self._workers_lock:
            self._work(batch, None)
        return batch.in_order

    def stream(self) -> ScoreStream:
        """Start to compute scores of samples as they arrive, while the caller does something else.

        The caller must ask for the ``scores`` or cancel the stream. Streams use the workers one after the other.
        """
        stream = ScoreStream(self._drive)
        self._streams = [*(other for other in self._streams if other.running), stream]
        return stream

    def close(self) -> None:
        """Cancel the streams and end the workers, even busy ones, within about a second."""
        for stream in self._streams:
            stream.cancel()
        for stream in self._streams:
            stream.join(_CLOSE_TIMEOUT)
        idle = [worker for worker in self._workers if not worker.busy]
        for worker in idle:
            worker.ask_to_stop()
        limit = time.monotonic() + _CLOSE_TIMEOUT
        open_ = [worker.connection for worker in idle]
        while open_ and time.monotonic() < limit:
            closed = wait(open_, timeout=max(0.0, limit - time.monotonic()))
            open_ = [connection for connection in open_ if connection not in closed]
        for worker in list(self._workers):
            self._discard(worker)

    def _drive(self, inbox: Inbox) -> list[Score]:
        """Compute the scores of a stream, in its thread."""
        batch = _Batch()
        with self._workers_lock:
            self._work(batch, inbox)
        return batch.in_order

    def _work(self, batch: _Batch, inbox: Inbox | None) -> None:
        """Run the workers until every item has a score and no more items can arrive."""
        more = inbox is not None
        try:
            while more or len(batch.scores) < len(batch.items):
                if inbox is not None:
                    items, more = inbox.take()
                    self._check_names(items)
                    batch.add(items)
                self._drop_dead()
                self._hand_out(batch)
                self._collect(batch, inbox, more=more)
        except BaseException:
            # For example Ctrl-C: a later result of a busy worker would be taken for one of the next batch.
            for worker in [worker for worker in self._workers if worker.busy]:
                self._discard(worker)
            raise

    def _check_names(self, items: Sequence[tuple[Completion, Row]]) -> None:
        for _, row in items:
            if row.environment not in self._names:
                raise UnknownPluginError(
                    f"row {row.label} names the environment {row.environment!r}; this run has "
                    f"{', '.join(sorted(self._names))}"
                )

    def _drop_dead(self) -> None:
        """Discard dead idle workers: an idle worker sends nothing, so a readable connection has been closed."""
        for worker in [worker for worker in self._workers if not worker.busy and worker.connection.poll()]:
            self._discard(worker)

    def _hand_out(self, batch: _Batch) -> None:
        while len(self._workers) < min(self._size, len(batch.waiting) + sum(w.busy for w in self._workers)):
            self._workers.append(WorkerProcess(self._setup))
        idle = [worker for worker in self._workers if not worker.busy]
        for number, worker in enumerate(idle):
            if not batch.waiting:
                return
            # Rewards that are awaited run at the same time, so all are handed out at once.
            balanced = 1 if self._size == 1 else self._size * _CHUNKS_PER_WORKER
            tasks = batch.next_chunk(len(idle) - number if self._awaited else balanced)
            payload = batch.payload(tasks)
            awaits = any(batch.items[index][1].environment in self._awaited for index in tasks)
            try:
                worker.send(tasks, payload, awaits=awaits)
            except OSError:
                self._give_up(worker, batch)

    def _collect(self, batch: _Batch, inbox: Inbox | None, *, more: bool) -> None:
        """Wait for messages, a deadline, further items or cancellation, and handle messages and deadlines."""
        busy = [worker for worker in self._workers if worker.busy]
        if not busy and not more:
            return  # all were discarded while work was sent to them
        # The inbox even if no more items follow, because it also signals cancellation.
        sources: list[Any] = [worker.connection for worker in busy] + ([inbox.wakeup] if inbox is not None else [])
        soonest = min((worker.expires(self._deadline) for worker in busy), default=None)
        readable = wait(sources, timeout=None if soonest is None else max(0.0, soonest - time.monotonic()))
        for worker in busy:
            if worker.connection in readable:
                self._receive(worker, batch)
            elif time.monotonic() >= worker.expires(self._deadline) and not worker.connection.poll():
                self._give_up(worker, batch, overdue=True)

    def _receive(self, worker: WorkerProcess, batch: _Batch) -> None:
        try:
            messages = worker.messages()
        except (EOFError, OSError):
            overdue = time.monotonic() >= worker.expires(self._deadline)
            self._give_up(worker, batch, overdue=overdue)
            return
        for message in messages:
            if not worker.ready:
                if message is not None:
                    raise PluginLoadError(f"a reward worker could not import its environment: {message}")
                worker.ready, self._failed_starts = True, 0
                continue
            position, score = message
            index = worker.tasks.pop(position)
            if score.error is None:
                batch.scores[index] = score
            else:
                batch.fail(index, score.error)

    def _give_up(self, worker: WorkerProcess, batch: _Batch, *, overdue: bool = False) -> None:
        """Discard a worker and requeue its items; those that ran fail if too slow or if two workers died."""
        if not worker.ready:
            self._count_failed_start(worker, overdue=overdue)
            self._discard(worker)
            return
        tasks = list(worker.tasks.values())
        awaited = [index for index in tasks if batch.items[index][1].environment in self._awaited]
        running = worker.running()
        # The reward that runs. If a task that an awaited one has started runs, any of those that wait may be its owner.
        failed = [running] if running is not None else awaited or tasks[:1]
        name = batch.items[failed[0]][1].environment
        if overdue:
            what = too_slow(name, self._deadline) + (_BLOCKED if awaited else "")
        elif failed[0] in batch.retried:
            what = f"ChildProcessError: {name} reward {worker.exit_message()}"
        else:
            # The worker may have died before it started the item, so another worker tries it.
            batch.retried.update(failed)
            failed, what = [], ""
        for index in failed:
            batch.fail(index, what)
        batch.waiting.extendleft(reversed([index for index in tasks if index not in failed]))
        self._discard(worker)

    def _count_failed_start(self, worker: WorkerProcess, *, overdue: bool) -> None:
        self._failed_starts += 1
        if overdue or self._failed_starts >= _MAX_FAILED_STARTS:
            why = f"was not ready after {START_TIMEOUT:g} s" if overdue else worker.exit_message()
            raise PluginLoadError(f"a reward worker {why} before its first reward; see its output above")

    def _discard(self, worker: WorkerProcess) -> None:
        self._workers.remove(worker)
        worker.kill()

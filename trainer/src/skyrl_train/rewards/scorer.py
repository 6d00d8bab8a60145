"""Rewards with a deadline: computed in worker processes, so that no reward can stop, slow or corrupt the training."""

import os
import pickle
import sys
import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from multiprocessing.connection import wait
from types import TracebackType
from typing import Any, Self

from skyrl_core.errors import PluginLoadError, SkyrlError, UnknownPluginError
from skyrl_train.environments.environment import Completion, Environment, Row
from skyrl_train.rewards.reward_result import Score
from skyrl_train.rewards.reward_stream import Inbox, Item, ScoreStream
from skyrl_train.rewards.worker_handle import MARK, START_LIMIT, WorkerProcess
from skyrl_train.rewards.worker_main import Setup

_ROUNDS = 4
"""Shares of a worker in what waits, where there are several: fewer messages against a better balance between them."""

_STARTS = 3
"""Workers in a row that may be lost while they start, to a system that is short of memory, say."""

_CLOSE_LIMIT = 1.0
"""Seconds that idle workers have to leave by themselves."""


class _Batch:
    """The items of one call or stream, what is still to be handed out, and the scores so far."""

    def __init__(self) -> None:
        self.items: list[Item] = []
        self.scores: dict[int, Score] = {}
        self.tried_again: set[int] = set()  # items at which a worker ended
        self.waiting: deque[int] = deque()

    def add(self, items: Sequence[Item]) -> None:
        """Items more."""
        self.waiting.extend(range(len(self.items), len(self.items) + len(items)))
        self.items.extend(items)

    def share(self, workers: int) -> list[int]:
        """What one of so many idle or busy workers is given next: all, or a part of what waits."""
        parts = 1 if workers == 1 else workers * _ROUNDS
        return [self.waiting.popleft() for _ in range(-(-len(self.waiting) // parts))]

    @property
    def in_order(self) -> list[Score]:
        return [self.scores[index] for index in range(len(self.items))]

    def payload(self, tasks: Sequence[int]) -> bytes:
        try:
            return pickle.dumps([self.items[index] for index in tasks], protocol=pickle.HIGHEST_PROTOCOL)
        except Exception as error:
            rows = ", ".join(sorted({self.items[index][1].label for index in tasks})[:3])
            raise SkyrlError(
                f"rows cannot be sent to the reward workers: {type(error).__name__}: {error}; keep plain data in "
                f"their columns. The rows are {rows}, ..."
            ) from error

    def fail(self, index: int, what: str) -> None:
        self.scores[index] = Score(reward=0.0, error=f"{what} (row {self.items[index][1].label})")


class Scorer:
    """Computes rewards in worker processes, which start at the first call. A context manager: leaving it ends them.

    A reward that raises, hangs, exits, crashes or returns no finite number costs its own sample only: the sample's
    score is 0.0 with a named error.
    """

    def __init__(self, environments: Mapping[str, Environment], *, workers: int = 1, deadline: float = 10.0) -> None:
        """Nothing is started yet.

        Args:
            environments: who rewards a row, by what the row calls it.
            workers: processes.
            deadline: seconds that one reward may take.

        Raises:
            PluginLoadError: an environment cannot be sent to another process.
            SkyrlError: this process is itself a reward worker.
        """
        if os.environ.get(MARK):
            raise SkyrlError(
                "a reward worker imports the script that defines its environment, and the script started a training "
                'run: put the call under `if __name__ == "__main__":`'
            )
        self._names = frozenset(environments)
        self._setup = _setup(environments, deadline)
        self._deadline = deadline
        self._size = workers
        self._lost_starts = 0  # since a worker was ready
        self._workers: list[WorkerProcess] = []
        self._turn = threading.Lock()  # who uses the workers
        self._streams: list[ScoreStream] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def score(self, items: Sequence[Item]) -> list[Score]:
        """The scores, in the order of the items. It waits for a stream that goes on.

        Raises:
            UnknownPluginError: a row names an environment that the scorer does not have.
            PluginLoadError: a worker cannot import an environment.
            SkyrlError: a row cannot be sent to a worker, or no process can be started.
        """
        self._check_names(items)
        batch = _Batch()
        batch.add(items)
        with self._turn:
            self._work(batch, None)
        return batch.in_order

    def stream(self) -> ScoreStream:
        """Scores of samples that come one after the other, while the caller does something else.

        It asks for its ``scores`` or cancels it. Streams have their turns one after the other.
        """
        stream = ScoreStream(self._drive)
        self._streams = [*(other for other in self._streams if other.running), stream]
        return stream

    def close(self) -> None:
        """End the workers, busy or not, and the streams. Takes a second at most."""
        for stream in self._streams:
            stream.cancel()
        for stream in self._streams:
            stream.join(_CLOSE_LIMIT)
        idle = [worker for worker in self._workers if not worker.busy]
        for worker in idle:
            worker.ask_to_stop()
        limit = time.monotonic() + _CLOSE_LIMIT
        leaving = [worker.connection for worker in idle]
        while leaving and time.monotonic() < limit:
            gone = wait(leaving, timeout=max(0.0, limit - time.monotonic()))
            leaving = [connection for connection in leaving if connection not in gone]
        for worker in list(self._workers):
            self._discard(worker)

    def _drive(self, inbox: Inbox) -> list[Score]:
        """What the thread of a stream does."""
        batch = _Batch()
        with self._turn:
            self._work(batch, inbox)
        return batch.in_order

    def _work(self, batch: _Batch, inbox: Inbox | None) -> None:
        """Until every item has its score and no more can come."""
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
            # Ctrl-C, say: what a busy worker sends later belongs to no batch.
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
        """An idle worker sends nothing: what can be read from it is the end of its connection."""
        for worker in [worker for worker in self._workers if not worker.busy and worker.connection.poll()]:
            self._discard(worker)

    def _hand_out(self, batch: _Batch) -> None:
        while len(self._workers) < min(self._size, len(batch.waiting) + sum(w.busy for w in self._workers)):
            self._workers.append(WorkerProcess(self._setup))
        for worker in [worker for worker in self._workers if not worker.busy]:
            if not batch.waiting:
                return
            tasks = batch.share(self._size)
            payload = batch.payload(tasks)
            try:
                worker.give(tasks, payload)
            except OSError:
                self._give_up(worker, batch)

    def _collect(self, batch: _Batch, inbox: Inbox | None, *, more: bool) -> None:
        """Wait for messages, the next deadline, further items or the end of all, and deal with the first two."""
        busy = [worker for worker in self._workers if worker.busy]
        if not busy and not more:
            return  # all were given up while they were handed work
        # The bell also where no more items come: it rings when nobody wants the scores any more.
        sources: list[Any] = [worker.connection for worker in busy] + ([inbox.bell] if inbox is not None else [])
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
                worker.ready, self._lost_starts = True, 0
                continue
            index = worker.tasks.popleft()
            reward, error = message
            if error is None:
                batch.scores[index] = Score(reward=reward)
            else:
                batch.fail(index, error)

    def _give_up(self, worker: WorkerProcess, batch: _Batch, *, overdue: bool = False) -> None:
        """End a worker and hand on its items; blame the one that it was at if it took too long or ended two workers."""
        if not worker.ready:
            self._count_lost_start(worker, overdue=overdue)
            self._discard(worker)
            return
        index = worker.tasks[0]
        name = batch.items[index][1].environment
        if overdue:
            worker.tasks.popleft()
            batch.fail(index, f"TimeoutError: {name} reward took longer than {self._deadline:g} s")
        elif index in batch.tried_again:
            worker.tasks.popleft()
            batch.fail(index, f"ChildProcessError: {name} reward {worker.fate()}")
        else:
            # The worker may have died before it looked at the item: another one decides whose fault it is.
            batch.tried_again.add(index)
        if worker.tasks:
            batch.waiting.extendleft(reversed(worker.tasks))
        self._discard(worker)

    def _count_lost_start(self, worker: WorkerProcess, *, overdue: bool) -> None:
        self._lost_starts += 1
        if overdue or self._lost_starts >= _STARTS:
            why = f"was not ready after {START_LIMIT:g} s" if overdue else worker.fate()
            raise PluginLoadError(f"a reward worker {why} before its first reward; see what it printed above")

    def _discard(self, worker: WorkerProcess) -> None:
        self._workers.remove(worker)
        worker.kill()


def _setup(environments: Mapping[str, Environment], deadline: float) -> Setup:
    main: Any = sys.modules["__main__"]
    module = main.__spec__.name if getattr(main, "__spec__", None) else None
    script = getattr(main, "__file__", None)
    if script is not None and not os.path.isfile(script):
        script = None  # such as <stdin>
    for name, environment in environments.items():
        kind = f"environment {name!r} (class {type(environment).__qualname__})"
        if type(environment).__module__ == "__main__" and not (module or script):
            raise PluginLoadError(
                f"{kind} was typed into a prompt, where reward workers cannot find it: put its class into a .py file "
                "and import it from there"
            )
        try:
            pickle.dumps(environment)
        except Exception as error:
            raise PluginLoadError(
                f"{kind} cannot be sent to the reward workers: {type(error).__name__}: {error}\n"
                "define its class at the top level of a module or script, and keep plain data in its instances"
            ) from error
    return Setup(
        environments=pickle.dumps(dict(environments), protocol=pickle.HIGHEST_PROTOCOL),
        script=os.path.abspath(script) if script else None,
        module=module,
        deadline=deadline,
    )

"""The main loop of a reward worker: computes rewards of rows and answers. Imports no torch by itself."""

import asyncio
import faulthandler
import functools
import importlib
import importlib.machinery
import importlib.util
import io
import math
import os
import pickle
import signal
import sys
import time
import traceback
from collections.abc import AsyncIterator, Awaitable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple, cast

from skyrl_train.environments.environment import Completion, Environment, Row
from skyrl_train.machine.parent_watch import kill_own_group, watch_parent
from skyrl_train.rewards.isolation import Isolation, isolated, seed_generators
from skyrl_train.rewards.reward_result import Score, judged
from skyrl_train.rewards.running_item import RunningItem

Item = tuple[Completion, Row]
Outcome = tuple[int, Score]
"""The position of an item in its message, and its score."""

GRACE = 3.0
"""Seconds after its deadline in which the trainer may end a reward, before the worker exits by itself. Rewards that are
awaited have as long again: their worker ends them itself, unless one of them blocks its event loop."""

_REARM = 1.0
"""Seconds for which one alarm covers several rewards: setting an alarm costs more than most rewards."""

_MAX_MESSAGE = 300


@dataclass(frozen=True, kw_only=True)
class Setup:
    """The first message to a worker."""

    environments: bytes  # pickled, by reference
    script: str | None  # file of the trainer's __main__
    module: str | None  # or its module, if it was started with -m
    deadline: float  # seconds
    weights: Mapping[str, float] = field(default_factory=dict, hash=False)  # of named rewards


class _Loop(NamedTuple):
    runner: asyncio.Runner
    item: RunningItem


def serve(descriptor: int, running: int) -> None:
    """Compute rewards for the trainer, its parent, until it sends None or is gone.

    Args:
        descriptor: of a socket that delivers a Setup, then lists of pickled items, and finally None. The reply to Setup
            is None or an error; the reply to items is one Outcome per item, in any order.
        running: of the file in which a RunningItem is kept.
    """
    watch_parent(kill_own_group)  # even in the middle of a reward, and with the processes that the reward started
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with suppress(OSError):  # stderr was closed
        os.dup2(2, 1)  # output of a reward must not mix with the output of the command
    connection: Connection[Any, Any] = Connection(descriptor)
    try:
        setup = connection.recv()
        try:
            environments = _unpickle(setup.environments, setup)
            for environment in environments.values():
                environment.warm_up()
        except BaseException as error:  # noqa: BLE001 - a script may exit at import; the trainer reports it
            connection.send(_describe(error))
            return
        connection.send(None)
        isolation, item = Isolation(environments.values()), RunningItem(running)
        with asyncio.Runner() as runner:  # one event loop for all messages: clients of a judge belong to a loop
            while message := connection.recv():
                for outcome in _outcomes(message, setup, environments, isolation, _Loop(runner, item)):
                    connection.send(outcome)
    except (EOFError, ConnectionError):
        return  # the trainer has ended


def _outcomes(
    pickled: Sequence[bytes],
    setup: Setup,
    environments: Mapping[str, Environment],
    isolation: Isolation,
    loop: _Loop,
) -> Iterator[Outcome]:
    items: dict[int, Item] = {}
    for position, data in enumerate(pickled):
        try:
            items[position] = _unpickle(data, setup)  # each separately, so that two items share no object
        except Exception as error:  # noqa: BLE001 - columns may hold objects of any class
            yield position, Score(error=f"the row cannot be unpickled in the reward worker: {_describe(error)}")
    awaited = {name for name, environment in environments.items() if environment.is_async}
    waits = [position for position, (_, row) in items.items() if row.environment in awaited]
    if waits:
        yield from _side_by_side({position: items[position] for position in waits}, setup, environments, loop)
        isolation.restore()
    armed, pid = -math.inf, os.getpid()
    with open(os.devnull, "w") as discarded:
        for position in sorted(items.keys() - set(waits)):
            completion, row = items[position]
            if time.monotonic() > armed + _REARM:
                # Ends the process even if the reward never releases the interpreter lock and the trainer has ended.
                faulthandler.dump_traceback_later(setup.deadline + GRACE, exit=True, file=discarded)
                armed = time.monotonic()
            seed_generators(hash((completion.text, completion.token_ids, row.ground_truth)))
            compute = functools.partial(compute_reward, environments[row.environment], completion, row, setup.weights)
            score = isolated(compute)
            isolation.restore()  # at once, because what follows needs functions that a reward may have replaced
            if os.getpid() != pid:
                os._exit(0)  # the child of a reward that forked got here; only the parent may reply
            signal.setitimer(signal.ITIMER_REAL, 0)  # a leftover alarm must not interrupt the next reward
            yield position, score
        faulthandler.cancel_dump_traceback_later()


def _side_by_side(
    items: Mapping[int, Item], setup: Setup, environments: Mapping[str, Environment], loop: _Loop
) -> Iterator[Outcome]:
    """The outcomes of rewards that are awaited at the same time, each with its own deadline, as they complete."""
    scores, pid = _awaited(items, setup, environments, loop.item), os.getpid()
    with open(os.devnull, "w") as discarded:
        faulthandler.dump_traceback_later(setup.deadline + 2 * GRACE, exit=True, file=discarded)
        while (outcome := loop.runner.run(_next(scores))) is not None:
            if os.getpid() != pid:
                os._exit(0)  # as below
            yield outcome
        faulthandler.cancel_dump_traceback_later()


async def _next(scores: AsyncIterator[Outcome]) -> Outcome | None:
    return await anext(scores, None)


async def _awaited(
    items: Mapping[int, Item], setup: Setup, environments: Mapping[str, Environment], running: RunningItem
) -> AsyncIterator[Outcome]:
    async def outcome(position: int, completion: Completion, row: Row) -> Outcome:
        reward = await_reward(environments[row.environment], completion, row, setup)
        return position, await running.marking(position, reward)

    tasks = [asyncio.ensure_future(outcome(position, *item)) for position, item in items.items()]
    for done in asyncio.as_completed(tasks):
        yield await done


async def await_reward(environment: Environment, completion: Completion, row: Row, setup: Setup) -> Score:
    """The score of an ``async def`` reward, or the error that it raised. Never raises."""
    try:
        async with asyncio.timeout(setup.deadline) as limit:
            value: object = await cast(Awaitable[object], environment.reward(completion, row))
    except BaseException as error:  # noqa: BLE001 - even sys.exit in a reward affects only this sample
        if isinstance(error, TimeoutError) and limit.expired():
            return Score(error=too_slow(row.environment, setup.deadline))
        return Score(error=f"{_describe(error)}, raised by the {row.environment} reward{_place(error)}")
    return _score(value, environment, row, setup.weights)


def compute_reward(
    environment: Environment, completion: Completion, row: Row, weights: Mapping[str, float] | None = None
) -> Score:
    """The score of a reward that is not async, or the error that it raised. Never raises."""
    try:
        value = environment.reward(completion, row)
    except BaseException as error:  # noqa: BLE001 - even sys.exit in a reward affects only this sample
        return Score(error=f"{_describe(error)}, raised by the {row.environment} reward{_place(error)}")
    return _score(value, environment, row, weights or {})


def _score(value: object, environment: Environment, row: Row, weights: Mapping[str, float]) -> Score:
    """The score for what a reward returned, or the error if that is no reward."""
    try:
        return judged(value, environment, row.environment, weights)
    except Exception as error:  # noqa: BLE001 - a number may be of any class
        return Score(error=_describe(error))


def too_slow(environment: str, deadline: float) -> str:
    """The error of a reward that took too long."""
    return f"TimeoutError: {environment} reward took longer than {deadline:g} s"


def _describe(error: BaseException) -> str:
    try:
        message = " ".join(str(error).split())
    except BaseException:  # noqa: BLE001 - __str__ may raise anything
        message = "(its message cannot be shown)"
    name = type(error).__name__[:_MAX_MESSAGE]
    return f"{name}: {message[:_MAX_MESSAGE]}" if message else name


def _place(error: BaseException) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    return f" at {Path(frames[-1].filename).name}:{frames[-1].lineno}" if len(frames) > 1 else ""


class _Unpickler(pickle.Unpickler):
    """Finds the classes of the trainer's script, which must not run as ``__main__`` here as it does there."""

    def __init__(self, data: bytes, setup: Setup) -> None:
        super().__init__(io.BytesIO(data))
        self._setup = setup

    def find_class(self, module_name: str, global_name: str) -> Any:
        if module_name == "__main__":
            module_name = _import_script(self._setup)
        return super().find_class(module_name, global_name)


def _unpickle(data: bytes, setup: Setup) -> Any:
    return _Unpickler(data, setup).load()


@functools.cache
def _import_script(setup: Setup) -> str:
    """Import the trainer's ``__main__`` under another name, and return that name."""
    if setup.module is not None:
        return importlib.import_module(setup.module).__name__
    assert setup.script is not None  # the trainer rejects classes that have no file
    name = "__mp_main__"  # the name that multiprocessing uses
    loader = importlib.machinery.SourceFileLoader(name, setup.script)
    spec = importlib.util.spec_from_loader(name, loader)
    assert spec is not None
    sys.modules[name] = module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    return name

"""The prompts of a run as a pure function of a position, so that a checkpoint saves just one integer."""

import dataclasses
import itertools
import random
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

from skyrl_core.discovery import Guard
from skyrl_core.errors import SkyrlError
from skyrl_train.config.machine_check import no_prompts_message
from skyrl_train.config.schema import RunConfig
from skyrl_train.data.json_record import check_text
from skyrl_train.data.messages import messages_of
from skyrl_train.data.row_problem import DataError, shown
from skyrl_train.data.rows import with_system_prompt
from skyrl_train.environments.environment import Environment, Row, Split, guard_of

_WINDOW = 4096
"""Generated rows to keep. Every evaluation takes the same first rows."""

_EVALUATION_SEED = 0


class PromptSource(Protocol):
    """Rows by position. A position gives the same row in every process and on every platform."""

    @property
    def size(self) -> int | None:
        """Rows in an epoch; None if the source is endless."""
        ...

    @property
    def environments(self) -> frozenset[str]:
        """The environments that the rows name."""
        ...

    def take(self, position: int, count: int) -> list[Row]:
        """Rows ``position``, ``position + 1``, ... of the endless sequence.

        Raises:
            ValueError: position or count is negative.
        """
        ...


class LoadedRows:
    """Rows of a data set, epoch after epoch, each epoch in a different order if shuffled."""

    def __init__(self, rows: Sequence[Row], *, seed: int, shuffle: bool) -> None:
        """Position p is in epoch ``p // size``. The order of an epoch depends only on seed, epoch and size.

        Raises:
            ValueError: there are no rows.
        """
        if not rows:
            raise ValueError("there are no rows")
        self.rows = rows
        self._seed = seed
        self._shuffle = shuffle
        self._orders: dict[int, Sequence[int]] = {}  # by epoch; the epochs of the latest call
        self.environments = frozenset(row.environment for row in rows)

    @property
    def size(self) -> int | None:
        return len(self.rows)

    def take(self, position: int, count: int) -> list[Row]:
        _check(position, count)
        places = [divmod(number, len(self.rows)) for number in range(position, position + count)]
        self._orders = {epoch: self._order(epoch) for epoch in dict.fromkeys(epoch for epoch, _ in places)}
        return [self.rows[self._orders[epoch][index]] for epoch, index in places]

    def _order(self, epoch: int) -> Sequence[int]:
        if not self._shuffle:
            return range(len(self.rows))
        if epoch in self._orders:
            return self._orders[epoch]
        order = list(range(len(self.rows)))
        # A string seed is hashed with SHA-512, and Python's generator gives the same bits on every platform.
        random.Random(f"order/{self._seed}/{epoch}").shuffle(order)
        return order


class GeneratedRows:
    """Rows that an environment generates. The latest few thousand are kept, earlier ones regenerated."""

    def __init__(self, generate: Callable[[], Iterator[Row]], environment: str, guard: Guard | None = None) -> None:
        """``generate`` starts the same endless sequence each time; ``environment`` rewards the rows.

        ``guard`` guards the code that generates them.
        """
        self._generate = generate
        self._environment = environment
        self._guard = guard or Guard(f"environment {environment}")
        self._restart()
        self.environments = frozenset({environment})

    @property
    def size(self) -> int | None:
        return None

    def take(self, position: int, count: int) -> list[Row]:
        _check(position, count)
        if position < self._end - len(self._window):
            self._restart()
        while self._end < position + count:
            self._advance(keep=max(_WINDOW, count))
        start = position - (self._end - len(self._window))
        return list(itertools.islice(self._window, start, start + count))

    def _restart(self) -> None:
        with self._guard.calling("rows"):
            self._rows = self._generate()
        self._window: deque[Row] = deque()
        self._end = 0  # position after the last row of the window

    def _advance(self, keep: int) -> None:
        with self._guard.calling("rows"):
            row = next(self._rows, None)
            if not isinstance(row, Row | None):
                raise TypeError(f"row {self._end} is {type(row).__name__}, not Row")
        if row is None:
            raise SkyrlError(
                f"environment {self._environment!r} ended after {self._end} rows: make its method `rows` endless"
            )
        self._check_row(row)
        if row.environment != self._environment:  # an environment does not know the reference that selected it
            row = dataclasses.replace(row, environment=self._environment)
        self._window.append(row)
        if len(self._window) > keep:
            self._window.popleft()
        self._end += 1

    def _check_row(self, row: Row) -> None:
        """Refuse what a row of a file could not hold either."""
        try:
            messages_of(list(row.prompt))
            if not isinstance(row.ground_truth, str):
                raise ValueError(f"the ground truth {shown(row.ground_truth)} is not text")
            check_text(row.ground_truth)
        except (ValueError, TypeError, AttributeError) as error:
            raise DataError(
                f"environment {self._environment!r}, row {self._end} of its method `rows`: {error}; correct the method"
            ) from error


def generated_source(config: RunConfig, split: Split, environment: Environment) -> GeneratedRows:
    """The problems that the environment generates for a split, with the configured system prompt.

    The held-out prompts do not depend on the seed, so that runs can be compared.

    Raises:
        DataError: the environment generates no problems.
    """
    name, system_prompt = config.environment.name, config.data.system_prompt
    seed = config.seed if split == "train" else _EVALUATION_SEED
    guard = guard_of(environment, name)
    with guard.calling("rows"):
        generates = environment.rows(split, seed=seed) is not None
    if not generates:
        raise DataError(no_prompts_message(name, f"data.{split}"))

    def generate() -> Iterator[Row]:
        rows = environment.rows(split, seed=seed)
        assert rows is not None  # `rows` returned rows above, and an environment generates either always or never
        return (with_system_prompt(row, system_prompt) for row in rows)

    return GeneratedRows(generate, name, guard)


def _check(position: int, count: int) -> None:
    if position < 0 or count < 0:
        raise ValueError(f"position and count must not be negative, got {position} and {count}")

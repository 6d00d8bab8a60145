"""The notice board of a run: where the rank that ends first says why, and where the others read it.

It is the key-value store through which the ranks have found each other. torchrun and accelerate keep it, so that it
outlives every rank; elsewhere rank 0 does.
"""

import itertools
import json
import os
import time
from dataclasses import asdict, dataclass
from datetime import timedelta

from torch.distributed import HashStore, PrefixStore, Store, TCPStore  # type: ignore[attr-defined]  # public all the same

from skyrl_train.ranks.ranks import Ranks

ANSWER = timedelta(seconds=20)
"""How long the store may take to answer."""

READERS = 5.0
"""Seconds in which every rank looks at the board at least once."""

_CLAIM, _NOTICE, _CLOSED = "claim", "notice", "closed"
_boards = itertools.count()  # a script may train several runs, one after the other, and each has a board of its own


@dataclass(frozen=True, kw_only=True)
class ExitReason:
    """Why a rank has ended before the others."""

    rank: int
    message: str
    exit_code: int
    signal: int | None = None  # that ended it; None: an error did

    @property
    def line(self) -> str:
        """The message without what follows its first line."""
        return self.message.split("\n", 1)[0]


class FailureBoard:
    """One notice, of the first rank that has one. A board that cannot be reached is an empty one."""

    def __init__(self, ranks: Ranks) -> None:
        """Connect to the store that the ranks have met at.

        Raises:
            RuntimeError: it does not answer.
        """
        self._rank = ranks.rank
        self._notice: ExitReason | None = None  # once it was read
        self._store: Store | None = _store(ranks)
        by_launcher = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
        self._kept_here = ranks.world_size > 1 and ranks.rank == 0 and not by_launcher

    def claim(self) -> int:
        """The rank whose notice it will be: the first that asks. It must `post` then."""
        try:
            if self._store is not None:
                return int(self._store.compare_set(_CLAIM, "", str(self._rank)))
        except RuntimeError:
            self._store = None
        return self._rank

    def post(self, notice: ExitReason) -> None:
        """Let the others read it."""
        self._notice = notice
        self._write(_NOTICE, json.dumps(asdict(notice)))

    def read(self, *, patience: float = 0.0) -> ExitReason | None:
        """The notice, if there is one within so many seconds."""
        if self._notice is None and (content := self._read(_NOTICE, patience)) is not None:
            self._notice = ExitReason(**json.loads(content))
        return self._notice

    def close(self) -> None:
        """Rank 0 has written down how the run has ended. Where it keeps the store, the others get the time to read."""
        self._write(_CLOSED, "yes")
        if self._kept_here:
            time.sleep(READERS)

    def wait_until_closed(self, seconds: float) -> None:
        """Leave rank 0 the time to."""
        self._read(_CLOSED, seconds)

    def _write(self, key: str, value: str) -> None:
        try:
            if self._store is not None:
                self._store.set(key, value)
                self._store.check([key])  # answered when the store has it, which `set` does not wait for
        except RuntimeError:
            self._store = None  # with the process that kept it, its readers are gone, or find out without it

    def _read(self, key: str, patience: float) -> bytes | None:
        limit = time.monotonic() + patience
        while (store := self._store) is not None:
            try:
                if store.check([key]):
                    return bytes(store.get(key))
            except RuntimeError:
                self._store = None
            if time.monotonic() >= limit:
                break
            time.sleep(0.1)
        return None


def _store(ranks: Ranks) -> Store:
    if ranks.world_size == 1:
        return HashStore()
    # A client of its own: that of the process group may be waiting for something else.
    host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    client = TCPStore(host, port, is_master=False, wait_for_workers=False, timeout=ANSWER)
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")  # a launcher that starts anew keeps its store
    return PrefixStore(f"skyrl/{attempt}/{next(_boards)}", client)

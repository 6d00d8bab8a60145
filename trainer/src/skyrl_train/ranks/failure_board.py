"""The failure board of a run: the rank that fails first posts its reason, and the others read it.

It is the key-value store through which the ranks found each other. torchrun and accelerate host it, so it outlives
every rank; otherwise rank 0 hosts it.
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
"""Limit for a request to the store."""

READERS = 5.0
"""Seconds in which every rank reads the board at least once."""

_CLAIM, _NOTICE, _CLOSED = "claim", "notice", "closed"
_boards = itertools.count()  # a script may train several runs in turn, each with its board


@dataclass(frozen=True, kw_only=True)
class ExitReason:
    """Why a rank exited before the others."""

    rank: int
    message: str
    exit_code: int
    signal: int | None = None  # that ended the rank; None after an error

    @property
    def line(self) -> str:
        """The first line of the message."""
        return self.message.split("\n", 1)[0]


class FailureBoard:
    """Holds one reason, that of the first rank that fails. An unreachable board counts as empty."""

    def __init__(self, ranks: Ranks) -> None:
        """Connect to the store of the ranks.

        Raises:
            RuntimeError: the store does not answer.
        """
        self._rank = ranks.rank
        self._notice: ExitReason | None = None  # once it is known
        self._store: Store | None = _store(ranks)
        by_launcher = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
        self._hosts_store = ranks.world_size > 1 and ranks.rank == 0 and not by_launcher

    def claim(self) -> int:
        """The rank whose reason counts: the first that asks. It must then `post` the reason."""
        try:
            if self._store is not None:
                return int(self._store.compare_set(_CLAIM, "", str(self._rank)))
        except RuntimeError:
            self._store = None
        return self._rank

    def post(self, notice: ExitReason) -> None:
        """Publish the reason."""
        self._notice = notice
        self._write(_NOTICE, json.dumps(asdict(notice)))

    def read(self, *, patience: float = 0.0) -> ExitReason | None:
        """The reason, if one is posted within ``patience`` seconds."""
        if self._notice is None and (content := self._read(_NOTICE, patience)) is not None:
            self._notice = ExitReason(**json.loads(content))
        return self._notice

    def close(self) -> None:
        """Rank 0 has recorded how the run ended. If it hosts the store, it gives the others time to read."""
        self._write(_CLOSED, "yes")
        if self._hosts_store:
            time.sleep(READERS)

    def wait_until_closed(self, seconds: float) -> None:
        """Wait until rank 0 has closed the board, or until the time is over."""
        self._read(_CLOSED, seconds)

    def _write(self, key: str, value: str) -> None:
        try:
            if self._store is not None:
                self._store.set(key, value)
                self._store.check([key])  # `set` does not wait until the store has the value
        except RuntimeError:
            self._store = None  # its host is gone, and so are its readers

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
    # A separate client: that of the process group may be waiting for something else.
    host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    client = TCPStore(host, port, is_master=False, wait_for_workers=False, timeout=ANSWER)
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")  # a launcher that restarts ranks keeps its store
    return PrefixStore(f"skyrl/{attempt}/{next(_boards)}", client)

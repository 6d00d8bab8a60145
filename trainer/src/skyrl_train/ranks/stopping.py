"""Requests to stop: SIGINT, SIGTERM and SIGHUP. The first lets the step be finished, a second one does not."""

import signal
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import Any, Self

import torch

from skyrl_train.ranks.interruption import Interrupted
from skyrl_train.ranks.ranks import Ranks
from skyrl_train.tracking.stderr import say_in_a_handler

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

ECHO = 3.0
"""Seconds in which a launcher may pass on what its ranks have heard from the terminal: one request, not two."""


class StopRequest:
    """Hears the signals while it is entered, in the main thread: Python delivers them to no other."""

    def __init__(self, ranks: Ranks, *, urgent: Callable[[], bool] = lambda: False) -> None:
        """``urgent`` says whether another rank has ended, so that there is no step to finish."""
        self._ranks = ranks
        self._urgent = urgent
        self._echo = ECHO if ranks.world_size > 1 else 0.0
        self._heard: int = 0
        self._since = 0.0
        self._patient = False
        self.over = False  # the run is ending: what it writes down must not be torn
        self.lost = False  # it is ending because a collective broke: another rank may have been killed
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                handler = signal.getsignal(number)
                # What `nohup`, or `&` in a script, has switched off stays off; but launchers pass SIGINT on to ranks.
                ignored = handler is signal.SIG_IGN and not (self._echo and number == signal.SIGINT)
                if handler is not None and not ignored:
                    self._before[number] = signal.signal(number, self._hear)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before.clear()

    @property
    def hears(self) -> bool:
        return bool(self._before)

    def let_steps_end(self) -> None:
        """From now on there is something to lose: the first signal waits for `agreed`."""
        self._patient = True

    def agreed(self) -> signal.Signals | None:
        """The signal that any rank has heard, the same on all of them. Collective."""
        number = int(self._ranks.max(torch.tensor([self._heard])))
        if not number:
            return None
        if not self._heard:
            self._heard, self._since = number, time.monotonic()  # its own may be on the way
        return signal.Signals(number)

    def _hear(self, number: int, _: FrameType | None) -> None:
        if self.over:
            if self._ranks.world_size == 1:
                raise Interrupted(number)  # whoever insists need not wait for what is still done, such as an upload
            return
        now = time.monotonic()
        if not self._urgent():
            if self._heard and now - self._since < self._echo:
                return
            if self._patient and not self._heard:
                self._heard, self._since = number, now
                self._answer(number)
                return
        self.over = True
        raise Interrupted(self._heard or number)  # torchrun passes a second SIGINT on as SIGTERM

    def _answer(self, number: int) -> None:
        if self._ranks.is_main:
            name = signal.Signals(number).name
            say_in_a_handler(f"\n{name}: stopping after this step; once more to abandon it")

"""SIGINT, SIGTERM and SIGHUP: the first waits for the end of the step, a second does not. Imports no torch."""

import signal
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import TYPE_CHECKING, Any, Self

from skyrl_train.tracking.stderr import say_in_a_handler

if TYPE_CHECKING:
    from skyrl_train.ranks.ranks import Ranks
    from skyrl_train.tracking.training_run import TrainingRun

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

ECHO = 3.0
"""Seconds in which a launcher may repeat a signal that the terminal sent to the ranks already: one request, not two."""


class Interrupted(KeyboardInterrupt):
    """A signal ended the run."""

    def __init__(self, number: int, *, agreed: bool = False) -> None:
        """``agreed``: all ranks stop after the same step, so no rank has to notify the others."""
        self.agreed = agreed
        self.run: TrainingRun | None = None  # if `train` started it and its folder exists
        self.signal = signal.Signals(number)
        super().__init__(self.signal.name)

    @property
    def exit_code(self) -> int:
        """128 plus the number of the signal, as shells report it."""
        return 128 + self.signal


class StopRequest:
    """Handles the signals while it is entered, in the main thread: Python runs handlers in no other thread."""

    def __init__(self, ranks: "Ranks", *, urgent: Callable[[], bool] = lambda: False) -> None:
        """``urgent`` returns whether another rank has exited, so that the step cannot be finished."""
        self._ranks = ranks
        self._urgent = urgent
        self._echo = ECHO if ranks.world_size > 1 else 0.0
        self._received: int = 0
        self._since = 0.0
        self._waits_for_step = False
        self.over = False  # the run is ending: do not interrupt what it writes
        self.lost = False  # it is ending because a collective broke: another rank may have been killed
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                handler = signal.getsignal(number)
                # What `nohup`, or `&` in a script, ignores stays ignored; but launchers forward SIGINT to ranks.
                ignored = handler is signal.SIG_IGN and not (self._echo and number == signal.SIGINT)
                if handler is not None and not ignored:
                    self._before[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before.clear()

    @property
    def handles_signals(self) -> bool:
        return bool(self._before)

    def wait_for_steps(self) -> None:
        """From now on the first signal waits for the end of the step, in `agreed`."""
        self._waits_for_step = True

    def agreed(self) -> signal.Signals | None:
        """A signal that any rank has received, the same on all ranks. Collective."""
        import torch

        number = int(self._ranks.max(torch.tensor([self._received])))
        if not number:
            return None
        if not self._received:
            self._received, self._since = number, time.monotonic()  # the same signal may still reach this rank
        return signal.Signals(number)

    def _handle(self, number: int, _: FrameType | None) -> None:
        if self.over:
            if self._ranks.world_size == 1:
                raise Interrupted(number)  # do not wait for what is still running, such as an upload
            return
        now = time.monotonic()
        if not self._urgent():
            if self._received and now - self._since < self._echo:
                return
            if self._waits_for_step and not self._received:
                self._received, self._since = number, now
                self._acknowledge(number)
                return
        self.over = True
        raise Interrupted(self._received or number)  # torchrun forwards a second SIGINT as SIGTERM

    def _acknowledge(self, number: int) -> None:
        if self._ranks.is_main:
            name = signal.Signals(number).name
            again = "press Ctrl-C again" if number == signal.SIGINT else f"send {name} again"
            say_in_a_handler(f"\n{name}: stopping after this step ({again} to stop now)")

"""What a signal makes of a run, in every rank. Imports no torch."""

import signal


class Interrupted(KeyboardInterrupt):
    """A signal has ended the run."""

    def __init__(self, number: int, *, agreed: bool = False) -> None:
        """``agreed``: all ranks end with it, after the same step, so that none need tell the others."""
        self.agreed = agreed
        self.signal = signal.Signals(number)
        super().__init__(self.signal.name)

    @property
    def exit_code(self) -> int:
        """By the convention of shells."""
        return 128 + self.signal

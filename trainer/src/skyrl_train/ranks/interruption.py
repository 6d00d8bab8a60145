"""The exception that a signal raises in every rank of a run. Imports no torch."""

import signal


class Interrupted(KeyboardInterrupt):
    """A signal ended the run."""

    def __init__(self, number: int, *, agreed: bool = False) -> None:
        """``agreed``: all ranks stop after the same step, so no rank has to notify the others."""
        self.agreed = agreed
        self.signal = signal.Signals(number)
        super().__init__(self.signal.name)

    @property
    def exit_code(self) -> int:
        """128 plus the number of the signal, as shells report it."""
        return 128 + self.signal

"""`SharedError`: an error that every rank raises, after which the ranks can still work together. Imports no torch."""

from skyrl_core.errors import SkyrlError


class SharedError(SkyrlError):
    """All ranks raise it at the same point, so none waits in a collective and all can save a last checkpoint."""

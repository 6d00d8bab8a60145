"""Releases what a run holds. A failure here must not change how the run ended: its result is saved already."""

import logging
from collections.abc import Callable

logger = logging.getLogger(__name__)


def release(what: str, close: Callable[[], None]) -> None:
    """Call ``close``, and log its error. ``what``: such as "the rollout engine"."""
    try:
        close()
    except Exception as error:  # noqa: BLE001 - engines are other people's code, and may raise anything
        logger.warning("%s could not be closed: %s: %s", what, type(error).__name__, error)

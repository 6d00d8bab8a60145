"""The result of computing one reward."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Score:
    """The reward of one completion, or 0.0 and the error if it could not be computed."""

    reward: float
    error: str | None = None

"""What became of one reward."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Score:
    """The reward of one completion; 0.0 where it could not be had, and then why."""

    reward: float
    error: str | None = None

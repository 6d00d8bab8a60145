"""Parameters of ``clipped_pg``. Does not import torch, so a config is validated without it."""

from pydantic import Field

from skyrl_core import LossParams


class ClippedPGParams(LossParams):
    """Clip bounds of the ratio."""

    clip_low: float = Field(default=0.2, gt=0, le=1, description="The ratio is clipped below 1 - clip_low.")
    clip_high: float = Field(default=0.2, gt=0, description="The ratio is clipped above 1 + clip_high.")

"""The parameters of ``clipped_pg``. Imports no torch, so that they are checked before training starts."""

from pydantic import Field

from skyrl_core.parameters.loss_params import LossParams


class ClippedPGParams(LossParams):
    """How far the ratio may move before a token stops learning."""

    clip_low: float = Field(default=0.2, gt=0, le=1, description="The ratio is clipped below 1 - clip_low.")
    clip_high: float = Field(default=0.2, gt=0, description="The ratio is clipped above 1 + clip_high.")

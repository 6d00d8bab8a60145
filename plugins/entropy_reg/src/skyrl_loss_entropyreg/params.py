"""Parameters of ``entropy_reg``. Does not import torch, so a config is validated without it."""

from typing import Literal

from pydantic import Field

from skyrl_core import LossParams


class EntropyRegParams(LossParams):
    """Clip bounds of the ratio, and the entropy bonus."""

    entropy_coef: float = Field(
        default=0.01,
        ge=0,
        description="Weight of the entropy bonus, per nat; 0 skips it. With target_entropy: the initial weight.",
    )
    clip_low: float | None = Field(
        default=0.2, gt=0, le=1, description="The ratio is clipped below 1 - clip_low; null disables this bound."
    )
    clip_high: float | None = Field(
        default=0.2, gt=0, description="The ratio is clipped above 1 + clip_high; null disables this bound."
    )
    entropy: Literal["exact", "sampled"] = Field(
        default="exact",
        description="exact: of the full distribution. sampled: -pi log pi of the sampled token, cheaper but biased.",
    )
    target_entropy: float | None = Field(
        default=None,
        gt=0,
        description="Adapt the weight to keep the mean entropy, in nats, at or above this; null: fixed weight.",
    )
    adapt_rate: float = Field(
        default=0.005, gt=0, description="Change of the weight per optimizer step, with target_entropy."
    )
    coef_max: float = Field(default=1.0, gt=0, description="Upper limit of the weight, with target_entropy.")

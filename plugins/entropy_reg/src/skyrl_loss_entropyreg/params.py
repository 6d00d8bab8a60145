"""The parameters of ``entropy_reg``. Imports no torch, so that they are checked before training starts."""

from typing import Literal

from pydantic import Field

from skyrl_core.parameters.loss_params import LossParams


class EntropyRegParams(LossParams):
    """How strongly entropy is rewarded, and how far the ratio may move before a token stops learning."""

    entropy_coef: float = Field(
        default=0.01,
        ge=0,
        description="Weight of the entropy bonus, per nat; 0 computes no entropy. With target_entropy: its start.",
    )
    clip_low: float | None = Field(
        default=0.2, gt=0, le=1, description="The ratio is clipped below 1 - clip_low; null does not clip below."
    )
    clip_high: float | None = Field(
        default=0.2, gt=0, description="The ratio is clipped above 1 + clip_high; null does not clip above."
    )
    entropy: Literal["exact", "sampled"] = Field(
        default="exact",
        description="exact: of the whole distribution. sampled: -pi log pi of the sampled token, cheaper and biased.",
    )
    target_entropy: float | None = Field(
        default=None,
        gt=0,
        description="Adapt the weight until the mean entropy, in nats, is at least this; null keeps it fixed.",
    )
    adapt_rate: float = Field(
        default=0.005, gt=0, description="What the weight gains or loses in an optimizer step, with target_entropy."
    )
    coef_max: float = Field(default=1.0, gt=0, description="The largest weight that target_entropy may arrive at.")

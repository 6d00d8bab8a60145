"""The options of reductions, KL and off-policy correction, for config and maths. Imports no torch."""

from typing import Annotated, Literal

from pydantic import Field

from skyrl_core.parameters.strict_model import StrictModel

LossReduction = Literal["token_mean", "sequence_mean", "sequence_sum", "sequence_sum_norm", "prompt_mean"]
KlEstimator = Literal["k1", "k2", "k3", "abs", "low_var_kl"]
RatioBound = Annotated[float, Field(ge=0, le=1e6)]


class OffPolicyOptions(StrictModel):
    """Weights for the gap between rollout engine and trainer; ``maths.off_policy`` has the formulas."""

    weight: Literal["none", "token", "sequence", "geometric"] = Field(
        default="none", description="Weight of a token: its ratio, or the product or geometric mean over its sequence."
    )
    outside: Literal["truncate", "mask"] = Field(
        default="truncate", description="Replace weights outside [low, high] by the nearest bound, or by 0."
    )
    low: RatioBound = Field(default=0.0, description="Lower bound of the weight.")
    high: RatioBound = Field(default=2.0, description="Upper bound of the weight.")
    band: Literal["none", "token", "geometric", "product"] = Field(
        default="none",
        description="Drop sequences whose ratio is outside the band: any token's, the geometric mean, or the product.",
    )
    band_low: RatioBound = Field(default=0.5, description="Lower end of the band.")
    band_high: RatioBound = Field(default=2.0, description="Upper end of the band.")

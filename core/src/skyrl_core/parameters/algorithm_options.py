"""The options of the maths around a loss, for configurations and the maths alike. Imports no torch."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, PositiveFloat

LossReduction = Literal["token_mean", "sequence_mean", "sequence_sum", "sequence_sum_norm", "prompt_mean"]
KlEstimator = Literal["k1", "k2", "k3", "abs", "low_var_kl"]
NonNegative = Annotated[float, Field(ge=0)]


class OffPolicyOptions(BaseModel):
    """Weights for the difference between rollout engine and trainer; ``off_policy`` has the formulas."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    weight: Literal["none", "token", "sequence", "geometric"] = Field(
        default="none", description="Importance weight of a token: its own, its sequence's product or geometric mean."
    )
    outside: Literal["truncate", "mask"] = Field(
        default="truncate", description="What becomes of weights outside low and high: the bound, or 0."
    )
    low: NonNegative = Field(default=0.0, description="Smallest weight.")
    high: PositiveFloat = Field(default=2.0, description="Largest weight.")
    band: Literal["none", "token", "geometric", "product"] = Field(
        default="none",
        description="Drop sequences with a ratio outside the band: any token's, their geometric mean, their product.",
    )
    band_low: NonNegative = Field(default=0.5, description="Lower end of the band.")
    band_high: PositiveFloat = Field(default=2.0, description="Upper end of the band.")

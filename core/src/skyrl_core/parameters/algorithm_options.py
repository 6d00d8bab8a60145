"""The options of the maths around a loss, shared by configurations and the maths. Imports no torch."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, PositiveFloat

LossReduction = Literal["token_mean", "sequence_mean", "sequence_sum", "sequence_sum_norm", "prompt_mean"]
KlEstimator = Literal["k1", "k2", "k3", "abs", "low_var_kl"]
NonNegative = Annotated[float, Field(ge=0)]


class OffPolicyOptions(BaseModel):
    """Corrections for differences between rollout and trainer log-probs; ``off_policy`` has the formulas."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    weight: Literal["none", "token", "sequence", "geometric"] = Field(
        default="none",
        description="Weight of a token: its ratio, or its sequence's product or geometric mean.",
    )
    outside: Literal["truncate", "mask"] = Field(
        default="truncate", description="Weights outside low and high: truncate sets the bound, mask sets 0."
    )
    low: NonNegative = Field(default=0.0, description="Smallest weight.")
    high: PositiveFloat = Field(default=2.0, description="Largest weight.")
    band: Literal["none", "token", "geometric", "product"] = Field(
        default="none",
        description="Drop sequences with a ratio outside the band: of any token, their geometric mean or product.",
    )
    band_low: NonNegative = Field(default=0.5, description="Lower end of the band.")
    band_high: PositiveFloat = Field(default=2.0, description="Upper end of the band.")

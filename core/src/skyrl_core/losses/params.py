"""The parameters of the built-in losses. Imports no torch."""

from typing import Literal, Self

from pydantic import Field, model_validator

from skyrl_core import LossParams


class StandardParams(LossParams):
    """``standard`` has no parameters."""


class DualClipParams(LossParams):
    """Parameters of ``dual_clip``."""

    clip_low: float = Field(default=0.2, gt=0, le=1, description="The ratio is clipped below 1 - clip_low.")
    clip_high: float = Field(default=0.2, gt=0, description="The ratio is clipped above 1 + clip_high.")
    clip_ratio_c: float | None = Field(
        default=3.0, gt=1, description="Bounds the loss of tokens with A < 0 by clip_ratio_c · |A|; null is plain PPO."
    )


class CispoParams(LossParams):
    """Parameters of ``cispo``."""

    clip_low: float = Field(
        default=1.0, gt=0, le=1, description="The ratio is clamped below 1 - clip_low; 1 means no lower bound."
    )
    clip_high: float = Field(
        default=4.0, gt=0, description="The ratio is clamped above 1 + clip_high: an offset from 1, not the bound."
    )
    anchor: Literal["old", "rollout"] = Field(
        default="old", description="Denominator of the ratio: the policy before the update, or the rollout engine's."
    )


class GspoParams(LossParams):
    """Parameters of ``gspo``."""

    clip_low: float = Field(default=3e-4, gt=0, le=1, description="The sequence ratio is clipped below 1 - clip_low.")
    clip_high: float = Field(default=4e-4, gt=0, description="The sequence ratio is clipped above 1 + clip_high.")
    level: Literal["token", "sequence"] = Field(
        default="token",
        description="Send the gradient to each token separately (GSPO-token) or through the sequence ratio (GSPO).",
    )


class ReinforceParams(LossParams):
    """``reinforce`` has no parameters."""


class ImportanceSamplingParams(LossParams):
    """Parameters of ``importance_sampling``."""

    anchor: Literal["old", "rollout"] = Field(
        default="rollout",
        description="Denominator of the ratio: the policy before the update, or the rollout engine's.",
    )


class LuspoParams(LossParams):
    """Parameters of ``luspo``."""

    clip_low: float = Field(default=2e-3, gt=0, le=1, description="The sequence ratio is clipped below 1 - clip_low.")
    clip_high: float = Field(default=2.5e-3, gt=0, description="The sequence ratio is clipped above 1 + clip_high.")


class GmpoParams(LossParams):
    """Parameters of ``gmpo``."""

    clip_low: float = Field(
        default=0.4, gt=0, description="The log-ratio of a token with A < 0 is clipped below -clip_low."
    )
    clip_high: float = Field(
        default=0.4, gt=0, description="The log-ratio of a token with A > 0 is clipped above clip_high."
    )


class SapoParams(LossParams):
    """Parameters of ``sapo``."""

    tau_pos: float = Field(default=1.0, gt=0, description="Temperature of the gate of tokens with A > 0.")
    tau_neg: float = Field(default=1.05, gt=0, description="Temperature of the gate of all other tokens.")


class ClipCovParams(LossParams):
    """Parameters of ``clip_cov``."""

    clip_low: float = Field(default=0.2, gt=0, le=1, description="The ratio is clipped below 1 - clip_low.")
    clip_high: float = Field(default=0.2, gt=0, description="The ratio is clipped above 1 + clip_high.")
    clip_cov_ratio: float = Field(
        default=2e-4, gt=0, le=1, description="Share of the minibatch's tokens that get no gradient."
    )
    clip_cov_lb: float = Field(default=1.0, description="Only tokens with a covariance above this are chosen.")
    clip_cov_ub: float = Field(default=5.0, description="Only tokens with a covariance below this are chosen.")

    @model_validator(mode="after")
    def _bounds_in_order(self) -> Self:
        if self.clip_cov_lb >= self.clip_cov_ub:
            raise ValueError(
                f"clip_cov_lb must be below clip_cov_ub, or no token is chosen; got {self.clip_cov_lb} and "
                f"{self.clip_cov_ub}"
            )
        return self


class KlCovParams(LossParams):
    """Parameters of ``kl_cov``."""

    kl_cov_frac: float = Field(
        default=2e-4, gt=0, le=1, description="Share of the minibatch's tokens that are penalised."
    )
    ppo_kl_coef: float = Field(default=1.0, gt=0, description="Weight of the penalty on the chosen tokens.")


class DppoParams(LossParams):
    """Parameters of ``dppo``."""

    kind: Literal["binary_tv", "binary_kl"] = Field(
        default="binary_tv",
        description="The divergence at the sampled token: total variation, or KL(anchor || policy).",
    )
    delta_low: float = Field(
        default=0.2,
        gt=0,
        description="A token with A < 0 is dropped if it is less likely by more than this divergence.",
    )
    delta_high: float = Field(
        default=0.2, gt=0, description="A token with A > 0 is dropped if it is likelier by more than this divergence."
    )
    anchor: Literal["old", "rollout"] = Field(
        default="rollout",
        description="Centre of the trust region: the policy before the update, or the rollout engine's.",
    )


class DroParams(LossParams):
    """Parameters of ``dro``."""

    beta: float = Field(default=0.05, gt=0, description="Strength of the pull towards the old policy.")


class VespoParams(LossParams):
    """Parameters of ``vespo``."""

    k_pos: float = Field(default=2.0, ge=0, description="Exponent of the sequence's weight where A >= 0.")
    lambda_pos: float = Field(default=3.0, gt=0, description="Decay in the sequence's weight where A >= 0.")
    k_neg: float = Field(default=3.0, ge=0, description="Exponent of the sequence's weight where A < 0.")
    lambda_neg: float = Field(default=2.0, gt=0, description="Decay in the sequence's weight where A < 0.")


class IcepopParams(LossParams):
    """Parameters of ``icepop``."""

    ratio_low: float = Field(default=0.5, gt=0, le=1, description="Tokens with a smaller ratio are dropped.")
    ratio_high: float = Field(default=5.0, ge=1, description="Tokens with a larger ratio are dropped.")


class KpopParams(LossParams):
    """Parameters of ``kpop``."""

    phi: float = Field(default=0.1, gt=0, description="Tokens with a larger binary KL, in nats, are dropped.")


class CpgdParams(LossParams):
    """Parameters of ``cpgd``."""

    clip_low: float = Field(default=0.2, gt=0, lt=1, description="The log-ratio is clipped below log(1 - clip_low).")
    clip_high: float = Field(default=0.2, gt=0, description="The log-ratio is clipped above log(1 + clip_high).")
    drift_coef: float = Field(default=0.01, ge=0, description="Weight of KL(old policy || policy).")


class DecoupledPpoParams(LossParams):
    """Parameters of ``decoupled_ppo``."""

    clip_low: float = Field(default=0.2, gt=0, le=1, description="The ratio is clipped below 1 - clip_low.")
    clip_high: float = Field(default=0.2, gt=0, description="The ratio is clipped above 1 + clip_high.")
    behave_cap: float | None = Field(
        default=5.0,
        gt=1,
        description="Tokens whose weight (old policy / rollout policy) exceeds this are dropped; null keeps all.",
    )


class CrossEntropyParams(LossParams):
    """``cross_entropy`` has no parameters."""

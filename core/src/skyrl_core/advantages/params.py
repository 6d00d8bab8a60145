"""The parameters of the built-in advantage estimators. Imports no torch."""

from pydantic import Field

from skyrl_core import LossParams


class GrpoParams(LossParams):
    """Parameters of ``grpo``."""

    norm_by_std: bool = Field(
        default=True, description="Divide by the standard deviation of the group; false is the centring of Dr.GRPO."
    )
    epsilon: float = Field(default=1e-6, gt=0, description="Added to the standard deviation before dividing.")


class RlooParams(LossParams):
    """``rloo`` has no parameters."""


class DrGrpoParams(LossParams):
    """``dr_grpo`` has no parameters."""


class ReinforcePpParams(LossParams):
    """Parameters of ``reinforce_pp``."""

    baseline: bool = Field(
        default=False, description="Subtract the mean reward of the group first (REINFORCE++-baseline)."
    )
    epsilon: float = Field(default=1e-8, gt=0, description="Added to the standard deviation before dividing.")


class OpoParams(LossParams):
    """``opo`` has no parameters."""


class MaxrlParams(LossParams):
    """``maxrl`` has no parameters."""


class PassAtKParams(LossParams):
    """``pass_at_k`` has no parameters."""


class GaeParams(LossParams):
    """Parameters of ``gae``."""

    gamma: float = Field(default=1.0, gt=0, le=1, description="Discount per token.")
    lam: float = Field(default=0.95, ge=0, le=1, description="Lambda: 0 trusts the value model, 1 only the return.")
    whiten: bool = Field(default=True, description="Give the advantages of all tokens mean 0 and variance 1.")
    epsilon: float = Field(default=1e-8, gt=0, description="Added to the standard deviation before dividing.")

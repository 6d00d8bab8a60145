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
    """Parameters of ``rloo``: there are none."""


class DrGrpoParams(LossParams):
    """Parameters of ``dr_grpo``: there are none."""


class ReinforcePpParams(LossParams):
    """Parameters of ``reinforce_pp``."""

    baseline: bool = Field(
        default=False, description="First subtract the mean reward of the group (REINFORCE++-baseline)."
    )
    epsilon: float = Field(default=1e-8, gt=0, description="Added to the standard deviation before dividing.")


class OpoParams(LossParams):
    """Parameters of ``opo``: there are none."""


class MaxrlParams(LossParams):
    """Parameters of ``maxrl``: there are none."""


class PassAtKParams(LossParams):
    """Parameters of ``pass_at_k``: there are none."""


class GaeParams(LossParams):
    """Parameters of ``gae``."""

    gamma: float = Field(default=1.0, gt=0, le=1, description="Discount of each token.")
    lam: float = Field(default=0.95, ge=0, le=1, description="Lambda: 0 trusts the value model, 1 the return alone.")
    whiten: bool = Field(default=True, description="Give the advantages of all tokens mean 0 and variance 1.")
    epsilon: float = Field(default=1e-8, gt=0, description="Added to the standard deviation before dividing.")

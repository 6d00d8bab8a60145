"""The parameters of the built-in advantage estimators. Imports no torch."""

from pydantic import Field

from skyrl_core import EstimatorParams


class GroupParams(EstimatorParams):
    """Parameters of an estimator that compares the samples of a prompt with each other."""

    def smallest_group(self) -> int:
        """Two samples: one has nothing to be compared with."""
        return 2


class GrpoParams(GroupParams):
    """Parameters of ``grpo``."""

    norm_by_std: bool = Field(
        default=True, description="Divide by the standard deviation of the group; false is the centring of Dr.GRPO."
    )
    epsilon: float = Field(default=1e-6, gt=0, description="Added to the standard deviation before dividing.")


class RlooParams(GroupParams):
    """``rloo`` has no parameters."""


class DrGrpoParams(GroupParams):
    """``dr_grpo`` has no parameters."""


class ReinforcePpParams(EstimatorParams):
    """Parameters of ``reinforce_pp``."""

    baseline: bool = Field(
        default=False, description="Subtract the mean reward of the group first (REINFORCE++-baseline)."
    )
    epsilon: float = Field(default=1e-8, gt=0, description="Added to the standard deviation before dividing.")

    def smallest_group(self) -> int:
        """Two samples with a baseline for each group."""
        return 2 if self.baseline else 1


class OpoParams(GroupParams):
    """``opo`` has no parameters."""


class MaxrlParams(GroupParams):
    """``maxrl`` has no parameters."""


class PassAtKParams(GroupParams):
    """``pass_at_k`` has no parameters."""


class GaeParams(EstimatorParams):
    """Parameters of ``gae``."""

    gamma: float = Field(default=1.0, gt=0, le=1, description="Discount per token.")
    lam: float = Field(default=0.95, ge=0, le=1, description="Lambda: 0 trusts the value model, 1 only the return.")
    whiten: bool = Field(default=True, description="Give the advantages of all tokens mean 0 and variance 1.")
    epsilon: float = Field(default=1e-8, gt=0, description="Added to the standard deviation before dividing.")

"""What a policy loss and an advantage estimator are, and how per-token values become one scalar."""

from skyrl_core.contract.advantage_estimator import AdvantageBatch, AdvantageEstimator
from skyrl_core.contract.loss_value import LossOutput, evaluate_loss, rows_of, scalar_loss
from skyrl_core.contract.metric import Kind, Metric, merge
from skyrl_core.contract.policy_loss import LossBatch, Need, PolicyLoss, TokenLosses, is_scalar_form
from skyrl_core.contract.reduction import (
    LOSS_REDUCTIONS,
    BatchCounts,
    LossReduction,
    count_batch,
    token_weights,
    weighted_sum,
)

__all__ = [
    "LOSS_REDUCTIONS",
    "AdvantageBatch",
    "AdvantageEstimator",
    "BatchCounts",
    "Kind",
    "LossBatch",
    "LossOutput",
    "LossReduction",
    "Metric",
    "Need",
    "PolicyLoss",
    "TokenLosses",
    "count_batch",
    "evaluate_loss",
    "is_scalar_form",
    "merge",
    "rows_of",
    "scalar_loss",
    "token_weights",
    "weighted_sum",
]

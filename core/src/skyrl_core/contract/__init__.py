"""The contracts of policy losses and advantage estimators, and the reduction of token values.

Decisions:

- A loss returns unreduced values, [B, T]; `reduction` is the only place that masks, weights and averages. That makes
  any loss exact under micro-batches, accumulation, ranks and packing.
- Weights are applied to token losses, never to advantages: a loss that is not linear in its advantages would change.
- Reading an input that `needs` does not declare is an error. Otherwise the trainer could not skip the reference
  model, the old policy and the entropy when no component asks for them.
"""

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

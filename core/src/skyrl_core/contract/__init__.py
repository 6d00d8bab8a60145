"""The contracts of policy losses and advantage estimators, and the reduction of token values.

Decisions:

- A loss returns unreduced values, [B, T]; `reduction` is the only place that masks, weights and averages. That makes
  any loss exact under micro-batches, accumulation, ranks and packing.
- Weights are applied to token losses, never to advantages: a loss that is not linear in its advantages would change.
- Reading an input that `needs` does not declare is an error. Otherwise the trainer could not skip the reference
  model, the old policy and the entropy when no component asks for them.
"""

from skyrl_core.contract.advantage_estimator import AdvantageBatch as AdvantageBatch
from skyrl_core.contract.advantage_estimator import AdvantageEstimator as AdvantageEstimator
from skyrl_core.contract.loss_value import LossOutput as LossOutput
from skyrl_core.contract.loss_value import evaluate_loss as evaluate_loss
from skyrl_core.contract.loss_value import scalar_loss as scalar_loss
from skyrl_core.contract.metric import Kind as Kind
from skyrl_core.contract.metric import Metric as Metric
from skyrl_core.contract.metric import merge as merge
from skyrl_core.contract.policy_loss import LossBatch as LossBatch
from skyrl_core.contract.policy_loss import Need as Need
from skyrl_core.contract.policy_loss import PolicyLoss as PolicyLoss
from skyrl_core.contract.policy_loss import TokenLosses as TokenLosses
from skyrl_core.contract.policy_loss import is_scalar_form as is_scalar_form
from skyrl_core.contract.policy_loss import prepared_by as prepared_by
from skyrl_core.contract.prepared import Prepared as Prepared
from skyrl_core.contract.reduction import LOSS_REDUCTIONS as LOSS_REDUCTIONS
from skyrl_core.contract.reduction import BatchCounts as BatchCounts
from skyrl_core.contract.reduction import LossReduction as LossReduction
from skyrl_core.contract.reduction import count_batch as count_batch
from skyrl_core.contract.reduction import token_weights as token_weights
from skyrl_core.contract.reduction import weighted_sum as weighted_sum

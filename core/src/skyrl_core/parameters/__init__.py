"""Parameter schemas, their validation, and schedules. Imports no torch.

Decision: schemas live in torch-free modules with separate entry-point groups (`skyrl.policy_loss_params`,
`skyrl.advantage_estimator_params`), so that a wrong parameter is reported before torch is imported.
"""

from skyrl_core.parameters.algorithm_options import KlEstimator, LossReduction, NonNegative, OffPolicyOptions
from skyrl_core.parameters.loss_params import LossParams, OpenLossParams
from skyrl_core.parameters.param_validation import validate_params
from skyrl_core.parameters.parameter_plan import ParamPlan
from skyrl_core.parameters.schedule import (
    Schedule,
    checked_steps,
    is_schedule,
    number_at,
    parse_schedule,
    schedule_fault,
)
from skyrl_core.parameters.wording import rule_of

__all__ = [
    "KlEstimator",
    "LossParams",
    "LossReduction",
    "NonNegative",
    "OffPolicyOptions",
    "OpenLossParams",
    "ParamPlan",
    "Schedule",
    "checked_steps",
    "is_schedule",
    "number_at",
    "parse_schedule",
    "rule_of",
    "schedule_fault",
    "validate_params",
]

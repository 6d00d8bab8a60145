"""Parameter schemas, their validation, and schedules. Imports no torch.

Decision: schemas live in torch-free modules with separate entry-point groups (`skyrl.policy_loss_params`,
`skyrl.advantage_estimator_params`), so that a wrong parameter is reported before torch is imported.
"""

from skyrl_core.parameters.algorithm_options import KlEstimator as KlEstimator
from skyrl_core.parameters.algorithm_options import LossReduction as LossReduction
from skyrl_core.parameters.algorithm_options import OffPolicyOptions as OffPolicyOptions
from skyrl_core.parameters.error_wording import rule_of as rule_of
from skyrl_core.parameters.estimator_params import EstimatorParams as EstimatorParams
from skyrl_core.parameters.estimator_params import smallest_group as smallest_group
from skyrl_core.parameters.loss_params import LossParams as LossParams
from skyrl_core.parameters.loss_params import OpenLossParams as OpenLossParams
from skyrl_core.parameters.nesting import MAX_DEPTH as MAX_DEPTH
from skyrl_core.parameters.nesting import TOO_DEEP as TOO_DEEP
from skyrl_core.parameters.nesting import is_too_deep as is_too_deep
from skyrl_core.parameters.param_validation import validate_params as validate_params
from skyrl_core.parameters.parameter_plan import ParamPlan as ParamPlan
from skyrl_core.parameters.schedule import Schedule as Schedule
from skyrl_core.parameters.schedule import checked_steps as checked_steps
from skyrl_core.parameters.schedule import is_schedule as is_schedule
from skyrl_core.parameters.schedule import number_at as number_at
from skyrl_core.parameters.schedule import parse_schedule as parse_schedule
from skyrl_core.parameters.schedule import schedule_fault as schedule_fault
from skyrl_core.parameters.schema_call import as_json_values as as_json_values
from skyrl_core.parameters.schema_call import calling_schema as calling_schema
from skyrl_core.parameters.schema_call import json_schema as json_schema
from skyrl_core.parameters.strict_model import StrictModel as StrictModel

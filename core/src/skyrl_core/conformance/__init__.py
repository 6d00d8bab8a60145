"""Proves a policy loss against the contract, without a model: rules as data, each with what to change when it fails."""

from skyrl_core.conformance.check_report import Report, RuleResult
from skyrl_core.conformance.loss_check import RULES, check_policy_loss
from skyrl_core.conformance.waivers import WaiverError
from skyrl_core.conformance.zero_advantages import effect_of_zero_advantages

__all__ = ["RULES", "Report", "RuleResult", "WaiverError", "check_policy_loss", "effect_of_zero_advantages"]

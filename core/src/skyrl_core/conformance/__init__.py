"""Checks a policy loss against the rules of the contract, without a model; the table of all rules is in rules/."""

from skyrl_core.conformance.check_report import Report, RuleResult
from skyrl_core.conformance.loss_check import check_policy_loss
from skyrl_core.conformance.rules import RULES
from skyrl_core.conformance.waivers import WaiverError
from skyrl_core.conformance.zero_advantages import effect_of_zero_advantages

__all__ = ["RULES", "Report", "RuleResult", "WaiverError", "check_policy_loss", "effect_of_zero_advantages"]

"""A parameter counts as unused only after a thorough search for an effect."""

from collections.abc import Mapping

import pytest
import torch
from pydantic import Field
from torch import Tensor

from skyrl_core.conformance import check_policy_loss
from skyrl_core.conformance.check_report import RuleResult
from skyrl_core.contract.policy_loss import LossBatch, PolicyLoss, TokenLosses
from skyrl_core.parameters.loss_params import LossParams


class Params(LossParams):
    target: float | None = None
    rate: float = Field(default=0.001, gt=0)
    largest: float = Field(default=0.2, gt=0)
    warmup: int = Field(default=0, ge=0)
    log: bool = False


class Adaptive(PolicyLoss):
    """A coefficient that adapts only with a target, up to a largest one that it takes many steps to reach."""

    name = "adaptive"
    Params = Params
    api_version = 1
    semantics_version = 1

    def __init__(self, params: Params) -> None:
        super().__init__(params)
        self.coef = 0.0

    def token_losses(self, batch: LossBatch) -> TokenLosses:
        move = (batch.log_probs - batch.old_log_probs).clamp(-20, 20)
        scale = 1.0 if batch.step >= self.params.warmup else 0.5
        return TokenLosses(values=-scale * move.exp() * batch.advantages + self.coef * move.square())

    def after_step(self, metrics: Mapping[str, float]) -> None:
        if self.params.target is not None and metrics["loss"] < self.params.target:
            self.coef = min(self.coef + self.params.rate, self.params.largest)

    def state_dict(self) -> dict[str, float]:
        return {"coef": self.coef}

    def load_state_dict(self, state: Mapping[str, float]) -> None:
        self.coef = state["coef"]


class Logs(Adaptive):
    name, Params, api_version, semantics_version = "logs", Params, 1, 1

    def state_dict(self) -> dict[str, float]:
        return super().state_dict() | ({"logged": 1.0} if self.params.log else {})


def parameters_rule(loss: PolicyLoss) -> RuleResult:
    report = check_policy_loss(loss, thorough=True)
    [result] = [result for result in report.results if result.rule == "parameters"]
    return result


def test_parameters_that_need_another_one_or_many_steps_or_a_late_step_are_found_to_have_an_effect() -> None:
    result = parameters_rule(Logs(Params()))
    assert result.passed, result.failure


def test_the_parameter_without_effect_is_named() -> None:
    assert (parameters_rule(Adaptive(Params())).failure or "").startswith("log has no effect: False and True give")


def test_a_value_that_the_schema_accepts_but_the_loss_rejects_is_a_failure() -> None:
    class Fragile(Adaptive):
        name, Params, api_version, semantics_version = "fragile", Params, 1, 1

        def __init__(self, params: Params) -> None:
            if params.warmup > 0:
                raise ValueError("no warmup yet")
            super().__init__(params)

    failure = check_policy_loss(Fragile(Params()), thorough=True).failures[0]
    assert failure.rule == "parameter_bounds"
    assert "the schema admits warmup = 1" in (failure.failure or "")
    assert "raises ValueError: no warmup yet" in (failure.failure or "")


@pytest.mark.parametrize("default", [None, 1.0])
def test_an_untyped_parameter_that_is_used_passes(default: float | None) -> None:
    class Untyped(PolicyLoss):
        def __init__(self, config) -> None:
            self.limit = config.get("limit", default)

        def compute_loss(self, log_probs, old_log_probs, advantages, masks, **kwargs) -> Tensor:
            ratio = (log_probs - old_log_probs).clamp(-20, 20).exp()
            losses = -ratio.clamp(max=torch.inf if self.limit is None else self.limit) * advantages
            return (losses * masks).sum() / masks.sum()

    assert parameters_rule(Untyped(Untyped.Params())).passed

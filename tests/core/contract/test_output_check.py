"""A loss that returns something else in a run than in its checks is named at once."""

import pytest
import torch

from skyrl_core.contract.loss_value import evaluate_loss
from skyrl_core.contract.metric import Metric
from skyrl_core.contract.policy_loss import LossBatch, PolicyLoss, TokenLosses
from skyrl_core.errors import ConformanceError
from skyrl_core.parameters.loss_params import OpenLossParams

ONE = torch.tensor(1.0)
WRONG = {
    "nothing": (lambda v: None, "NoneType from token_losses: return TokenLosses"),
    "a tensor": (lambda v: v, r"torch.float32 \[2, 3\] from token_losses"),
    "a number": (lambda v: TokenLosses(values=0.5), "values of type float"),
    "a sum": (lambda v: TokenLosses(values=v.sum()), r"values of shape \[\] for a batch of \[2, 3\]"),
    "one column": (lambda v: TokenLosses(values=v[:, :1]), r"values of shape \[2, 1\]"),
    "detached": (lambda v: TokenLosses(values=v.detach()), "values without a gradient"),
    "constant": (lambda v: TokenLosses(values=torch.zeros(2, 3)), "values without a gradient"),
    "integers": (lambda v: TokenLosses(values=v.long()), "values of torch.int64: return the dtype"),
    "another device": (lambda v: TokenLosses(values=v.to("meta")), "values on the device meta"),
    "a term of a number": (lambda v: TokenLosses(values=v, terms={"a": 1.0}), "the term 'a' of type float"),
    "a list of terms": (lambda v: TokenLosses(values=v, terms=[v]), "terms or metrics that are no dict"),
    "a metric of a number": (lambda v: TokenLosses(values=v, metrics={"m": 1.0}), "the metric 'm' = float"),
    "a metric of floats": (
        lambda v: TokenLosses(values=v, metrics={"m": Metric(kind="mean", total=1.0, count=ONE)}),
        "the metric 'm' = Metric: use Metric.mean",
    ),
    "a metric per token": (
        lambda v: TokenLosses(values=v, metrics={"m": Metric(kind="mean", total=v, count=ONE)}),
        "the metric 'm' = Metric: use Metric.mean",
    ),
}
WRONG_SCALARS = {
    "nothing": (lambda v: None, "a loss of type NoneType: return a tensor, one number"),
    "a float": (lambda v: 0.5, "a loss of type float"),
    "a pair": (lambda v: (v.sum(), {}), "a loss of type tuple"),
    "per token": (lambda v: v, r"a loss of shape \[2, 3\]"),
    "one in a list": (lambda v: v.sum()[None], r"a loss of shape \[1\]"),
    "detached": (lambda v: v.sum().detach(), "a loss without a gradient"),
}


def batch():
    zeros = torch.zeros(2, 3, requires_grad=True)
    return LossBatch(log_probs=zeros, advantages=torch.ones(2, 3), mask=torch.ones(2, 3, dtype=torch.bool))


@pytest.mark.parametrize(("make", "problem"), WRONG.values(), ids=WRONG)
def test_a_wrong_result_per_token_is_named(make, problem):
    class Wrong(PolicyLoss):
        name = "wrong"

        def token_losses(self, batch):
            return make(batch.log_probs * 2)

    with pytest.raises(ConformanceError, match=f"the loss wrong returned .*{problem}"):
        evaluate_loss(Wrong(OpenLossParams()), batch(), torch.ones(2, 3), 1.0)


@pytest.mark.parametrize(("make", "problem"), WRONG_SCALARS.values(), ids=WRONG_SCALARS)
def test_a_wrong_scalar_is_named(make, problem):
    class Wrong(PolicyLoss):
        name = "wrong"

        def compute_loss(self, log_probs, *others, **inputs):
            return make(log_probs * 2)

    with pytest.raises(ConformanceError, match=f"the loss wrong returned {problem}"):
        evaluate_loss(Wrong(OpenLossParams()), batch(), torch.ones(2, 3), 1.0)


def test_without_gradients_a_constant_is_no_fault():
    class Constant(PolicyLoss):
        def token_losses(self, batch):
            return TokenLosses(values=torch.ones_like(batch.log_probs))

    with torch.no_grad():
        assert float(evaluate_loss(Constant(OpenLossParams()), batch(), torch.ones(2, 3), 1.0).total) == 6

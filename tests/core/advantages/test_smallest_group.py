"""The smallest group that an estimator declares is the smallest one with an advantage."""

import pytest
import torch

from skyrl_core import AdvantageBatch, EstimatorParams, LossParams
from skyrl_core.parameters import smallest_group
from skyrl_core.registry import ESTIMATORS, ResolvedEstimator

SETTINGS = [
    (claim.name, {}) for claim in ESTIMATORS.rows() if claim.distribution == "skyrl-core" and claim.name != "gae"
]
SETTINGS += [("reinforce_pp", {"baseline": True}), ("grpo", {"norm_by_std": False})]


@pytest.mark.parametrize(("name", "params"), SETTINGS)
def test_it_is_the_smallest_group_with_an_advantage(name, params):
    resolved = ResolvedEstimator.find(name, params)
    estimator = resolved.build(resolved.class_plan.at(0))
    needed = smallest_group(estimator.params)

    def advantages(size):
        rewards = torch.arange(3.0 * size)
        groups = torch.arange(3).repeat_interleave(size)
        return estimator.estimate(AdvantageBatch(rewards, groups, torch.ones(len(groups), 4, dtype=torch.bool)))

    assert advantages(needed).abs().max() > 0.1
    assert needed in (1, 2)
    if needed == 2:
        assert not advantages(1).any()


def test_a_schema_that_says_nothing_needs_one_sample():
    assert smallest_group(LossParams()) == smallest_group(EstimatorParams()) == 1

"""A sample without a verdict changes nothing: a float64 oracle that never sees it."""

import copy
import math

import pytest
import torch
from tests.trainer.step.test_update import objective, stepped

from skyrl_core import LossParams, Need, PolicyLoss, load_policy_loss
from skyrl_core.maths import masked_mean
from skyrl_core.registry.estimator_registry import load_advantage_estimator
from skyrl_train.rewards.reward_result import Score
from skyrl_train.step.advantages import AdvantagePass
from skyrl_train.step.rollout import rewarded

REWARDS = [1.0, None, None, None, 0.5, 0.5, 2.0, -1.0, 0.0, 3.0]
"""Group 0 has one verdict, group 1 none, group 2 equal ones."""
JUDGED = [0, 4, 5, 6, 7, 8, 9]
ADVANTAGES = [0.0, 0.0, 0.0, 1.5, -1.5, -1.5, 1.5]
"""Reward minus the mean of the group's verdicts; a single verdict equals its mean."""


class ScalarLoss(PolicyLoss):
    """One number for a micro-batch."""

    name = "scalar"
    Params = LossParams
    api_version = 1
    semantics_version = 1

    @classmethod
    def needs(cls, params):
        return frozenset({Need.OLD_LOG_PROBS})

    def compute_loss(self, log_probs, old_log_probs, advantages, masks, **_inputs):
        return masked_mean(-(log_probs - old_log_probs).exp() * advantages, masks.bool())


def oracle(model, experience, fraction):
    """The gradient of the token mean over the judged samples, one sequence at a time, in float64."""
    model = copy.deepcopy(model).double()
    values, entropies, advantages = [], [], []
    for row, advantage in zip(JUDGED, ADVANTAGES, strict=True):
        length, start = int(experience.lengths[row]), int(experience.response_start[row])
        ids = experience.input_ids[row, :length]
        logs = model(input_ids=ids[None]).logits[0, start - 1 : length - 1].log_softmax(-1)
        values.append(logs.gather(1, ids[start:, None])[:, 0])
        entropies.append(-(logs.exp() * logs).sum(-1).detach())
        advantages += [advantage] * (length - start)
    entropy, advantage = torch.cat(entropies), torch.tensor(advantages, dtype=torch.float64)
    if fraction is not None:
        lowest = entropy.sort(descending=True).values[math.ceil(fraction * len(entropy)) - 1]
        advantage = advantage * (entropy >= lowest - 1e-5)
    (-(torch.cat(values) * advantage).sum() / len(advantage)).backward()
    return {name: parameter.grad for name, parameter in model.named_parameters()}


CASES = [
    ("dual_clip", {}),
    ("scalar", {}),
    ("dual_clip", {"skip_zero_advantages": True}),
    ("dual_clip", {"high_entropy_fraction": 0.3}),
]


@pytest.mark.parametrize(("name", "settings"), CASES)
def test_advantages_and_gradient_are_those_of_a_batch_without_the_sample(
    name, settings, experience, small_model, plain_engine, on_ranks
):
    wanted = oracle(small_model, experience, settings.get("high_entropy_fraction"))
    goal = objective(ScalarLoss(LossParams()) if name == "scalar" else load_policy_loss(name), **settings)
    estimator = load_advantage_estimator("grpo", {"norm_by_std": False})

    def on(world_size, size):
        def work(ranks):
            rows = [n for n, group in enumerate(experience.groups.tolist()) if group % world_size == ranks.rank]
            scores = [Score(reward=REWARDS[row]) for row in rows]
            own = rewarded(experience.select(torch.tensor(rows, dtype=torch.long)), scores)
            own, _ = AdvantagePass(estimator, "grpo", "k1", ranks).estimate(own, 0.0)
            kept = [row for row in rows if row in JUDGED]
            expected = [ADVANTAGES[JUDGED.index(row)] for row in kept]
            assert own.advantages[:, 0].tolist() == expected
            assert own.rewards.tolist() == [REWARDS[row] for row in kept]
            return stepped(ranks, plain_engine(ranks), goal, own, size)[1]

        return on_ranks(world_size, work)[0]

    assert any(values.abs().max() > 1e-3 for values in wanted.values())
    # Of five ranks, each has one group: one rank has no sample with a verdict.
    for world_size, size in ((1, 1), (1, 3), (1, 64), (2, 2), (5, 1)):
        gradient = on(world_size, size)
        for parameter, values in gradient.items():
            torch.testing.assert_close(values.double(), wanted[parameter.removeprefix("model.")], rtol=1e-4, atol=1e-6)


def test_a_minibatch_without_any_verdict_makes_no_step(experience, plain_engine, one_rank):
    own = rewarded(experience, [Score()] * len(experience))
    engine = plain_engine(one_rank)
    metrics, _ = stepped(one_rank, engine, objective(load_policy_loss("dual_clip")), own, 4)
    assert engine.calls == []
    assert metrics == {}

"""Advantages from the rewards of all ranks, with a KL penalty in the reward."""

from dataclasses import replace

import pytest
import torch

from skyrl_core.contract.advantage_estimator import AdvantageEstimator
from skyrl_core.errors import SkyrlError
from skyrl_core.parameters.loss_params import LossParams
from skyrl_core.registry.estimator_registry import load_advantage_estimator
from skyrl_train.step.advantages import AdvantagePass

SHARES = {1: [range(10)], 2: [range(6), range(6, 10)]}


class Seen(AdvantageEstimator):
    """An estimator that keeps the batch."""

    def estimate(self, batch):
        self.batch = batch
        return batch.rewards


def test_the_kl_of_each_sequence_is_subtracted_from_its_reward(experience, one_rank):
    old, reference = torch.full(experience.mask.shape, -1.0), torch.full(experience.mask.shape, -1.5)
    given = replace(experience, old_log_probs=old, ref_log_probs=reference)
    estimator = Seen(LossParams())
    after, logged = AdvantagePass(estimator, "seen", "k1", one_rank).estimate(given, 0.2)
    lengths = experience.mask.sum(-1)
    # k1 = -1 + 1.5 = 0.5 nats at each token, times 0.2
    torch.testing.assert_close(estimator.batch.rewards, experience.rewards - 0.1 * lengths)
    torch.testing.assert_close(estimator.batch.token_rewards, torch.where(experience.mask, -0.1, 0.0))
    assert logged == {"kl_reward/mean": pytest.approx(0.1 * float(lengths.float().mean()))}
    assert torch.equal(after.rewards, experience.rewards)  # the log keeps the reward of the environment


def test_without_a_penalty_the_estimator_sees_only_the_rewards(experience, one_rank):
    estimator = Seen(LossParams())
    _, logged = AdvantagePass(estimator, "seen", "k1", one_rank).estimate(experience, 0.0)
    assert torch.equal(estimator.batch.rewards, experience.rewards)
    assert (estimator.batch.token_rewards, logged) == (None, {})


@pytest.mark.parametrize("name", ["grpo", "reinforce_pp", "rloo"])
def test_any_number_of_ranks_gives_the_same_advantages(experience, on_ranks, name):
    given = replace(
        experience,
        rewards=torch.arange(10.0),
        old_log_probs=experience.rollout_log_probs,
        ref_log_probs=experience.rollout_log_probs - 0.3,
    )

    def work(ranks):
        rows = torch.tensor(list(SHARES[ranks.world_size][ranks.rank]))
        part = given.select(rows)
        advantages = AdvantagePass(load_advantage_estimator(name), name, "k2", ranks).estimate(part, 0.1)[0].advantages
        return torch.nn.functional.pad(advantages, (0, given.mask.shape[1] - advantages.shape[1]))

    single, shared = (torch.cat(list(on_ranks(size, work))) for size in (1, 2))
    torch.testing.assert_close(single, shared)


def test_an_estimator_that_needs_a_value_model_is_refused(one_rank):
    with pytest.raises(SkyrlError, match="advantage_estimator = gae: it needs a value model"):
        AdvantagePass(load_advantage_estimator("gae"), "gae", "k1", one_rank)

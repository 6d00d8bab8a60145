"""The division of samples among ranks, compared with the trainer's."""

import pytest

from skyrl_train.config.schema import RunConfig
from skyrl_train.entrypoints.rank_plan import plan_ranks
from skyrl_train.step.batching import minibatch_of_group, owner_of_group


@pytest.mark.parametrize("ranks", [1, 2, 3, 5, 8])
@pytest.mark.parametrize(("prompts", "minibatches"), [(12, 1), (12, 3), (4, 2)])
def test_the_plan_is_the_division_that_training_makes(ranks, prompts, minibatches):
    sizes = {"prompts_per_step": prompts, "minibatches": minibatches, "samples_per_prompt": 2}
    plan = plan_ranks(RunConfig.model_validate({"trainer": sizes}), ranks)
    for minibatch in range(minibatches):
        groups = [g for g in range(prompts) if minibatch_of_group(g, prompts, minibatches) == minibatch]
        owners = [owner_of_group(group, prompts, minibatches, ranks) for group in groups]
        assert plan.sequences == tuple(2 * owners.count(rank) for rank in range(ranks))
    assert sum(plan.sequences_of_step) == 2 * prompts


def test_idle_ranks_and_waiting_are_counted():
    config = RunConfig.model_validate(
        {"trainer": {"prompts_per_step": 6, "minibatches": 2, "samples_per_prompt": 4, "micro_batch_size": 3}}
    )
    plan = plan_ranks(config, 4)
    # Three prompts of a minibatch for four ranks: one rank gets none, so it waits for a quarter of the work.
    assert (plan.sequences, plan.without_samples, plan.idle_share) == ((4, 4, 4, 0), 1, 0.25)
    assert (plan.micro_batches, plan.evaluated) == (2, 50)


def test_a_launcher_decides_the_number_of_ranks(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "4")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    plan = plan_ranks(RunConfig(), 1)
    assert (plan.ranks, plan.local_ranks) == (4, 2)

"""Samples and rewards of a step, the same on any number of ranks."""

from dataclasses import fields, replace

import pytest
import torch

from skyrl_core.contract.advantage_estimator import AdvantageEstimator
from skyrl_core.errors import SkyrlError
from skyrl_core.registry.estimator_registry import load_advantage_estimator
from skyrl_train.config.schema import RolloutConfig, RunConfig
from skyrl_train.rollout.seeds import sampling_seed
from skyrl_train.step.advantages import AdvantagePass
from skyrl_train.step.rollout import RolloutCollector

QUESTIONS = {
    "one?": ["1", "0"],
    "two?": ["0", "0"],
    "three?": ["1", "1"],
    "four?": ["0 cut", "12"],
    "five?": ["oops", "1"],
    "six?": ["3", "1"],
}


def config(**trainer):
    return RunConfig.model_validate({"seed": 5, "trainer": {"prompts_per_step": 3, "samples_per_prompt": 2, **trainer}})


def collector(parts, ranks, estimator=None, **trainer):
    estimator = estimator or load_advantage_estimator("grpo", {"norm_by_std": False})
    made, advantages = config(**trainer), AdvantagePass(estimator, "grpo", "k1", ranks)
    return Collected(RolloutCollector(made, ranks=ranks, **parts), advantages, made.trainer.prompts_per_step)


class Collected:
    """The first half of a step: samples, rewards and then advantages."""

    def __init__(self, collector, advantages, prompts):
        self.collector, self.advantages, self.prompts = collector, advantages, prompts

    def collect(self, step):
        rollout = self.collector.reward(self.collector.sample(step, step * self.prompts, 1.0), 0)
        experience, _ = self.advantages.estimate(rollout.experience, 0.0)
        return replace(rollout, experience=experience)


class Given(AdvantageEstimator):
    """An estimator that calls the given function."""

    def __init__(self, make):
        self.make = make

    def estimate(self, batch):
        return self.make(batch)


def test_advantages_follow_the_groups_and_are_zero_on_padding(scripted, one_rank):
    rollout = collector(scripted(QUESTIONS), one_rank, prompts_per_step=6).collect(0)
    experience = rollout.experience
    assert experience.groups.tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 4, 5, 5]  # one sample has no verdict
    assert experience.rewards.tolist() == [1, 0, 0, 0, 1, 1, 0, 12, 1, 3, 1]
    expected = [0.5, -0.5, 0, 0, 0, 0, -6, 6, 0, 1, -1]
    assert experience.advantages[:, 0].tolist() == expected
    assert torch.equal(experience.advantages != 0, experience.mask & (torch.tensor(expected) != 0)[:, None])


def test_metrics_are_those_of_the_samples(scripted, one_rank):
    parts = scripted(QUESTIONS)
    rollout = collector(parts, one_rank, prompts_per_step=6).collect(0)
    rewards = torch.tensor([1, 0, 0, 0, 1, 1, 0, 12, 1, 3, 1.0])
    lengths = torch.tensor([len(sample.token_ids) for sample in parts["engine"].samples])  # of all samples
    assert rollout.metrics["reward/mean"] == pytest.approx(20 / 11)
    assert rollout.metrics["reward/std"] == pytest.approx(float((rewards.square().mean() - (20 / 11) ** 2).sqrt()))
    assert (rollout.metrics["reward_errors"], rollout.metrics["no_verdict"]) == (1, 1)
    assert rollout.metrics["zero_variance_groups"] == pytest.approx(3 / 6)
    assert rollout.metrics["finished"] == pytest.approx(11 / 12)
    assert rollout.metrics["tokens"] == int(lengths.sum())
    assert rollout.metrics["response_length/max"] == int(lengths.max())
    assert rollout.records[8]["error"].startswith("no number: oops")


def test_each_step_uses_the_next_prompts_with_new_seeds(scripted, one_rank):
    parts = scripted(QUESTIONS)
    made = collector(parts, one_rank)
    prompts, seeds = [], []
    for step in (0, 1, 2):
        rollout = made.collect(step)
        prompts.append([record["prompt"] for record in rollout.records[::2]])
        seeds.append([request.seed for request in parts["engine"].requests])
    assert prompts == [["one?", "two?", "three?"], ["four?", "five?", "six?"], ["one?", "two?", "three?"]]
    assert seeds[1] == [sampling_seed(5, 1, prompt, sample) for prompt in range(3) for sample in range(2)]
    assert len({seed for part in seeds for seed in part}) == 18


@pytest.mark.parametrize("minibatches", [1, 3])
@pytest.mark.parametrize("world_size", [2, 3, 8])
def test_ranks_together_sample_the_same_as_one_process(scripted, one_rank, on_ranks, world_size, minibatches):
    settings = {"prompts_per_step": 6, "minibatches": minibatches}
    one_process = collector(scripted(QUESTIONS), one_rank, **settings).collect(7)
    parts = on_ranks(world_size, lambda ranks: collector(scripted(QUESTIONS), ranks, **settings).collect(7))
    assert all(part.metrics == one_process.metrics for part in parts)
    records = [record for part in parts for record in part.records]
    assert sorted(records, key=lambda record: record["group"]) == one_process.records
    for group in range(6):
        holders = [part.experience for part in parts if (part.experience.groups == group).any()]
        assert len(holders) == 1
        own = holders[0].select((holders[0].groups == group).nonzero().squeeze(-1))
        expected = one_process.experience.select((one_process.experience.groups == group).nonzero().squeeze(-1))
        assert own.reward_parts == expected.reward_parts == {}
        for field in [field for field in fields(own) if field.name != "reward_parts"]:
            assert_same(getattr(own, field.name), getattr(expected, field.name))


def assert_same(ours, theirs):
    assert (ours is None) == (theirs is None)
    assert ours is None or torch.equal(ours, theirs)


def test_an_advantage_for_each_token_lands_on_its_token(scripted, on_ranks):
    estimator = Given(lambda batch: batch.mask * torch.arange(1.0, batch.mask.shape[1] + 1) + batch.groups[:, None])
    for experience in on_ranks(2, lambda r: collector(scripted(QUESTIONS), r, estimator).collect(1).experience):
        tokens = torch.arange(1.0, experience.mask.shape[1] + 1)
        expected = torch.where(experience.mask, tokens + experience.groups[:, None], 0.0)
        assert torch.equal(experience.advantages, expected)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda batch: batch.rewards[:-1], r"returned shape \[5\] for 6 sequences"),
        (lambda batch: batch.rewards.sum(), r"returned shape \[\] for 6 sequences"),
        (lambda batch: batch.rewards[:, None].expand(6, 77), r"returned shape \[6, 77\]"),
        (lambda batch: batch.rewards / 0, "not finite for rewards"),
    ],
)
@pytest.mark.parametrize("world_size", [1, 2])
def test_bad_advantages_are_an_error_that_names_the_estimator_on_every_rank(
    scripted, on_ranks, make, message, world_size
):
    raised = []

    def work(ranks):
        with pytest.raises(SkyrlError, match=message) as error:
            collector(scripted(QUESTIONS), ranks, Given(make)).collect(0)
        raised.append(str(error.value))

    on_ranks(world_size, work)
    assert all(message.startswith("advantage estimator 'grpo' returned") for message in raised)
    assert len(raised) == world_size


def test_if_nothing_can_be_rewarded_the_step_ends_with_the_first_reason_on_every_rank(scripted, on_ranks):
    questions = {"one?": ["a", "b"], "two?": ["c", "none"], "three?": ["e", "f"]}

    def work(ranks):
        with pytest.raises(SkyrlError, match="no sample of this step could be rewarded; first error: no number: a"):
            collector(scripted(questions), ranks).collect(0)

    on_ranks(2, work)


def test_if_nothing_has_a_verdict_the_step_ends_with_what_to_do(scripted, one_rank):
    questions = {"one?": ["none"] * 2, "two?": ["none"] * 2, "three?": ["none"] * 2}
    with pytest.raises(SkyrlError, match="the reward gave no verdict on any sample of this step: it returned None"):
        collector(scripted(questions), one_rank).collect(0)


def test_a_sample_without_a_verdict_is_recorded_and_left_out(scripted, on_ranks):
    questions = {"one?": ["1", "none"], "two?": ["none", "0"], "three?": ["3", "1"]}
    for rollout in on_ranks(2, lambda ranks: collector(scripted(questions), ranks).collect(0)):
        kept = [rollout.records[index] for index in rollout.judged]
        assert [record["reward"] for record in kept] == rollout.experience.rewards.tolist()
        assert [record["response"] for record in rollout.records if record not in kept] == ["none"] * (
            len(rollout.records) - len(kept)
        )
        assert rollout.metrics["no_verdict"] == 2
        assert rollout.metrics["reward_errors"] == 0


def test_named_rewards_are_logged_and_reach_the_estimator(scripted, on_ranks):
    seen = []

    def work(ranks):
        parts = scripted(QUESTIONS)
        score = parts["scorer"].score

        def named(completion, row):
            judged = score(completion, row)
            return replace(judged, parts={"half": judged.reward / 2}) if row.prompt[0]["content"] == "six?" else judged

        parts["scorer"].score = named
        estimator = Given(lambda batch: seen.append(batch) or batch.rewards)
        return collector(parts, ranks, estimator, prompts_per_step=6).collect(0).metrics

    for metrics in on_ranks(2, work):
        assert metrics["reward/half/mean"] == 1.0  # of 3/2 and 1/2
    for batch in seen:
        half = batch.reward_parts["half"]
        assert half[~half.isnan()].tolist() == [1.5, 0.5]
        assert torch.equal(half.isnan(), batch.groups != 5)


def test_a_single_reward_is_enough_to_continue(scripted, one_rank):
    questions = {"one?": ["a", "b"], "two?": ["c", "0"], "three?": ["e", "f"]}
    assert collector(scripted(questions), one_rank).collect(0).metrics["reward_errors"] == 5


def test_too_stale_samples_stop_the_run_and_staleness_is_logged_for_prefetched_samples(scripted, one_rank):
    parts = scripted(QUESTIONS)  # the samples have policy version 0
    now = RolloutCollector(config(), ranks=one_rank, **parts)
    assert "staleness/max" not in now.reward(now.sample(0, 0, 1.0), 0).metrics
    with pytest.raises(SkyrlError, match="1 to 1 optimizer steps old, and at most 0 are allowed"):
        now.reward(now.sample(0, 0, 1.0), 1)
    one_step = config(minibatches=3, epochs=2).model_copy(update={"rollout": RolloutConfig(**{"async": "one_step"})})
    prefetching = RolloutCollector(one_step, ranks=one_rank, **parts)
    metrics = prefetching.reward(prefetching.sample(0, 0, 1.0), 6).metrics
    assert (metrics["staleness/mean"], metrics["staleness/max"]) == (6.0, 6.0)
    with pytest.raises(SkyrlError, match="at most 6 are allowed"):
        prefetching.reward(prefetching.sample(0, 0, 1.0), 7)


class EarlyEngine:
    """Hands over its samples from the last to the first, each as soon as it is generated."""

    def __init__(self, engine, between=lambda: None):
        self._engine, self._between = engine, between

    def generate(self, requests, sampling, hand_over=None):
        samples = self._engine.generate(requests, sampling)
        for index in reversed(range(len(samples))):
            hand_over(index, samples[index])
            self._between()
        return samples


def test_samples_that_are_handed_over_early_give_the_same_rollout(scripted, one_rank):
    plain = collector(scripted(QUESTIONS), one_rank, prompts_per_step=6).collect(0)
    parts = scripted(QUESTIONS)
    early = collector(parts | {"engine": EarlyEngine(parts["engine"])}, one_rank, prompts_per_step=6).collect(0)
    assert early.records == plain.records
    assert early.metrics == plain.metrics
    assert torch.equal(early.experience.rewards, plain.experience.rewards)


def test_rewards_are_computed_while_other_samples_are_generated(scripted, one_rank):
    parts, counts = scripted(QUESTIONS), []
    scorer = parts["scorer"]
    stream = scorer.stream()
    scorer.stream = lambda: stream
    engine = EarlyEngine(parts["engine"], between=lambda: counts.append(len(stream.scores())))
    collector(parts | {"engine": engine}, one_rank, prompts_per_step=6).collect(0)
    assert counts == list(range(1, 13))


def test_an_engine_that_fails_leaves_no_stream_behind(scripted, one_rank):
    parts, cancelled = scripted(QUESTIONS), []

    def fail():
        raise SkyrlError("the engine is gone")

    stream = parts["scorer"].stream()
    stream.cancel = lambda: cancelled.append(True)
    parts["scorer"].stream = lambda: stream
    with pytest.raises(SkyrlError, match="the engine is gone"):
        collector(parts | {"engine": EarlyEngine(parts["engine"], between=fail)}, one_rank).collect(0)
    assert cancelled == [True]

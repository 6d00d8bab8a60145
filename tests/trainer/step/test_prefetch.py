"""Prefetched batches: sampled by another thread, from one policy, never during a weight update."""

import threading
import time
from pathlib import Path

import pytest

from skyrl_core.errors import SkyrlError
from skyrl_train.config.schema import RunConfig
from skyrl_train.environments.environment import Completion, Row
from skyrl_train.rewards.reward_result import Score
from skyrl_train.rewards.scorer import Scorer
from skyrl_train.rollout.weights import GuardedWeights
from skyrl_train.step import rollout as collect
from skyrl_train.step.prefetch import Prefetcher


class Weights:
    def named_tensors(self):
        yield from (("a", 1), ("b", 2))


class RolloutCollector:
    """Returns a name for each step; ``before`` is called first, in the sampling thread."""

    def __init__(self, before=lambda: None):
        self.before, self.asked = before, []

    def sample(self, step, position, temperature):
        self.before()
        self.asked.append((step, position, temperature, threading.current_thread().name))
        return f"samples of step {step}"


def prefetching(collector):
    messages, weights = [], GuardedWeights(Weights())
    return Prefetcher(collector, weights, messages.append), weights, messages


def test_without_a_start_samples_are_generated_on_request():
    collector = RolloutCollector()
    prefetcher, _, _ = prefetching(collector)
    prefetcher.wait()  # without a prefetch it returns at once
    assert prefetcher.samples(3, 48, 0.7) == "samples of step 3"
    assert collector.asked == [(3, 48, 0.7, "MainThread")]


def test_samples_are_generated_while_the_caller_trains_and_ready_after_the_wait():
    trained = threading.Event()
    collector = RolloutCollector(before=lambda: trained.wait(30))
    prefetcher, _, _ = prefetching(collector)
    prefetcher.start(1, 16, 0.5)
    assert collector.asked == []
    trained.set()  # `start` returned before any sample was generated
    prefetcher.wait()
    assert prefetcher.samples(1, 16, 0.5) == "samples of step 1"
    assert collector.asked == [(1, 16, 0.5, "skyrl-prefetch")]
    prefetcher.samples(2, 32, 0.5)  # prefetched samples are used once
    assert collector.asked[-1] == (2, 32, 0.5, "MainThread")


def test_an_error_of_the_thread_is_raised_by_wait_and_the_weights_are_readable_again():
    def fail():
        raise SkyrlError("the server is gone")

    prefetcher, weights, _ = prefetching(RolloutCollector(before=fail))
    prefetcher.start(1, 16, 1.0)
    with pytest.raises(SkyrlError, match="the server is gone"):
        prefetcher.wait()
    assert list(weights.named_tensors()) == [("a", 1), ("b", 2)]


def test_weights_cannot_be_read_during_a_prefetch_and_the_batch_is_then_sampled_after_the_update():
    read = []
    collector = RolloutCollector()
    prefetcher, weights, messages = prefetching(collector)
    collector.before = lambda: read.extend(weights.named_tensors())
    prefetcher.start(1, 16, 1.0)
    prefetcher.wait()
    assert read == []
    assert messages == ["a rollout server was lost during the prefetch: this batch is sampled after the update"]
    assert prefetcher.samples(1, 16, 1.0) == "samples of step 1"
    assert read == [("a", 1), ("b", 2)]
    assert collector.asked == [(1, 16, 1.0, "MainThread")]


@pytest.fixture
def misbehaving(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "rewards"))
    import misbehaving

    return misbehaving.environment()


def test_prefetched_samples_are_rewarded_at_once_and_an_evaluation_may_come_in_between(
    scripted, one_rank, misbehaving, tmp_path
):
    parts = scripted({"one?": [f"pid: {tmp_path / 'pid'}", "return: 2"], "two?": ["sleep: 0.3", "return: 4"]})
    config = RunConfig.model_validate({"trainer": {"prompts_per_step": 2, "samples_per_prompt": 2}})
    with Scorer({"scripted": misbehaving}, deadline=60.0) as scorer:
        collector = collect.RolloutCollector(config, ranks=one_rank, **(parts | {"scorer": scorer}))
        prefetcher, _, _ = prefetching(collector)
        prefetcher.start(0, 0, 1.0)
        limit = time.monotonic() + 60
        while not (tmp_path / "pid").exists():  # rewarded before the samples are requested
            assert time.monotonic() < limit
            time.sleep(0.01)
        prefetcher.wait()
        # An evaluation between two steps.
        row = Row(prompt=({"role": "user", "content": "?"},), ground_truth="", environment="scripted")
        answer = Completion(text="return: 7", token_ids=(1,), finished=True)
        assert scorer.score([(answer, row)]) == [Score(reward=7.0)]
        rollout = collector.reward(prefetcher.samples(0, 0, 1.0), 0)
    assert rollout.experience.rewards.tolist() == [1.0, 2.0, 1.0, 4.0]
    assert rollout.errors == []

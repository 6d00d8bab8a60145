"""One batch ahead: drawn by another thread, of one policy, and never of weights that move."""

import threading
import time
from pathlib import Path

import pytest

from skyrl_core.errors import SkyrlError
from skyrl_train.config.schema import RunConfig
from skyrl_train.environments.environment import Completion, Row
from skyrl_train.rewards.reward_result import Score
from skyrl_train.rewards.scorer import Scorer
from skyrl_train.rollout.weights import SettledWeights
from skyrl_train.step import rollout as collect
from skyrl_train.step.prefetch import DrawAhead


class Weights:
    def named_tensors(self):
        yield from (("a", 1), ("b", 2))


class Collector:
    """Draws a name for each step; ``before`` is called first, in the thread that draws."""

    def __init__(self, before=lambda: None):
        self.before, self.asked = before, []

    def draw(self, step, position, temperature):
        self.before()
        self.asked.append((step, position, temperature, threading.current_thread().name))
        return f"samples of step {step}"


def ahead(collector):
    told, weights = [], SettledWeights(Weights())
    return DrawAhead(collector, weights, told.append), weights, told


def test_without_a_start_samples_are_drawn_when_they_are_asked_for():
    collector = Collector()
    drawing, _, _ = ahead(collector)
    drawing.wait()  # for nothing
    assert drawing.samples(3, 48, 0.7) == "samples of step 3"
    assert collector.asked == [(3, 48, 0.7, "MainThread")]


def test_samples_are_drawn_while_the_caller_goes_on_and_are_there_after_the_wait():
    trained = threading.Event()
    collector = Collector(before=lambda: trained.wait(30))
    drawing, _, _ = ahead(collector)
    drawing.start(1, 16, 0.5)
    assert collector.asked == []
    trained.set()  # the caller got here although nothing was drawn
    drawing.wait()
    assert drawing.samples(1, 16, 0.5) == "samples of step 1"
    assert collector.asked == [(1, 16, 0.5, "skyrl-draw-ahead")]
    drawing.samples(2, 32, 0.5)  # what was drawn ahead is used once
    assert collector.asked[-1] == (2, 32, 0.5, "MainThread")


def test_an_error_of_the_drawing_is_raised_at_the_wait_and_the_weights_can_be_read_again():
    def fail():
        raise SkyrlError("the server is gone")

    drawing, weights, _ = ahead(Collector(before=fail))
    drawing.start(1, 16, 1.0)
    with pytest.raises(SkyrlError, match="the server is gone"):
        drawing.wait()
    assert list(weights.named_tensors()) == [("a", 1), ("b", 2)]


def test_an_engine_that_asks_for_weights_meanwhile_gets_none_and_the_batch_is_drawn_after_the_update():
    read = []
    collector = Collector()
    drawing, weights, told = ahead(collector)
    collector.before = lambda: read.extend(weights.named_tensors())
    drawing.start(1, 16, 1.0)
    drawing.wait()
    assert read == []
    assert told == ["a rollout server was lost while it drew ahead: this batch is drawn after the update"]
    assert drawing.samples(1, 16, 1.0) == "samples of step 1"
    assert read == [("a", 1), ("b", 2)]
    assert collector.asked == [(1, 16, 1.0, "MainThread")]


@pytest.fixture
def misbehaving(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "rewards"))
    import misbehaving

    return misbehaving.environment()


def test_samples_drawn_ahead_are_rewarded_meanwhile_and_others_can_be_rewarded_before_they_are_used(
    scripted, one_rank, misbehaving, tmp_path
):
    parts = scripted({"one?": [f"pid: {tmp_path / 'pid'}", "return: 2"], "two?": ["sleep: 0.3", "return: 4"]})
    config = RunConfig.model_validate({"trainer": {"prompts_per_step": 2, "samples_per_prompt": 2}})
    with Scorer({"scripted": misbehaving}, deadline=60.0) as scorer:
        collector = collect.Collector(config, ranks=one_rank, **(parts | {"scorer": scorer}))
        drawing, _, _ = ahead(collector)
        drawing.start(0, 0, 1.0)
        limit = time.monotonic() + 60
        while not (tmp_path / "pid").exists():  # rewarded although nobody asked for the samples
            assert time.monotonic() < limit
            time.sleep(0.01)
        drawing.wait()
        # An evaluation between two steps.
        row = Row(prompt=({"role": "user", "content": "?"},), ground_truth="", environment="scripted")
        answer = Completion(text="return: 7", token_ids=(1,), finished=True)
        assert scorer.score([(answer, row)]) == [Score(reward=7.0)]
        rollout = collector.reward(drawing.samples(0, 0, 1.0), 0)
    assert rollout.experience.rewards.tolist() == [1.0, 2.0, 1.0, 4.0]
    assert rollout.errors == []

"""Rewards of samples that arrive one after the other, computed as they arrive."""

import threading
import time
from pathlib import Path

import pytest

from skyrl_core.errors import PluginLoadError, SkyrlError, UnknownPluginError
from skyrl_train.environments.environment import Completion, Row
from skyrl_train.rewards.reward_result import Score
from skyrl_train.rewards.scorer import Scorer
from skyrl_train.rewards.worker_handle import WorkerProcess

HERE = Path(__file__).parent
LIMIT = 30


def item(text, environment="misbehaving", **extra):
    row = Row(prompt=({"role": "user", "content": "?"},), ground_truth="5", environment=environment, extra=extra)
    return Completion(text=text, token_ids=(1,), finished=True), row


@pytest.fixture
def environments(monkeypatch):
    monkeypatch.syspath_prepend(str(HERE))
    import misbehaving

    return {"misbehaving": misbehaving.environment()}


@pytest.fixture
def scorer(environments):
    with Scorer(environments) as scorer:
        yield scorer


def wait_for(path):
    limit = time.monotonic() + LIMIT
    while not (path.exists() and path.read_text()):
        assert time.monotonic() < limit, f"no {path.name} after {LIMIT} s"
        time.sleep(0.01)


def test_a_reward_is_computed_before_all_samples_have_arrived(scorer, tmp_path):
    stream = scorer.stream()
    stream.add(1, item(f"pid: {tmp_path / 'second'}"))
    wait_for(tmp_path / "second")  # before the other sample and before the scores are requested
    stream.add(0, item("return: 0.25"))
    assert stream.scores() == [Score(reward=0.25), Score(reward=1.0)]


@pytest.mark.parametrize("workers", [1, 3])
def test_scores_are_in_sample_order_whatever_the_order_of_arrival(environments, workers):
    with Scorer(environments, workers=workers) as scorer:
        for order in (range(60), range(59, -1, -1), [*range(1, 60, 2), *range(0, 60, 2)]):
            stream = scorer.stream()
            for index in order:
                stream.add(index, item(f"return: {index}"))
                stream.add(index, item("return: -1"))  # ignored: the index was added before
            assert [score.reward for score in stream.scores()] == [float(index) for index in range(60)]


@pytest.mark.parametrize(("workers", "most"), [(1, 2), (3, 12)])
def test_samples_that_wait_for_a_worker_are_sent_in_few_messages(environments, workers, most, monkeypatch):
    sizes = []
    send = WorkerProcess.send
    monkeypatch.setattr(
        WorkerProcess,
        "send",
        lambda self, tasks, *load, **kind: sizes.append(len(tasks)) or send(self, tasks, *load, **kind),
    )
    with Scorer(environments, workers=workers) as scorer:
        with scorer._workers_lock:  # no sample is sent until all have been added
            stream = scorer.stream()
            for index in range(60):
                stream.add(index, item("return: 1"))
        assert len(stream.scores()) == sum(sizes) == 60
    assert len(sizes) <= workers * most


def test_a_stream_without_samples_has_no_scores_and_starts_no_worker(scorer):
    assert scorer.stream().scores() == []
    assert scorer._workers == []


def test_the_deadline_does_not_expire_before_scores_are_requested(environments):
    with Scorer(environments, deadline=2.0) as scorer:
        stream = scorer.stream()
        for index in range(4):
            stream.add(index, item("sleep: 0.3"))
        time.sleep(3.0)  # longer than the deadline: the thread reads the worker's results meanwhile
        assert stream.scores() == [Score(reward=1.0)] * 4


def test_a_failing_reward_affects_only_its_sample(environments, tmp_path):
    texts = ["return: 1", f"hang: {tmp_path / 'pid'}", "crash: now", "raise: it", "return: 2"]
    with Scorer(environments, deadline=3.0) as scorer:
        stream = scorer.stream()
        for index, text in enumerate(texts):
            stream.add(index, item(text))
        scores = stream.scores()
    assert [score.reward for score in scores] == [1.0, None, None, None, 2.0]
    reasons = [score.error.split(":")[0] for score in scores[1:4]]
    assert reasons == ["TimeoutError", "ChildProcessError", "KeyError"]


def test_more_samples_than_a_pipe_holds_can_wait_for_a_slow_reward(scorer):
    stream = scorer.stream()
    stream.add(0, item("sleep: 0.5"))
    for index in range(1, 200):
        stream.add(index, item("return: 1", padding="x" * 10_000))
    assert [score.reward for score in stream.scores()] == [1.0] * 200


@pytest.mark.parametrize("closed", [False, True], ids=["before all items", "after all items"])
def test_a_cancelled_stream_ends_its_workers_and_the_next_one_gets_new_ones(closed, environments, tmp_path):
    with Scorer(environments, deadline=1000.0) as scorer:
        stream = scorer.stream()
        stream.add(0, item(f"hang: {tmp_path / 'pid'}"))
        if closed:
            stream.close()
        wait_for(tmp_path / "pid")
        stream.cancel()
        stream.join(LIMIT)
        assert not stream.running
        assert scorer._workers == []
        following = scorer.stream()
        following.add(0, item("return: 1"))
        assert following.scores() == [Score(reward=1.0)]


def test_a_call_waits_for_an_earlier_stream(scorer):
    stream = scorer.stream()
    stream.add(0, item("sleep: 0.5"))
    stream.close()
    assert scorer.score([item("return: 3")]) == [Score(reward=3.0)]
    assert stream.scores() == [Score(reward=1.0)]


def test_an_error_in_the_thread_is_raised_when_the_scores_are_requested(scorer):
    stream = scorer.stream()
    stream.add(0, item("return: 1", environment="another"))
    with pytest.raises(UnknownPluginError, match="'another'"):
        stream.scores()
    unpicklable = scorer.stream()
    unpicklable.add(0, item("return: 1", lock=threading.Lock()))
    with pytest.raises(SkyrlError, match="rows cannot be sent to the reward workers"):
        unpicklable.scores()
    unpicklable.add(1, item("return: 1"))  # a rollout engine may still be adding samples
    unpicklable.cancel()
    assert scorer.score([item("return: 2")]) == [Score(reward=2.0)]


def test_closing_the_scorer_ends_running_streams(environments, tmp_path):
    with Scorer(environments, deadline=1000.0) as scorer:
        stream = scorer.stream()
        stream.add(0, item(f"hang: {tmp_path / 'pid'}"))
        wait_for(tmp_path / "pid")
        waiting = scorer.stream()
        waiting.add(0, item("return: 1"))
        started = time.monotonic()
    assert time.monotonic() - started < LIMIT
    for each in (stream, waiting):
        each.join(LIMIT)
        assert not each.running
    assert scorer._workers == []


def test_a_worker_that_cannot_start_is_an_error_when_the_scores_are_requested(environments, monkeypatch):
    with Scorer(environments) as scorer:
        monkeypatch.setattr("skyrl_train.rewards.scorer.WorkerProcess.exit_message", lambda _: "has ended")
        monkeypatch.setattr("sys.executable", "/bin/false")
        stream = scorer.stream()
        stream.add(0, item("return: 1"))
        with pytest.raises(PluginLoadError, match="has ended before its first reward"):
            stream.scores()

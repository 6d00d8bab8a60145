"""Any call of a rollout engine that fails names the engine, and wrong samples never reach training."""

import sys

import pytest

from skyrl_core.discovery import Guard
from skyrl_core.errors import PluginError, PluginLoadError
from skyrl_train.ranks.ranks import RankLost, is_broken_collective
from skyrl_train.rollout.guarded_engine import GuardedEngine
from skyrl_train.rollout.rollout_engine import Sample, SampleRequest, Sampling, generate

GUARD = Guard("rollout engine 'foo' (foo-dist 1.0)", __name__, "foo-dist")
REQUESTS = [SampleRequest(prompt_ids=(1,), seed=0), SampleRequest(prompt_ids=(2,), seed=1)]
SAMPLING = Sampling(max_new_tokens=2)


def sampled(ids=(3, 4), log_probs=(-1.0, -2.0)):
    return Sample(token_ids=ids, log_probs=log_probs, finished=True, policy_version=0)


class Engine:
    """Answers with what ``act`` returns, whatever is called."""

    shares_weights = works_elsewhere = False

    def __init__(self, act):
        self.act = act

    def generate(self, requests, sampling):
        return self.act()

    def log_probs(self, sequences):
        return self.act()

    def sync_weights(self, weights, policy_version):
        self.act()

    def close(self):
        self.act()


def leave():
    sys.exit(0)


@pytest.mark.parametrize(
    ("name", "arguments", "when"),
    [
        ("generate", (REQUESTS, SAMPLING), ""),
        ("log_probs", ([[1, 2]],), ""),
        ("sync_weights", (None, 3), ", after optimizer step 3"),
    ],
)
def test_a_failing_call_names_engine_method_and_step(name, arguments, when):
    with pytest.raises(PluginError) as caught:
        getattr(GuardedEngine(Engine(leave), GUARD), name)(*arguments)
    assert str(caught.value).startswith(f"{GUARD.subject} failed in {name}{when}: SystemExit: 0\n  at ")


def test_a_failure_at_the_end_is_only_logged(caplog):
    GuardedEngine(Engine(leave), GUARD).close()
    assert "failed in close: SystemExit: 0" in caplog.text


@pytest.mark.parametrize(
    ("samples", "reason"),
    [
        (None, "NoneType for 2 requests"),
        ([sampled()], "1 samples for 2 requests"),
        ([sampled(), {"token_ids": [1]}], "sample 1 is dict, not Sample"),
        ([sampled(), sampled(log_probs=(-1.0,))], "sample 1 has 2 token ids and 1 log-probs"),
        ([sampled(ids=(), log_probs=()), sampled()], "sample 0 has 0 token ids"),
    ],
)
def test_wrong_samples_are_named(samples, reason):
    with pytest.raises(PluginError, match=reason):
        GuardedEngine(Engine(lambda: samples), GUARD).generate(REQUESTS, SAMPLING)


def test_samples_are_handed_over_as_early_as_the_engine_permits():
    class Early(Engine):
        def generate(self, requests, sampling, hand_over=None):
            hand_over(1, early)
            return [sampled(), early]

    early, got = sampled(ids=(9, 9)), []
    generate(GuardedEngine(Early(None), GUARD), REQUESTS, SAMPLING, lambda index, sample: got.append((index, sample)))
    assert got == [(1, early), (0, sampled()), (1, early)]


@pytest.mark.parametrize("lacks", ["generate", "close", "shares_weights"])
def test_an_engine_without_a_part_of_the_protocol_is_refused(lacks):
    members = {name: getattr(Engine, name) for name in ("generate", "log_probs", "sync_weights", "close")}
    members |= {"shares_weights": False, "works_elsewhere": False}
    del members[lacks]
    with pytest.raises(PluginLoadError, match=rf"is not a rollout engine: .*{lacks}"):
        GuardedEngine(type("Partial", (), members)(), GUARD)


def test_a_rank_that_is_lost_in_a_call_is_still_recognised():
    def lose():
        raise RuntimeError("[gloo/transport/tcp] Connection closed by peer")

    with pytest.raises(PluginError) as caught:
        GuardedEngine(Engine(lose), GUARD).sync_weights(None, 0)
    assert is_broken_collective(caught.value)
    assert not is_broken_collective(PluginError("another"))

    def report():
        raise RankLost("gone")

    with pytest.raises(RankLost):
        GuardedEngine(Engine(report), GUARD).sync_weights(None, 0)

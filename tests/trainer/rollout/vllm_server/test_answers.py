"""Answers of a vLLM server as samples; test_engine.py gets them from real servers."""

import asyncio
from contextlib import asynccontextmanager
from types import SimpleNamespace

import pytest

from skyrl_train.rollout.rollout_engine import SampleRequest, Sampling
from skyrl_train.rollout.vllm_server.answers import prompt_log_probs, sample_of, version_of
from skyrl_train.rollout.vllm_server.client import ServerLostError
from skyrl_train.rollout.vllm_server.engine import VllmServerEngine, shares


def answer(reason="stop", versions=("a",)):
    tokens = [{"token_id": 5, "logprob": -0.5}, {"token_id": 1, "logprob": -0.25}]
    spans = [{"version": version, "start": 0, "end": 2} for version in versions]
    choice = {"finish_reason": reason, "token_ids": [5, 1], "logprobs": {"content": tokens}, "weight_versions": spans}
    return {"choices": [choice], "prompt_logprobs": [None, {"7": {"logprob": -2.0}, "9": {"logprob": -0.1}}]}


def test_a_sample_has_the_tokens_and_log_probs_of_the_answer():
    sample = sample_of(answer(), {1}, 3)
    assert (sample.token_ids, sample.log_probs) == ((5, 1), (-0.5, -0.25))
    assert sample.finished
    assert sample.policy_version == 3


def test_an_aborted_response_is_not_a_sample():
    with pytest.raises(ServerLostError, match="abort"):
        sample_of(answer(reason="abort"), {1}, 3)


def test_weights_that_changed_within_a_response_have_no_valid_name():
    assert version_of(answer()) == "a"
    assert version_of(answer(versions=("a", "b"))) not in ("a", "b")
    assert version_of(answer(versions=())) == ""


def test_prompt_log_probs_are_those_of_the_given_tokens():
    assert prompt_log_probs(answer(), (3, 7)) == (-2.0,)


@pytest.mark.parametrize("rank", range(4))
def test_requests_are_shared_evenly_and_none_is_lost(rank):
    parts = shares(range(11), 3, rank)
    assert sorted(index for part in parts for index in part) == list(range(11))
    assert sorted(map(len, parts)) == [3, 4, 4]
    assert all(list(part) == list(range(part[0], part[-1] + 1)) for part in parts)
    assert [len(part) for part in shares([0], 3, rank)].count(1) == 1


LAST = 8


class SlowServer:
    """Answers the later requests first, up to the token LAST; is lost once, after a number of answers."""

    url = "http://nowhere"

    def __init__(self, engine, goes_after=None):
        self._engine, self._turns, self._goes_after = engine, [], goes_after

    @asynccontextmanager
    async def connected(self):
        yield

    async def weight_version(self):
        return self._engine._version

    async def generate(self, token_ids, arguments):
        while token_ids[0] < LAST and token_ids[0] + 1 not in self._turns:
            await asyncio.sleep(0)
        self._turns.append(token_ids[0])
        if len(self._turns) - 1 == self._goes_after:
            raise ServerLostError("the server is gone")
        found = answer(versions=(self._engine._version,))
        found["choices"][0]["token_ids"] = [token_ids[0], 1]
        return found


@pytest.mark.parametrize("goes_after", [None, 2])
def test_each_sample_is_handed_over_once_even_if_a_server_is_lost(goes_after):
    engine = VllmServerEngine.__new__(VllmServerEngine)
    given = {"_rank": 0, "_run": "r", "_syncs": 1, "_policy_version": 3, "_end_tokens": {1}, "_tokenizer": None}
    given["_current"] = True
    given |= {"_gather": lambda value: [value], "_message": lambda text: None, "_await_servers": lambda limit: None}
    given["_settings"] = SimpleNamespace(max_concurrency=10, restart_timeout=1.0)
    for name, value in given.items():
        setattr(engine, name, value)

    async def push():
        pass  # the server already has the weights

    engine._push = push
    engine._servers = [SlowServer(engine, goes_after)]
    handed = []
    asked = [SampleRequest(prompt_ids=(5 + index,), seed=index) for index in range(4)]
    samples = engine.generate(asked, Sampling(max_new_tokens=4), lambda index, sample: handed.append((index, sample)))
    assert [sample.token_ids for sample in samples] == [(5 + index, 1) for index in range(4)]
    assert [index for index, _ in handed] == ([3, 2, 0, 1] if goes_after else [3, 2, 1, 0])
    assert all(samples[index] is sample for index, sample in handed)

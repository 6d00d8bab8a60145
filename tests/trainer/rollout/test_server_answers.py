"""Answers of a vLLM server as samples; test_vllm_server.py gets them from real ones."""

import pytest

from skyrl_train.rollout.server_answers import given_log_probs, sample_of, version_of
from skyrl_train.rollout.server_client import ServerLostError
from skyrl_train.rollout.vllm_server import shares


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


def test_a_response_that_was_broken_off_is_no_sample():
    with pytest.raises(ServerLostError, match="abort"):
        sample_of(answer(reason="abort"), {1}, 3)


def test_weights_that_changed_within_a_response_have_no_valid_name():
    assert version_of(answer()) == "a"
    assert version_of(answer(versions=("a", "b"))) not in ("a", "b")
    assert version_of(answer(versions=())) == ""


def test_the_log_prob_of_a_given_token_is_its_own():
    assert given_log_probs(answer(), (3, 7)) == (-2.0,)


@pytest.mark.parametrize("rank", range(4))
def test_requests_are_shared_evenly_and_none_is_lost(rank):
    parts = shares(range(11), 3, rank)
    assert sorted(index for part in parts for index in part) == list(range(11))
    assert sorted(map(len, parts)) == [3, 4, 4]
    assert all(list(part) == list(range(part[0], part[-1] + 1)) for part in parts)
    assert [len(part) for part in shares([0], 3, rank)].count(1) == 1

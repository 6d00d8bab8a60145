"""Requests and outputs of vLLM; test_engine.py compares them with real vLLM."""

from types import SimpleNamespace

import pytest

from skyrl_core.errors import SkyrlError
from skyrl_train.rollout.rollout_engine import SampleRequest, Sampling
from skyrl_train.rollout.vllm.sampling_params import log_probs_of, sample_from_output, sampling_arguments

REQUEST = SampleRequest(prompt_ids=(5, 6), seed=2**63 - 1)


def test_our_end_tokens_are_the_only_ones():
    arguments = sampling_arguments(REQUEST, Sampling(max_new_tokens=7, temperature=0.5, top_p=0.9), {9, 1})
    assert arguments["stop_token_ids"] == [1, 9]
    assert arguments["ignore_eos"]
    assert (arguments["seed"], arguments["max_tokens"]) == (2**63 - 1, 7)
    assert (arguments["temperature"], arguments["top_p"]) == (0.5, 0.9)


def test_every_setting_that_changes_the_distribution_is_sent_whatever_the_defaults_of_a_server():
    arguments = sampling_arguments(REQUEST, Sampling(max_new_tokens=7), {1})
    assert {"temperature": 1.0, "top_p": 1.0, "top_k": 0, "min_p": 0.0}.items() <= arguments.items()
    assert {"repetition_penalty": 1.0, "presence_penalty": 0.0, "frequency_penalty": 0.0}.items() <= arguments.items()
    assert arguments["min_tokens"] == 0


@pytest.mark.parametrize("temperature", [0.001, 2.5])
def test_a_temperature_that_vllm_would_change_or_refuse_is_named(temperature):
    with pytest.raises(SkyrlError, match=rf"temperature {temperature}.*0\.01 to 2\.0"):
        sampling_arguments(REQUEST, Sampling(max_new_tokens=1, temperature=temperature), {1})


def test_a_sample_is_finished_by_an_end_token_and_not_by_the_limit():
    ended = sample_from_output([4, 1], [-0.5, -0.25], {1}, 3)
    assert (ended.token_ids, ended.log_probs, ended.finished, ended.policy_version) == ((4, 1), (-0.5, -0.25), True, 3)
    assert not sample_from_output([4, 4], [-0.5, -0.25], {1}, 3).finished


@pytest.mark.parametrize(("tokens", "log_probs"), [([], []), ([4, 1], [-0.5])])
def test_an_answer_without_a_log_prob_for_each_token_is_refused(tokens, log_probs):
    with pytest.raises(SkyrlError, match="a log-prob for each"):
        sample_from_output(tokens, log_probs, {1}, 0)


def test_the_log_prob_is_that_of_the_given_token_among_those_reported():
    def at(value):
        return SimpleNamespace(logprob=value)

    assert log_probs_of([3, 4, 5], [None, {9: at(-0.1), 4: at(-2.0)}, {5: at(-1.0)}]) == (-2.0, -1.0)

"""Accuracy, its standard error and pass@k, by hand; the same on any number of ranks."""

import math
from dataclasses import replace

import pytest

from skyrl_core.errors import SkyrlError
from skyrl_train.config.schema import RunConfig
from skyrl_train.rollout.seeds import sampling_seed
from skyrl_train.step.evaluation import Evaluator


def config(prompts, samples=1, temperature=1.0):
    evaluation = {"prompts": prompts, "samples_per_prompt": samples, "temperature": temperature}
    return RunConfig.model_validate({"evaluation": evaluation, "seed": 3, "rollout": {"max_new_tokens": 9}})


FOUR = {"one?": ["1"], "two?": ["0.5"], "three?": ["1"], "four?": ["1"]}


def test_accuracy_counts_full_rewards_and_its_error_is_that_of_a_mean(scripted, one_rank):
    result = Evaluator(config(4), ranks=one_rank, **scripted(FOUR)).evaluate()
    assert result.metrics["accuracy"] == 0.75
    # Outcomes 1 0 1 1: variance (3 * 0.25² + 0.75²) / 3 = 0.25, divided by 4 prompts.
    assert result.metrics["accuracy/standard_error"] == pytest.approx(0.25)
    assert result.metrics["reward/mean"] == pytest.approx(3.5 / 4)
    assert [answer.correct for answer in result.answers] == [True, False, True, True]
    assert [answer.text for answer in result.answers] == ["1", "0.5", "1", "1"]


SEVERAL = {"one?": ["1", "0", "1"], "two?": ["0", "0", "0"], "three?": ["0", "0", "1"], "four?": ["1", "1", "1"]}


def test_several_samples_of_a_prompt_count_as_one_prompt(scripted, one_rank):
    result = Evaluator(config(4, samples=3), ranks=one_rank, **scripted(SEVERAL)).evaluate()
    assert result.metrics["pass@3"] == 0.75
    assert result.metrics["accuracy"] == pytest.approx(6 / 12)
    # Shares 2/3 0 1/3 1 around 1/2: variance (1/36 + 1/4 + 1/36 + 1/4) / 3 = 5/27; the error does not fall with k.
    assert result.metrics["accuracy/standard_error"] == pytest.approx(math.sqrt(5 / 27 / 4))
    assert [answer.text for answer in result.answers] == ["1", "0", "0", "1"]  # the first sample of each


def test_one_sample_has_no_pass_at_k(scripted, one_rank):
    metrics = Evaluator(config(4), ranks=one_rank, **scripted(FOUR)).evaluate().metrics
    assert not [name for name in metrics if name.startswith("pass")]


def test_no_prompt_of_a_small_file_is_used_twice(scripted, one_rank):
    parts = scripted(FOUR)
    result = Evaluator(config(200), ranks=one_rank, **parts).evaluate()
    assert len(parts["engine"].requests) == len(result.answers) == 4
    assert result.metrics["accuracy"] == 0.75


def test_only_the_first_prompts_of_a_large_file_are_used(scripted, one_rank):
    result = Evaluator(config(2), ranks=one_rank, **scripted(FOUR)).evaluate()
    assert [answer.question for answer in result.answers] == ["one?", "two?"]


def test_an_evaluation_repeats_its_seeds_and_shares_none_with_training(scripted, one_rank):
    parts = scripted(SEVERAL)
    evaluator = Evaluator(config(4, samples=3, temperature=0.7), ranks=one_rank, **parts)
    evaluator.evaluate()
    first = [request.seed for request in parts["engine"].requests]
    evaluator.evaluate()
    assert [request.seed for request in parts["engine"].requests] == first
    training = {sampling_seed(3, 0, prompt, sample) for prompt in range(4) for sample in range(3)}
    assert len(set(first) - training) == 12
    assert (parts["engine"].sampling.temperature, parts["engine"].sampling.max_new_tokens) == (0.7, 9)


def test_an_answer_without_a_verdict_is_neither_right_nor_wrong(scripted, one_rank):
    answers = {"one?": ["1", "0"], "two?": ["what", "none"], "three?": ["none", "1"]}
    result = Evaluator(config(3, samples=2), ranks=one_rank, **scripted(answers)).evaluate()
    assert result.metrics["accuracy"] == 0.75  # 1/2 and 1/1
    assert result.metrics["pass@2"] == 1.0
    assert result.metrics["reward/mean"] == pytest.approx(2 / 3)
    assert (result.metrics["reward_errors"], result.metrics["no_verdict"]) == (1.0, 3.0)
    assert [answer.correct for answer in result.answers] == [True, None, None]


def test_an_environment_that_does_not_say_what_solves_a_problem_has_no_accuracy(scripted, one_rank):
    parts = scripted(FOUR)
    score = parts["scorer"].score
    parts["scorer"].score = lambda *item: replace(score(*item), solved=None)
    result = Evaluator(config(4, samples=1), ranks=one_rank, **parts).evaluate()
    assert result.metrics == {"reward/mean": 0.875, "response_length/mean": result.metrics["response_length/mean"]}
    assert [answer.correct for answer in result.answers] == [None] * 4


@pytest.mark.parametrize("world_size", [2, 3, 5])
def test_every_rank_gets_the_result_of_one_process_even_one_without_a_prompt(scripted, one_rank, on_ranks, world_size):
    single = Evaluator(config(4, samples=3), ranks=one_rank, **scripted(SEVERAL)).evaluate()

    def work(ranks):
        return Evaluator(config(4, samples=3), ranks=ranks, **scripted(SEVERAL)).evaluate()

    assert on_ranks(world_size, work) == [single] * world_size


def test_answers_that_could_not_be_rewarded_are_counted_and_none_at_all_is_an_error(scripted, one_rank):
    result = Evaluator(config(2), ranks=one_rank, **scripted({"one?": ["1"], "two?": ["what"]})).evaluate()
    assert (result.metrics["reward_errors"], result.metrics["accuracy"]) == (1.0, 1.0)
    nothing = scripted({"one?": ["who"], "two?": ["what"]})
    with pytest.raises(SkyrlError, match="no answer of the evaluation could be rewarded; first error: no number"):
        Evaluator(config(2), ranks=one_rank, **nothing).evaluate()

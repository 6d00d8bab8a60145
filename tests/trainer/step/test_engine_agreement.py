"""A rollout engine that samples from another distribution than the trainer computes is refused at the start."""

import re
from dataclasses import replace

import pytest
import torch
from tests.trainer.fixtures.engine_setup import engine_setup

from skyrl_core.errors import SkyrlError
from skyrl_train.policy.policy import Policy
from skyrl_train.rollout.hf.decoding import PrefilledPrompts
from skyrl_train.rollout.hf.engine import HfEngine
from skyrl_train.rollout.rollout_engine import Sampling
from skyrl_train.step.engine_agreement import EngineAgreement, EngineDisagreesError

PROMPTS = [(3, 9, 4, 1, 17, 30), (5, 2, 8)]
SAMPLING = Sampling(max_new_tokens=40, temperature=0.7)


@pytest.fixture
def check(small_model, tokenizer, one_rank):
    """Compares an engine, an HfEngine changed by a function, with the trainer's computation."""
    model = small_model
    with torch.no_grad():  # far from uniform, so that a wrong distribution shows
        before = [parameter.clone() for parameter in model.parameters()]
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    setup = engine_setup(tokenizer, {1, 2, 3}, trained=model, load_copy=lambda: model)

    def run(kind=HfEngine, *, prompts=PROMPTS, sampling=SAMPLING, tolerance=1e-3):
        agreement = EngineAgreement(
            engine=kind(setup), name="mine", prompts=prompts, tolerance=tolerance, pad_id=0, ranks=one_rank
        )
        policy = Policy(model, chunk_size=64, temperature=sampling.temperature)
        return agreement.check(lambda sequences: policy.log_probs(sequences, False)[0], sampling)

    yield run
    with torch.no_grad():
        for parameter, value in zip(model.parameters(), before, strict=True):
            parameter.copy_(value)


def changed(change):
    """An engine of another package, without early hand-over, whose samples are changed."""

    class Changed(HfEngine):
        def generate(self, requests, sampling):
            return change(super().generate(requests, sampling))

    return Changed


def with_log_probs(compute):
    return changed(lambda samples: [replace(sample, log_probs=compute(sample)) for sample in samples])


def test_an_engine_that_samples_from_the_same_distribution_is_reported_with_its_deviation(check):
    line = check()
    deviation = re.fullmatch(
        r"rollout engine mine: log-probs of samples are (.*) nats from .* \(at most 1e-03 .*", line
    )
    assert float(deviation[1]) < 1e-5


@pytest.mark.parametrize("temperature", [0.7, 1.0, 1.5])
@pytest.mark.parametrize("prompts", [[(3,)], [(3, 9)], PROMPTS])
def test_prompts_of_any_length_and_temperature_agree(check, prompts, temperature):
    assert "mine" in check(prompts=prompts, sampling=replace(SAMPLING, temperature=temperature))


class RawLogProbs(HfEngine):
    """Samples at the temperature, and reports log-probs from before it, as vLLM does by default."""

    def generate(self, requests, sampling):
        samples = super().generate(requests, sampling)
        rows = [(*r.prompt_ids, *s.token_ids) for r, s in zip(requests, samples, strict=True)]
        scored = [values[-len(s.token_ids) :] for values, s in zip(self.log_probs(rows), samples, strict=True)]
        return [replace(sample, log_probs=values) for sample, values in zip(samples, scored, strict=True)]


class Tempered(HfEngine):
    """Takes the temperature from elsewhere, such as a generation config."""

    def generate(self, requests, sampling):
        return super().generate(requests, replace(sampling, temperature=1.0))


class Truncated(HfEngine):
    """Takes top_k from elsewhere."""

    def generate(self, requests, sampling):
        return super().generate(requests, replace(sampling, top_k=2))


@pytest.mark.parametrize("kind", [RawLogProbs, Tempered, Truncated])
def test_another_distribution_is_refused_with_the_deviation_and_advice(check, kind):
    message = r"engine mine does not sample .* are \d\.\de-0\d nats .* at most 1e-03 .*\n.*set rollout.engine"
    with pytest.raises(EngineDisagreesError, match=message):
        check(kind)


TRUNCATIONS = [{"top_p": 0.5}, {"top_k": 3}, {"min_p": 0.3}]


@pytest.mark.parametrize("options", TRUNCATIONS)
def test_truncated_samples_agree_over_the_tokens_that_were_kept(check, options):
    check(sampling=replace(SAMPLING, return_kept=True, **options))
    with pytest.raises(EngineDisagreesError):
        check(sampling=replace(SAMPLING, **options))


@pytest.mark.parametrize("options", TRUNCATIONS)
def test_an_engine_that_does_not_return_the_kept_tokens_is_refused(check, options):
    forgetful = changed(lambda samples: [replace(sample, kept=None) for sample in samples])
    with pytest.raises(SkyrlError, match=r"does not return those that it kept .*rollout\.engine to hf"):
        check(forgetful, sampling=replace(SAMPLING, return_kept=True, **options))


def test_an_engine_that_ignores_padding_is_refused(check, monkeypatch):
    of = PrefilledPrompts.of.__func__

    def unmasked(cls, model, prompts, pad_id):
        width = max(map(len, prompts))
        padded = [(pad_id,) * (width - len(prompt)) + tuple(prompt) for prompt in prompts]
        return of(cls, model, padded, pad_id)

    monkeypatch.setattr(PrefilledPrompts, "of", classmethod(unmasked))
    with pytest.raises(EngineDisagreesError, match="prompts of 2, 3, 6 tokens in one batch"):
        check()


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (changed(lambda samples: samples[1:]), "7 samples for 8 requests"),
        (with_log_probs(lambda sample: sample.log_probs[1:]), r"a sample of \d+ tokens with \d+ log-probs"),
        (with_log_probs(lambda sample: [float("nan")] * len(sample.token_ids)), "the log-probs nan"),
        (
            with_log_probs(lambda sample: [-x for x in sample.log_probs]),
            r"the log-probs \d",
        ),  # negative log-likelihoods
    ],
)
def test_incomplete_or_impossible_samples_are_refused(check, kind, message):
    with pytest.raises(EngineDisagreesError, match=f"engine mine returned {message}"):
        check(kind)


def test_rounding_may_be_larger_at_a_low_temperature(check):
    low = replace(SAMPLING, temperature=0.1)
    off = with_log_probs(lambda sample: [value - 0.005 for value in sample.log_probs])
    assert "at most 1e-02" in check(off, sampling=low)
    with pytest.raises(EngineDisagreesError, match=r"at most 1e-03"):
        check(off, sampling=replace(low, temperature=1.0))

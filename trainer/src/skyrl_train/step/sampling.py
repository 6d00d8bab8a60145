"""Samples responses and starts the reward of each as soon as it is finished."""

from collections.abc import Sequence
from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

from skyrl_train.environments.environment import Completion, Row
from skyrl_train.rewards.reward_stream import ScoreStream
from skyrl_train.rewards.scorer import Scorer
from skyrl_train.rollout.rollout_engine import RolloutEngine, Sample, SampleRequest, Sampling, generate
from skyrl_train.rollout.stop_strings import before_stop


@dataclass(frozen=True, kw_only=True)
class Samples:
    """The samples of some requests, in order; their rewards may still be computed."""

    samples: list[Sample]
    completions: list[Completion]
    scores: ScoreStream


@dataclass(frozen=True, kw_only=True)
class Sampler:
    """Generates samples with a rollout engine and rewards them with a scorer."""

    engine: RolloutEngine
    tokenizer: PreTrainedTokenizerBase
    scorer: Scorer
    skip_special_tokens: bool = True  # in the text that rewards see

    def sample(self, requests: Sequence[SampleRequest], rows: Sequence[Row], sampling: Sampling) -> Samples:
        """One sample for each request; ``rows`` are the rows of the requests, in the same order."""
        completions: dict[int, Completion] = {}
        scores = self.scorer.stream()

        def hand_over(index: int, sample: Sample) -> None:
            if index not in completions:
                completions[index] = complete(
                    sample, self.tokenizer, sampling.stop, skip_special_tokens=self.skip_special_tokens
                )
                scores.add(index, (completions[index], rows[index]))

        try:
            samples = generate(self.engine, requests, sampling, hand_over)
        except BaseException:
            scores.cancel()
            raise
        scores.close()
        return Samples(samples=samples, completions=[completions[i] for i in range(len(samples))], scores=scores)


def complete(
    sample: Sample, tokenizer: PreTrainedTokenizerBase, stop: Sequence[str] = (), *, skip_special_tokens: bool = True
) -> Completion:
    """The sample with its text, without the end token and, usually, other special ones, up to the first stop string."""
    ids = list(sample.token_ids)
    last = tokenizer.added_tokens_decoder.get(ids[-1]) if ids else None
    if last is not None and last.special and sample.finished:
        ids.pop()
    text = str(tokenizer.decode(ids, skip_special_tokens=skip_special_tokens))
    return Completion(text=before_stop(text, stop), token_ids=sample.token_ids, finished=sample.finished)

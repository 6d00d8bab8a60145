"""Evaluates the policy on held-out problems, with the same prompts and seeds each time."""

import math
from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

from skyrl_core.errors import SkyrlError
from skyrl_train.config.schema import RunConfig
from skyrl_train.data.prompt_source import PromptSource
from skyrl_train.data.prompt_tokens import encode_prompt
from skyrl_train.ranks.ranks import Ranks
from skyrl_train.rewards.scorer import Scorer
from skyrl_train.rollout.rollout_engine import RolloutEngine, SampleRequest, Sampling
from skyrl_train.rollout.seeds import sampling_seed
from skyrl_train.step.sampling import Sampler

SOLVED = 1.0
"""A sample with at least this reward counts as correct."""


@dataclass(frozen=True, kw_only=True)
class Answer:
    """One answer to a held-out question."""

    question: str
    expected: str
    text: str
    correct: bool


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """The result of one evaluation: metrics over all ranks, and the first sample of each prompt."""

    metrics: dict[str, float]
    answers: list[Answer]


class Evaluator:
    """Samples answers to the first held-out prompts and rewards them."""

    def __init__(
        self,
        config: RunConfig,
        *,
        source: PromptSource,
        tokenizer: PreTrainedTokenizerBase,
        engine: RolloutEngine,
        scorer: Scorer,
        ranks: Ranks,
    ) -> None:
        self._config = config
        self._tokenizer = tokenizer
        self._sampler = Sampler(engine=engine, tokenizer=tokenizer, scorer=scorer)
        self._ranks = ranks
        wanted = config.evaluation.prompts
        # A file may hold fewer prompts; using a prompt twice would make the standard error too small.
        self._rows = source.take(0, min(wanted, source.size) if source.size is not None else wanted)

    def evaluate(self) -> Evaluation:
        """Sample and reward answers; the result is the same on all ranks. Collective."""
        settings = self._config.evaluation
        own = [index for index in range(len(self._rows)) if index % self._ranks.world_size == self._ranks.rank]
        limit = self._config.rollout.max_prompt_tokens
        requests, indices = [], []
        for index in own:
            prompt_ids = encode_prompt(self._rows[index], self._tokenizer, limit)
            for sample in range(settings.samples_per_prompt):
                seed = sampling_seed(self._config.seed, 0, index, sample, stream="evaluation")
                requests.append(SampleRequest(prompt_ids=prompt_ids, seed=seed))
                indices.append(index)
        sampling = Sampling.for_evaluation(self._config)
        samples = self._sampler.sample(requests, [self._rows[index] for index in indices], sampling)
        outcomes = [
            (index, completion.text, len(completion.token_ids), score.reward, score.error)
            for index, completion, score in zip(indices, samples.completions, samples.scores.scores(), strict=True)
        ]
        gathered = sorted((o for part in self._ranks.gather(outcomes) for o in part), key=lambda outcome: outcome[0])
        return self._summary(gathered)

    def _summary(self, outcomes: list[tuple[int, str, int, float, str | None]]) -> Evaluation:
        errors = [error for *_, error in outcomes if error is not None]
        if len(errors) == len(outcomes):
            raise SkyrlError(f"no answer of the evaluation could be rewarded; first error: {errors[0]}")
        k = self._config.evaluation.samples_per_prompt
        solved: dict[int, int] = dict.fromkeys(range(len(self._rows)), 0)
        first: dict[int, Answer] = {}
        for index, text, _, reward, _ in outcomes:
            row = self._rows[index]
            solved[index] += reward >= SOLVED
            answer = Answer(
                question=row.prompt[-1]["content"], expected=row.ground_truth, text=text, correct=reward >= SOLVED
            )
            first.setdefault(index, answer)
        shares = [count / k for count in solved.values()]
        accuracy = sum(shares) / len(shares)
        variance = sum((share - accuracy) ** 2 for share in shares) / max(len(shares) - 1, 1)
        metrics = {
            "accuracy": accuracy,
            "accuracy/standard_error": math.sqrt(variance / len(shares)),
            "reward/mean": sum(reward for *_, reward, _ in outcomes) / len(outcomes),
            "response_length/mean": sum(length for _, _, length, *_ in outcomes) / len(outcomes),
        }
        if errors:
            metrics["reward_errors"] = float(len(errors))
        if k > 1:
            metrics[f"pass@{k}"] = sum(count > 0 for count in solved.values()) / len(solved)
        return Evaluation(metrics=metrics, answers=[first[index] for index in sorted(first)])

"""Evaluates the policy on held-out problems, with the same prompts and seeds each time."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from transformers import PreTrainedTokenizerBase

from skyrl_train.config.schema import RunConfig
from skyrl_train.data.prompt_source import PromptSource
from skyrl_train.data.prompt_tokens import PromptEncoder
from skyrl_train.ranks.ranks import Ranks
from skyrl_train.ranks.shared_error import SharedError
from skyrl_train.rewards.reward_result import Score
from skyrl_train.rewards.scorer import Scorer
from skyrl_train.rollout.rollout_engine import RolloutEngine, SampleRequest, Sampling
from skyrl_train.rollout.seeds import sampling_seed
from skyrl_train.step.confidence import standard_error
from skyrl_train.step.rollout import no_verdict_message, reward_metrics
from skyrl_train.step.sampling import Sampler


@dataclass(frozen=True, kw_only=True)
class Answer:
    """One answer to a held-out question."""

    problem: tuple[str, int] = ("", 0)  # the evaluation set, and the position in it

    question: str
    expected: str
    text: str
    reward: float | None  # None: no verdict
    correct: bool | None  # None: the environment does not say


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """The result of one evaluation: metrics over all ranks, and the first sample of each prompt."""

    metrics: dict[str, float]
    answers: list[Answer]
    errors: tuple[str, ...] = ()  # of evaluation sets that could not be measured; they have no metrics
    solved: dict[str, tuple[bool, ...]] = field(default_factory=dict)
    """Whether each sample with a verdict solves its problem, by place and uid; empty if an environment does not say."""


class _Outcome(NamedTuple):
    problem: int
    text: str
    length: int  # tokens
    score: Score


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
        self._encoder = PromptEncoder.of(config, tokenizer, evaluation=True)
        self._sampler = Sampler(
            engine=engine,
            tokenizer=tokenizer,
            scorer=scorer,
            skip_special_tokens=config.rollout.skip_special_tokens,
        )
        self._ranks = ranks
        wanted = config.evaluation.prompts
        # A file may hold fewer prompts; using a prompt twice would make the standard error too small.
        self._rows = source.take(0, min(wanted, source.size) if source.size is not None else wanted)

    def evaluate(self) -> Evaluation:
        """Sample and reward answers; the result is the same on all ranks. Collective.

        Raises:
            SharedError: no answer has a verdict.
        """
        settings = self._config.evaluation
        own = [index for index in range(len(self._rows)) if index % self._ranks.world_size == self._ranks.rank]
        requests, indices = [], []
        for index in own:
            prompt_ids = self._encoder.encode(self._rows[index])
            for sample in range(settings.samples_per_prompt):
                seed = sampling_seed(self._config.seed, 0, index, sample, stream="evaluation")
                requests.append(SampleRequest(prompt_ids=prompt_ids, seed=seed))
                indices.append(index)
        sampling = Sampling.for_evaluation(self._config)
        samples = self._sampler.sample(requests, [self._rows[index] for index in indices], sampling)
        scores = self._ranks.together(samples.scores.scores)
        outcomes = [
            _Outcome(index, completion.text, len(completion.token_ids), score)
            for index, completion, score in zip(indices, samples.completions, scores, strict=True)
        ]
        gathered = sorted(
            (o for part in self._ranks.gather(outcomes) for o in part), key=lambda outcome: outcome.problem
        )
        return self._summary(gathered)

    def _summary(self, outcomes: Sequence[_Outcome]) -> Evaluation:
        scores = [outcome.score for outcome in outcomes]
        errors = [score.error for score in scores if score.error]
        judged = [outcome for outcome in outcomes if outcome.score.reward is not None]
        if not judged:
            raise SharedError(no_verdict_message("answer of the evaluation", errors))
        first: dict[int, Answer] = {}
        for index, text, _, score in outcomes:
            row = self._rows[index]
            answer = Answer(
                problem=("", index),
                question=row.question,
                expected=row.ground_truth,
                text=text,
                reward=score.reward,
                correct=score.solved,
            )
            first.setdefault(index, answer)
        rewards = reward_metrics([(outcome.problem, outcome.score) for outcome in outcomes])
        metrics = {
            name: value for name, value in rewards.items() if name.startswith("reward/") and name != "reward/std"
        }
        metrics["response_length/mean"] = sum(outcome.length for outcome in outcomes) / len(outcomes)
        metrics |= {name: rewards[name] for name in ("reward_errors", "no_verdict") if rewards[name]}
        answers = [first[index] for index in sorted(first)]
        solved = self._solved(judged)
        return Evaluation(metrics=self._accuracy(solved) | metrics, answers=answers, solved=solved)

    def _solved(self, judged: Sequence[_Outcome]) -> dict[str, tuple[bool, ...]]:
        by_problem: dict[str, list[bool]] = {}
        for outcome in judged:
            if outcome.score.solved is None:
                return {}
            key = f"{outcome.problem}:{self._rows[outcome.problem].uid}"
            by_problem.setdefault(key, []).append(outcome.score.solved)
        return {key: tuple(solved) for key, solved in by_problem.items()}

    def _accuracy(self, solved: dict[str, tuple[bool, ...]]) -> dict[str, float]:
        """The share of solved samples and its standard error; nothing if an environment does not say what solves."""
        if not solved:
            return {}
        shares = [sum(samples) / len(samples) for samples in solved.values()]
        metrics = {"accuracy": sum(shares) / len(shares), "accuracy/standard_error": standard_error(shares)}
        k = self._config.evaluation.samples_per_prompt
        if k > 1:
            metrics[f"pass@{k}"] = sum(any(samples) for samples in solved.values()) / len(solved)
        return metrics

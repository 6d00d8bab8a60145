"""The first half of a training step: samples responses to this rank's prompts and rewards them."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from skyrl_core.errors import SkyrlError
from skyrl_train.config.schema import RunConfig
from skyrl_train.data.prompt_source import PromptSource
from skyrl_train.data.prompt_tokens import PromptEncoder
from skyrl_train.environments.environment import Completion, Row
from skyrl_train.ranks.ranks import Ranks
from skyrl_train.ranks.shared_error import SharedError
from skyrl_train.rewards.reward_result import Score
from skyrl_train.rewards.scorer import Scorer
from skyrl_train.rollout.rollout_engine import RolloutEngine, Sample, SampleRequest, Sampling
from skyrl_train.rollout.seeds import sampling_seed
from skyrl_train.step.batching import owner_of_group
from skyrl_train.step.experience import Experience
from skyrl_train.step.sampling import Sampler, Samples


@dataclass(frozen=True, kw_only=True)
class PendingRollout:
    """One rank's samples of a step; their rewards may still be computed."""

    rows: Sequence[Row]  # of all ranks, by group
    groups: list[int]  # of each sample
    requests: list[SampleRequest]
    samples: Samples


@dataclass(frozen=True, kw_only=True)
class Rollout:
    """One rank's samples of a step, as tensors and as text; no advantages yet."""

    experience: Experience  # of the samples with a verdict
    judged: list[int]  # the position of each of its sequences in `records`
    records: list[dict[str, Any]]  # prompt, response, reward, ... of each sample, as text
    metrics: dict[str, float]  # of all ranks
    errors: list[str]  # of rewards that could not be computed, on all ranks


class RolloutCollector:
    """Samples and rewards the responses of a step, which depend on seed, step and weights, not on ranks."""

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
        self._source = source
        self._tokenizer = tokenizer
        self._encoder = PromptEncoder.of(config, tokenizer)
        self._sampler = Sampler(
            engine=engine,
            tokenizer=tokenizer,
            scorer=scorer,
            skip_special_tokens=config.rollout.skip_special_tokens,
        )
        self._ranks = ranks

    def sample(self, step: int, position: int, temperature: float) -> PendingRollout:
        """Sample for training step ``step``. Collective if the rollout engine's ``generate`` is.

        Args:
            step: determines the samples, together with the configured seed.
            position: position of the first prompt in the data.
            temperature: sampling temperature.
        """
        trainer = self._config.trainer
        num_groups = trainer.prompts_per_step
        rows = self._source.take(position, num_groups)
        owners = [owner_of_group(g, num_groups, trainer.minibatches, self._ranks.world_size) for g in range(num_groups)]
        groups = [
            g for g, owner in enumerate(owners) if owner == self._ranks.rank for _ in range(trainer.samples_per_prompt)
        ]
        encoded = {g: self._encoder.encode(rows[g]) for g in set(groups)}
        requests = [
            SampleRequest(
                prompt_ids=encoded[g],
                seed=sampling_seed(self._config.seed, step, g, index % trainer.samples_per_prompt),
            )
            for index, g in enumerate(groups)
        ]
        sampling = Sampling.for_training(self._config, temperature)
        samples = self._sampler.sample(requests, [rows[g] for g in groups], sampling)
        return PendingRollout(rows=rows, groups=groups, requests=requests, samples=samples)

    def reward(self, pending: PendingRollout, optimizer_steps: int) -> Rollout:
        """Wait for the rewards of a step's samples; those without a verdict are left out. Collective.

        Args:
            pending: the samples of the step.
            optimizer_steps: optimizer steps done so far, from which the staleness of each sample is computed.

        Raises:
            SkyrlError: no sample has a verdict, or one is staler than the configuration allows.
        """
        rows, groups, requests = pending.rows, pending.groups, pending.requests
        samples, completions = pending.samples.samples, pending.samples.completions
        experience = Experience.build(
            [request.prompt_ids for request in requests],
            samples,
            groups,
            pad_id=int(self._tokenizer.pad_token_id),
            device=self._ranks.device,
        )
        scores = self._ranks.together(pending.samples.scores.scores)
        metrics, errors = self._metrics(samples, scores, groups, optimizer_steps)
        judged = [index for index, score in enumerate(scores) if score.reward is not None]
        return Rollout(
            experience=rewarded(experience, scores),
            judged=judged,
            records=_records(groups, rows, completions, scores),
            metrics=metrics,
            errors=errors,
        )

    def _staleness(self, steps: list[int]) -> dict[str, float]:
        """The staleness metrics: optimizer steps made since sampling; logged if samples are prefetched."""
        trainer, ahead = self._config.trainer, self._config.rollout.async_ == "one_step"
        bound = trainer.minibatches * trainer.epochs if ahead else 0
        if not all(0 <= count <= bound for count in steps):
            raise SkyrlError(
                f"the rollout engine reports samples of a policy {min(steps)} to {max(steps)} optimizer steps old, and "
                f"at most {bound} are allowed: it did not load the weights of the last sync; fix or restart the engine"
            )
        return {"staleness/mean": sum(steps) / len(steps), "staleness/max": float(max(steps))} if ahead else {}

    def _metrics(
        self, samples: Sequence[Sample], scores: Sequence[Score], groups: Sequence[int], optimizer_steps: int
    ) -> tuple[dict[str, float], list[str]]:
        own = {
            "scores": list(zip(groups, scores, strict=True)),
            "lengths": [len(sample.token_ids) for sample in samples],
            "finished": [float(sample.finished) for sample in samples],
            "staleness": [optimizer_steps - sample.policy_version for sample in samples],
        }
        parts = self._ranks.gather(own)
        values: dict[str, list[Any]] = {name: [value for part in parts for value in part[name]] for name in own}
        lengths = torch.tensor(values["lengths"], dtype=torch.float32)
        metrics = {
            "response_length/mean": float(lengths.mean()),
            "response_length/max": float(lengths.max()),
            "finished": sum(values["finished"]) / len(values["finished"]),
            "tokens": float(lengths.sum()),
        }
        errors = [score.error for _, score in values["scores"] if score.error]
        return reward_metrics(values["scores"]) | metrics | self._staleness(values["staleness"]), errors


def reward_metrics(scores: Sequence[tuple[int, Score]]) -> dict[str, float]:
    """The metrics of the rewards of all ranks, each with the group of its sample.

    Raises:
        SharedError: no sample has a verdict.
    """
    by_group: dict[int, list[float]] = {}
    for group, score in scores:
        if score.reward is not None:
            by_group.setdefault(group, []).append(score.reward)
    rewards = torch.tensor([reward for _, rewards in sorted(by_group.items()) for reward in rewards])
    errors = [score.error for _, score in scores if score.error]
    if not len(rewards):
        raise SharedError(no_verdict_message("sample of this step", errors))
    named: dict[str, list[float]] = {}
    for _, score in scores:
        for name, part in score.parts.items():
            named.setdefault(name, []).append(part)
    return {
        "reward/mean": float(rewards.mean()),
        "reward/std": float(rewards.std(correction=0)),
        **{f"reward/{name}/mean": sum(parts) / len(parts) for name, parts in sorted(named.items())},
        "reward_errors": float(len(errors)),
        "no_verdict": float(len(scores) - len(rewards)),
        "zero_variance_groups": sum(len(set(rewards)) == 1 for rewards in by_group.values()) / len(by_group),
    }


def no_verdict_message(what: str, errors: Sequence[str]) -> str:
    """The message when no sample has a reward. ``what``: such as "sample of this step"."""
    if errors:
        return f"no {what} could be rewarded; first error: {errors[0]}"
    return f"the reward gave no verdict on any {what}: it returned None for all; return a number for at least some"


def rewarded(experience: Experience, scores: Sequence[Score]) -> Experience:
    """The sequences with a verdict, with their rewards; ``scores`` has one for each sequence."""
    device = experience.rewards.device
    judged = [index for index, score in enumerate(scores) if score.reward is not None]
    kept = experience.select(torch.tensor(judged, dtype=torch.long, device=device))
    scores = [scores[index] for index in judged]

    def tensor(values: Sequence[float | None]) -> torch.Tensor:
        return torch.tensor(values, dtype=torch.float32, device=device)

    names = sorted({name for score in scores for name in score.parts})
    parts = {name: tensor([score.parts.get(name, math.nan) for score in scores]) for name in names}
    return replace(kept, rewards=tensor([score.reward for score in scores]), reward_parts=parts)


def _records(
    groups: Sequence[int],
    rows: Sequence[Row],
    completions: Sequence[Completion],
    scores: Sequence[Score],
) -> list[dict[str, Any]]:
    return [
        {
            "group": group,
            "prompt": rows[group].question,
            "ground_truth": rows[group].ground_truth,
            "response": completion.text,
            "finished": completion.finished,
            "reward": score.reward,
            **({"rewards": dict(score.parts)} if score.parts else {}),
            "error": score.error,
        }
        for group, completion, score in zip(groups, completions, scores, strict=True)
    ]

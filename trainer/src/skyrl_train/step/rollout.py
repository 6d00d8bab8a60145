"""The first half of a training step: samples responses to this rank's prompts and rewards them."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from skyrl_core.errors import SkyrlError
from skyrl_train.config.schema import RunConfig
from skyrl_train.data.prompt_source import PromptSource
from skyrl_train.data.prompt_tokens import encode_prompt
from skyrl_train.environments.environment import Completion, Row
from skyrl_train.ranks.ranks import Ranks
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

    experience: Experience
    records: list[dict[str, Any]]  # prompt, response, reward, ... of each sequence, as text
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
        self._sampler = Sampler(engine=engine, tokenizer=tokenizer, scorer=scorer)
        self._ranks = ranks

    def sample(self, step: int, position: int, temperature: float) -> PendingRollout:
        """Sample for training step ``step``. Collective if the rollout engine's ``generate`` is.

        Args:
            step: determines the samples, together with the configured seed.
            position: position of the first prompt in the data.
            temperature: sampling temperature.
        """
        trainer, rollout = self._config.trainer, self._config.rollout
        num_groups = trainer.prompts_per_step
        rows = self._source.take(position, num_groups)
        owners = [owner_of_group(g, num_groups, trainer.minibatches, self._ranks.world_size) for g in range(num_groups)]
        groups = [
            g for g, owner in enumerate(owners) if owner == self._ranks.rank for _ in range(trainer.samples_per_prompt)
        ]
        encoded = {g: encode_prompt(rows[g], self._tokenizer, rollout.max_prompt_tokens) for g in set(groups)}
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
        """Wait for the rewards of a step's samples. Collective.

        Args:
            pending: the samples of the step.
            optimizer_steps: optimizer steps done so far, from which the staleness of each sample is computed.

        Raises:
            SkyrlError: no sample could be rewarded, or one is staler than the configuration allows.
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
        scores = pending.samples.scores.scores()
        rewards = torch.tensor([score.reward for score in scores], dtype=torch.float32, device=self._ranks.device)
        experience = replace(experience, rewards=rewards)
        metrics, errors = self._metrics(samples, scores, experience, optimizer_steps)
        return Rollout(
            experience=experience,
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
        self, samples: Sequence[Sample], scores: Sequence[Score], experience: Experience, optimizer_steps: int
    ) -> tuple[dict[str, float], list[str]]:
        own = {
            "rewards": [score.reward for score in scores],
            "errors": [score.error for score in scores if score.error],
            "lengths": [len(sample.token_ids) for sample in samples],
            "finished": [float(sample.finished) for sample in samples],
            "groups": experience.groups.tolist(),
            "staleness": [optimizer_steps - sample.policy_version for sample in samples],
        }
        parts = self._ranks.gather(own)
        values = {name: [value for part in parts for value in part[name]] for name in own}
        if values["errors"] and len(values["errors"]) == len(values["rewards"]):
            raise SkyrlError(f"no sample of this step could be rewarded; first error: {values['errors'][0]}")
        rewards, lengths = torch.tensor(values["rewards"]), torch.tensor(values["lengths"], dtype=torch.float32)
        by_group: dict[int, set[float]] = {}
        for group, reward in zip(values["groups"], values["rewards"], strict=True):
            by_group.setdefault(group, set()).add(reward)
        same = sum(len(rewards_of_group) == 1 for rewards_of_group in by_group.values())
        metrics = {
            "reward/mean": float(rewards.mean()),
            "reward/std": float(rewards.std(correction=0)),
            "reward_errors": float(len(values["errors"])),
            "zero_variance_groups": same / len(by_group),
            "response_length/mean": float(lengths.mean()),
            "response_length/max": float(lengths.max()),
            "finished": sum(values["finished"]) / len(values["finished"]),
            "tokens": float(lengths.sum()),
        }
        return metrics | self._staleness(values["staleness"]), values["errors"]


def _records(
    groups: Sequence[int],
    rows: Sequence[Row],
    completions: Sequence[Completion],
    scores: Sequence[Score],
) -> list[dict[str, Any]]:
    return [
        {
            "group": group,
            "prompt": rows[group].prompt[-1]["content"],
            "ground_truth": rows[group].ground_truth,
            "response": completion.text,
            "finished": completion.finished,
            "reward": score.reward,
            "error": score.error,
        }
        for group, completion, score in zip(groups, completions, scores, strict=True)
    ]

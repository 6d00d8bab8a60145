"""Proves at the start of a run that the rollout engine samples from the distribution that the trainer computes.

An engine can sample without an error and still be wrong: some architectures ignore padding, positions or their cache,
an engine may report log-probs before the temperature, and a model's generation config may add a penalty. So it samples
responses to prompts of different lengths in one batch, and the trainer computes the log-probs of the same tokens.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import isfinite
from typing import Self

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from skyrl_core.errors import SkyrlError
from skyrl_train.config.schema import RunConfig
from skyrl_train.data.prompt_source import PromptSource
from skyrl_train.data.prompt_tokens import PromptEncoder
from skyrl_train.policy.policy import Sequences
from skyrl_train.ranks.ranks import Ranks
from skyrl_train.rollout.rollout_engine import RolloutEngine, Sample, SampleRequest, Sampling, generate
from skyrl_train.step.experience import Experience

TOLERANCE = {"fp32": 1e-3, "bf16": 5e-2}
"""Mean |Δ log p| of some tokens, in nats, that rounding explains: the engines sum in different orders."""

PROBE_PROMPTS, PROBE_TOKENS = 2, 64
"""How many of the first prompts the engines are compared on, and how many tokens of each."""

SAMPLES, RESPONSE_TOKENS = 2, 16
"""Samples of each prompt, and their largest length: enough tokens for a mean, and several steps with a cache."""

ROUNDING = 1e-3
"""Nats by which rounding may lift a log-prob above zero."""

LogProbs = Callable[[Sequences], Tensor]
"""The trainer's log-probs [B, T] of response tokens."""


class EngineDisagreesError(SkyrlError):
    """The rollout engine samples from another distribution than the one that the trainer computes."""


def allowed_deviation(config: RunConfig) -> float:
    """The largest mean |Δ log p|, in nats, at which rollout engine and trainer agree."""
    return config.rollout.probe_tolerance or TOLERANCE[config.trainer.deepspeed.precision]


def probe_prompts(config: RunConfig, source: PromptSource, tokenizer: PreTrainedTokenizerBase) -> list[tuple[int, ...]]:
    """The beginnings of the first prompts, on which the engines are compared."""
    encoder = PromptEncoder.of(config, tokenizer)
    return [encoder.encode(row)[:PROBE_TOKENS] for row in source.take(0, PROBE_PROMPTS)]


@dataclass(frozen=True, kw_only=True)
class EngineAgreement:
    """Compares a rollout engine with the trainer on samples of prompts of different lengths."""

    engine: RolloutEngine
    name: str
    prompts: Sequence[tuple[int, ...]]  # see probe_prompts
    tolerance: float
    pad_id: int
    ranks: Ranks

    @classmethod
    def of(
        cls,
        config: RunConfig,
        engine: RolloutEngine,
        source: PromptSource,
        tokenizer: PreTrainedTokenizerBase,
        ranks: Ranks,
    ) -> Self | None:
        """The comparison on the first prompts of the source; None if ``rollout.probe`` is false."""
        if not config.rollout.probe:
            return None
        return cls(
            engine=engine,
            name=config.rollout.engine,
            prompts=probe_prompts(config, source, tokenizer),
            tolerance=allowed_deviation(config),
            pad_id=int(tokenizer.pad_token_id),
            ranks=ranks,
        )

    def check(self, log_probs: LogProbs, sampling: Sampling) -> str:
        """Sample and compare; returns a line with the deviation. Collective.

        Args:
            log_probs: those of the trainer, at the temperature of ``sampling``.
            sampling: the parameters to check, of which only the number of tokens is reduced.

        Raises:
            EngineDisagreesError: rounding does not explain the deviation, or the samples are not complete.
        """
        limit = self.tolerance / min(sampling.temperature, 1.0)  # a low temperature magnifies rounding
        deviation = self._deviation(log_probs, sampling)
        if not deviation <= limit:
            raise EngineDisagreesError(
                f"the rollout engine {self.name} does not sample from the distribution that the trainer computes: the "
                f"log-probs of its samples are {deviation:.1e} nats from the trainer's on average, at most {limit:.0e} "
                f"is allowed (prompts of {self._lengths()} tokens in one batch, temperature {sampling.temperature:g})\n"
                "  the engine may not support this architecture, or it reports log-probs before temperature or "
                "penalties: set rollout.engine to another one, choose another model, raise rollout.probe_tolerance if "
                "it is rounding, or set rollout.probe: false to run it anyway"
            )
        return (
            f"rollout engine {self.name}: log-probs of samples are {deviation:.1e} nats from the trainer's on average "
            f"(at most {limit:.0e} allowed)"
        )

    @torch.no_grad()
    def _deviation(self, log_probs: LogProbs, sampling: Sampling) -> float:
        """The mean |Δ log p| over the samples of the worst prompt, on the worst rank."""
        prompts = self._ragged_prompts()
        groups = [number for number in range(len(prompts)) for _ in range(SAMPLES)]
        requests = [SampleRequest(prompt_ids=prompts[group], seed=seed) for seed, group in enumerate(groups)]
        samples = generate(self.engine, requests, shortened(sampling), lambda *_: None)
        self._check_complete(samples, len(requests))
        experience = Experience.build(
            [request.prompt_ids for request in requests],
            samples,
            groups,
            pad_id=self.pad_id,
            device=self.ranks.device,
        )
        differences = (log_probs(experience.sequences) - experience.rollout_log_probs).abs() * experience.mask
        sums = torch.zeros(2, len(prompts), device=self.ranks.device)
        sums.index_add_(1, experience.groups, torch.stack([differences.sum(-1), experience.mask.float().sum(-1)]))
        # A maximum may drop NaN, but never infinity.
        return float(self.ranks.max((sums[0] / sums[1]).nan_to_num(nan=torch.inf).max()))

    def _ragged_prompts(self) -> list[tuple[int, ...]]:
        """The prompts and their first halves: a batch of different lengths needs padding."""
        return [part for ids in self.prompts for part in (ids, ids[: (len(ids) + 1) // 2])]

    def _lengths(self) -> str:
        return ", ".join(str(length) for length in sorted({len(ids) for ids in self._ragged_prompts()}))

    def _check_complete(self, samples: Sequence[Sample], wanted: int) -> None:
        problem = f"{len(samples)} samples for {wanted} requests" if len(samples) != wanted else None
        for sample in samples:
            tokens, values = len(sample.token_ids), sample.log_probs
            if not tokens or tokens != len(values):
                problem = f"a sample of {tokens} tokens with {len(values)} log-probs"
            elif not all(isfinite(value) and value < ROUNDING for value in values):
                problem = f"the log-probs {', '.join(f'{value:g}' for value in values)}"
        if problem is not None:
            raise EngineDisagreesError(
                f"the rollout engine {self.name} returned {problem}: fix the engine, or set rollout.engine to another"
            )


def shortened(sampling: Sampling) -> Sampling:
    """The same sampling, with short responses."""
    return replace(sampling, max_new_tokens=min(sampling.max_new_tokens, RESPONSE_TOKENS))

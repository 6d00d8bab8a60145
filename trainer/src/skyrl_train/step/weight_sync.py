"""Sends weights to the rollout engine and verifies them: both sides compute the log-probs of a probe.

A stale or half-updated rollout engine samples from another policy than the one that trains. Without the probe nothing
would reveal it: the run would continue and learn badly.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Self

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from skyrl_train.config.schema import RunConfig
from skyrl_train.data.prompt_source import PromptSource
from skyrl_train.policy.policy import Sequences
from skyrl_train.ranks.ranks import Ranks
from skyrl_train.ranks.shared_error import SharedError
from skyrl_train.rollout.rollout_engine import RolloutEngine, Sample, Sampling
from skyrl_train.rollout.weights import GuardedWeights, PerturbedWeights
from skyrl_train.step.engine_agreement import EngineAgreement, allowed_deviation
from skyrl_train.step.experience import Experience
from skyrl_train.trainer_engine.zero import ZeroEngine


class StaleEngineError(SharedError):
    """The rollout engine computes with different weights than the trainer."""


class WeightSync:
    """Sends the trained weights to the rollout engine. All methods are collective."""

    def __init__(
        self,
        rollout_engine: RolloutEngine,
        engine: ZeroEngine,
        ranks: Ranks,
        *,
        probe: Sequence[tuple[int, ...]],
        tolerance: float,
        agreement: EngineAgreement | None = None,
    ) -> None:
        """Verify nothing until ``start`` or ``update``.

        Args:
            rollout_engine: receives the weights.
            engine: has the weights.
            ranks: the processes of the run.
            probe: sequences whose log-probs are compared after each sync; the weights of a rollout engine that computes
                with the trained module are never stale, so none are compared.
            tolerance: the largest mean |Δ log p| of the probe.
            agreement: compares samples with the trainer once, after the first sync; None compares nothing.
        """
        self.weights = GuardedWeights(engine)
        self._rollout_engine = rollout_engine
        self._engine = engine
        self._ranks = ranks
        self._probe = () if rollout_engine.shares_weights else tuple(ids for ids in probe if len(ids) > 1)
        self._tolerance = tolerance
        self._agreement = agreement

    @classmethod
    def of(
        cls,
        config: RunConfig,
        rollout_engine: RolloutEngine,
        engine: ZeroEngine,
        source: PromptSource,
        tokenizer: PreTrainedTokenizerBase,
        ranks: Ranks,
    ) -> Self:
        """The sync that the configuration describes; ``source`` has the prompts of the probe."""
        agreement = EngineAgreement.of(config, rollout_engine, source, tokenizer, ranks)
        return cls(
            rollout_engine,
            engine,
            ranks,
            probe=() if agreement is None else agreement.prompts,
            tolerance=allowed_deviation(config),
            agreement=agreement,
        )

    def start(self, policy_version: int, sampling: Sampling) -> str | None:
        """Make the first sync, after a sync with noisy weights, which must change the engine's log-probs.

        Returns a line about the agreement of rollout engine and trainer on samples.

        Raises:
            StaleEngineError: the rollout engine does not load the weights, or not all of them.
            EngineDisagreesError: it samples from another distribution than the one that the trainer computes.
        """
        if self._probe:
            self._rollout_engine.sync_weights(PerturbedWeights(self.weights), policy_version)
            deviation = self._deviation()
            if deviation <= self._tolerance:
                raise StaleEngineError(
                    f"the rollout engine ignores weight updates: with noise on every weight its log-probs are within "
                    f"{deviation:.1e} of the trainer's, so its samples cannot be trusted. Fix the engine, or set "
                    "rollout.probe: false to train anyway"
                )
        self.update(policy_version)
        if self._agreement is None:
            return None
        with self._temperature(sampling.temperature):
            return self._agreement.check(self._log_probs, sampling)

    def update(self, policy_version: int) -> dict[str, float]:
        """Send the current weights. Returns the metrics of the probe.

        Raises:
            StaleEngineError: rollout engine and trainer disagree on the probe by more than rounding.
        """
        self._rollout_engine.sync_weights(self.weights, policy_version)
        if not self._probe:
            return {}
        deviation = self._deviation()
        if not deviation <= self._tolerance:
            raise StaleEngineError(
                f"after the weight sync of optimizer step {policy_version} the log-probs of the rollout engine are "
                f"{deviation:.1e} from the trainer's on average (at most {self._tolerance:.0e} nats allowed): its "
                "weights are stale, incomplete or broken, or it computes in another precision. Fix the engine, or "
                "raise rollout.probe_tolerance"
            )
        return {"probe_deviation": deviation}

    def _deviation(self) -> float:
        """Mean |Δ log p| between the engines over the probe's tokens, for the worst copy and rank."""
        ours = torch.cat([torch.tensor(values) for values in self._trainer_log_probs()])
        theirs = torch.cat([torch.tensor(values) for values in self._rollout_engine.log_probs(self._probe)])
        means = (theirs.view(-1, len(ours)) - ours).abs().mean(dim=1)
        # A maximum may drop NaN, but never infinity.
        return float(self._ranks.max(means.nan_to_num(nan=torch.inf).max()))

    @torch.no_grad()
    def _trainer_log_probs(self) -> list[tuple[float, ...]]:
        rows = [_all_but_first(ids, self._ranks.device).sequences for ids in self._probe]
        with self._temperature(1.0):
            return [tuple(self._log_probs(row)[0].tolist()) for row in rows]

    def _log_probs(self, sequences: Sequences) -> Tensor:
        return self._engine.forward(sequences, with_entropy=False)[0]

    @contextmanager
    def _temperature(self, temperature: float) -> Iterator[None]:
        policy = self._engine.policy
        before, policy.temperature = policy.temperature, temperature
        try:
            yield
        finally:
            policy.temperature = before


def _all_but_first(ids: tuple[int, ...], device: torch.device) -> Experience:
    response = Sample(token_ids=ids[1:], log_probs=(), finished=True, policy_version=0)
    return Experience.build([ids[:1]], [response], [0], pad_id=ids[0], device=device)

"""Sends weights to the rollout engine and verifies them: both sides compute the log-probs of a probe.

A stale or half-updated rollout engine samples from another policy than the one that trains. Without the probe nothing
would reveal it: the run would continue and learn badly.
"""

from collections.abc import Sequence

import torch

from skyrl_train.ranks.ranks import Ranks
from skyrl_train.ranks.shared_error import SharedError
from skyrl_train.rollout.rollout_engine import RolloutEngine, Sample
from skyrl_train.rollout.weights import GuardedWeights, PerturbedWeights
from skyrl_train.step.experience import Experience
from skyrl_train.trainer_engine.zero import ZeroEngine

TOLERANCE = {"fp32": 1e-3, "bf16": 5e-2}
"""Mean |Δ log p| of a probe's tokens, in nats, that rounding explains: the engines sum in different orders."""


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
    ) -> None:
        """``probe``: sequences of two or more tokens; empty verifies nothing.

        A rollout engine that computes with the trained module needs no probe.
        """
        self.weights = GuardedWeights(engine)
        self._rollout_engine = rollout_engine
        self._engine = engine
        self._ranks = ranks
        self._probe = tuple(probe)
        self._tolerance = tolerance

    def start(self, policy_version: int) -> None:
        """Make the first sync, after a sync with noisy weights, which must change the engine's log-probs.

        Raises:
            StaleEngineError: the rollout engine does not load the weights, or not all of them.
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
        policy, values = self._engine.policy, []
        before, policy.temperature = policy.temperature, 1.0
        for ids in self._probe:
            row = _all_but_first(ids, self._ranks.device)
            log_probs, _ = self._engine.forward(row.sequences, with_entropy=False)
            values.append(tuple(log_probs[0].tolist()))
        policy.temperature = before
        return values


def _all_but_first(ids: tuple[int, ...], device: torch.device) -> Experience:
    response = Sample(token_ids=ids[1:], log_probs=(), finished=True, policy_version=0)
    return Experience.build([ids[:1]], [response], [0], pad_id=ids[0], device=device)

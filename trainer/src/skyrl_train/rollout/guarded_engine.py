"""A rollout engine whose calls are guarded, and whose answers are checked before anything trains on them."""

import logging
from collections.abc import Sequence
from inspect import signature
from typing import Any

from skyrl_core.discovery import Guard, PluginCall
from skyrl_core.errors import PluginError, PluginLoadError
from skyrl_train.rollout.rollout_engine import HandOver, RolloutEngine, Sample, SampleRequest, Sampling, WeightSource

logger = logging.getLogger(__name__)

_METHODS = ("generate", "log_probs", "sync_weights", "close")


class GuardedEngine:
    """Forwards to a rollout engine. Every method raises PluginError if the engine fails or breaks the protocol."""

    def __init__(self, engine: Any, guard: Guard) -> None:
        """Raises PluginLoadError if the engine lacks a part of the protocol."""
        with PluginCall(guard, "is not a rollout engine", kind=PluginLoadError):
            missing = [name for name in _METHODS if not callable(getattr(engine, name, None))]
            if missing:
                raise TypeError(f"{type(engine).__name__} has no {', '.join(missing)}")
            self.shares_weights = bool(engine.shares_weights)
            self.works_elsewhere = bool(engine.works_elsewhere)
            self._hands_over = "hand_over" in signature(engine.generate).parameters
        self._engine: RolloutEngine = engine
        self._guard = guard
        self._synced = ""  # when it got its weights, for messages

    def generate(
        self, requests: Sequence[SampleRequest], sampling: Sampling, hand_over: HandOver | None = None
    ) -> list[Sample]:
        """One sample for each request, in order."""
        with self._guard.calling("generate", self._synced):
            early = {"hand_over": hand_over} if self._hands_over and hand_over is not None else {}
            samples = self._engine.generate(requests, sampling, **early)
            _check_samples(samples, requests)
            return list(samples)

    def log_probs(self, sequences: Sequence[Sequence[int]]) -> list[tuple[float, ...]]:
        """Log-probs of the tokens of each sequence except its first."""
        with self._guard.calling("log_probs", self._synced):
            return [tuple(map(float, values)) for values in self._engine.log_probs(sequences)]

    def sync_weights(self, weights: WeightSource, policy_version: int) -> None:
        """Load all of the policy's weights."""
        self._synced = f"after optimizer step {policy_version}"
        with self._guard.calling("sync_weights", self._synced):
            self._engine.sync_weights(weights, policy_version)

    def close(self) -> None:
        """Release the engine's resources. A failure is only logged: the run is over."""
        try:
            with self._guard.calling("close"):
                self._engine.close()
        except PluginError as error:
            logger.warning("%s", error)


def _check_samples(samples: Any, requests: Sequence[SampleRequest]) -> None:
    if not isinstance(samples, list | tuple) or len(samples) != len(requests):
        count = f"{len(samples)} samples" if isinstance(samples, list | tuple) else type(samples).__name__
        raise TypeError(f"it returned {count} for {len(requests)} requests")
    for index, sample in enumerate(samples):
        if not isinstance(sample, Sample):
            raise TypeError(f"sample {index} is {type(sample).__name__}, not Sample")
        if len(sample.token_ids) != len(sample.log_probs) or not sample.token_ids:
            raise ValueError(
                f"sample {index} has {len(sample.token_ids)} token ids and {len(sample.log_probs)} log-probs: "
                "return one log-prob for each of one or more tokens"
            )
        if sample.kept is not None and len(sample.kept) != len(sample.token_ids):
            raise ValueError(
                f"sample {index} has {len(sample.token_ids)} token ids and {len(sample.kept)} lists of kept tokens: "
                "return one list for each token"
            )

"""Prefetches the samples of the next step while this step trains: `rollout.async: one_step`.

The samples do not depend on timing: the weights are synced once the samples are complete, so all of them come from the
policy before the update. If a server is lost meanwhile, the batch is sampled after the update instead.
"""

import threading
from collections.abc import Callable
from concurrent.futures import Future

from skyrl_train.rollout.weights import GuardedWeights, WeightsUpdatingError
from skyrl_train.step.rollout import PendingRollout, RolloutCollector


class Prefetcher:
    """Samples at most one batch ahead of the one that trains. All methods are collective."""

    def __init__(self, collector: RolloutCollector, weights: GuardedWeights, message: Callable[[str], None]) -> None:
        """``weights`` are those that the rollout engine receives; they cannot be read during a prefetch."""
        self._collector = collector
        self._weights = weights
        self._message = message
        self._running: Future[PendingRollout] | None = None
        self._ready: PendingRollout | None = None

    def samples(self, step: int, position: int, temperature: float) -> PendingRollout:
        """The samples of this step, from this position in the data: prefetched, or sampled now."""
        ready, self._ready = self._ready, None
        return ready if ready is not None else self._collector.sample(step, position, temperature)

    def start(self, step: int, position: int, temperature: float) -> None:
        """Start sampling for this step, while the caller trains."""
        running: Future[PendingRollout] = Future()

        def sample() -> None:
            try:
                running.set_result(self._collector.sample(step, position, temperature))
            except BaseException as error:  # noqa: BLE001 - `wait` raises any error in the main thread
                running.set_exception(error)

        self._running = running
        self._weights.updating = True
        # A daemon: a run that fails does not wait for samples that it will not use.
        threading.Thread(target=sample, name="skyrl-prefetch", daemon=True).start()

    def wait(self) -> None:
        """Wait for the prefetched samples, if any, and raise the error of the thread."""
        if self._running is None:
            return
        running, self._running = self._running, None
        try:
            self._ready = running.result()
        except WeightsUpdatingError:
            self._message("a rollout server was lost during the prefetch: this batch is sampled after the update")
        finally:
            self._weights.updating = False

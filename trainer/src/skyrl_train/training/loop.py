"""The training loop: sample and reward, update, sync weights, log, evaluate, save."""

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import torch

from skyrl_core.errors import SkyrlError
from skyrl_core.parameters import number_at
from skyrl_train.checkpoints.background_save import BackgroundSave
from skyrl_train.config.schema import RunConfig
from skyrl_train.machine.threads import ThreadGuard
from skyrl_train.ranks.ranks import Ranks
from skyrl_train.ranks.stopping import Interrupted, StopRequest
from skyrl_train.record.journal import Journal
from skyrl_train.record.progress import Progress
from skyrl_train.rollout.rollout_engine import Sampling
from skyrl_train.step.advantages import AdvantagePass
from skyrl_train.step.batching import MicroBatchSize, minibatch_of_group
from skyrl_train.step.evaluation_sets import EvaluationSets
from skyrl_train.step.experience import Experience
from skyrl_train.step.learning_rate import learning_rate
from skyrl_train.step.log_prob_pass import Forward, compute_log_probs
from skyrl_train.step.objective import Objective
from skyrl_train.step.prefetch import Prefetcher
from skyrl_train.step.rollout import Rollout, RolloutCollector
from skyrl_train.step.update import NonFiniteError, PolicyUpdate, UpdateLog, summarise
from skyrl_train.step.weight_sync import WeightSync
from skyrl_train.trainer_engine.reference_model import Reference
from skyrl_train.trainer_engine.zero import ZeroEngine
from skyrl_train.training.learning_signal import ROUNDING, SignalWatch

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class TrainerComponents:
    """The components of a trainer, the same on every rank; the journal does nothing on ranks other than 0."""

    config: RunConfig
    ranks: Ranks
    engine: ZeroEngine
    sync: WeightSync
    objective: Objective
    update: PolicyUpdate
    collector: RolloutCollector
    prefetcher: Prefetcher
    advantages: AdvantagePass
    evaluator: EvaluationSets | None
    reference: Reference | None
    journal: Journal
    stop: StopRequest
    pad_id: int
    micro_batch_size: MicroBatchSize
    threads: ThreadGuard | None  # only on a CPU, if the number of threads was measured
    saves: BackgroundSave

    def set_temperature(self, temperature: float) -> None:
        """Compute log-probs at this temperature from now on, that of the samples."""
        self.engine.policy.temperature = temperature
        if self.reference is not None:
            self.reference.temperature = temperature


@dataclass
class _Clock:
    """Seconds spent in each phase of a step."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        started = time.perf_counter()
        yield
        self.seconds[f"time/{name}"] = self.seconds.get(f"time/{name}", 0.0) + time.perf_counter() - started


class Trainer:
    """Trains from ``progress`` to the last step."""

    def __init__(self, components: TrainerComponents, progress: Progress) -> None:
        self.components = components
        self.progress = progress
        self._saved = progress.step  # the step of the latest checkpoint, complete or being written
        self._signal = SignalWatch()
        self._complete = progress, 0  # the progress after the last complete step, and the engine's updates then

    def train(self) -> None:
        """Make every remaining step, with evaluations and checkpoints when they are due."""
        components, config = self.components, self.components.config
        self._start_rollout_engine()
        if not components.ranks.broadcast(components.journal.restore_evaluation(final=self._is_last)):
            self._evaluate_if_due()
        components.stop.wait_for_steps()
        with self._saved_on_error():
            while not self._is_last:
                components.saves.poll()
                self._stop_if_asked()
                self._train_step()
                if self._is_last or _due(self.progress.step, config.checkpoint.every):
                    self._save()
                if self._is_last:
                    components.saves.wait()  # the trained model is on disk before anything else can fail
                self._evaluate_if_due()
        components.saves.wait()

    @property
    def _is_last(self) -> bool:
        return self.progress.step == self.components.config.trainer.steps

    def _evaluate_if_due(self) -> None:
        step, evaluator, every = self.progress.step, self.components.evaluator, self.components.config.evaluation.every
        if evaluator is not None and (step == 0 or self._is_last or _due(step, every)):
            evaluation = evaluator.evaluate()
            self._on_rank_0(lambda: self.components.journal.evaluation(step, evaluation, final=self._is_last))

    def _on_rank_0(self, record: Callable[[], None]) -> None:
        """Record something, which only rank 0 does; if that fails, all ranks stop with the error. Collective."""
        self.components.ranks.together(record)

    @contextmanager
    def _saved_on_error(self) -> Iterator[None]:
        """If an error ends the run between two steps, save the steps done, as a stop does."""
        try:
            yield
        except Exception as error:
            self.progress, updates = self._complete
            intact = self.components.engine.updates == updates and not isinstance(error, NonFiniteError)
            if intact and self.components.ranks.can_continue_after(error):
                self._save_last()
            raise

    def _save_last(self) -> None:
        try:
            if self.components.config.checkpoint.on_stop and self.progress.step > self._saved:
                self._save()
            self.components.saves.wait()
        except SkyrlError as problem:  # the error that ended the run comes first
            logger.warning("the last checkpoint could not be written: %s", problem)

    def _start_rollout_engine(self) -> None:
        """Make the first weight sync, and check that the rollout engine agrees with the trainer. Collective."""
        config, done = self.components.config, self.progress.optimizer_steps
        sampling = Sampling.for_training(config, number_at(config.rollout.temperature, done))
        agreement = self.components.sync.start(done, sampling)
        if agreement is not None:
            self.components.journal.message(agreement)

    def _stop_if_asked(self) -> None:
        """Save and stop if any rank received a stop signal. Collective.

        Raises:
            Interrupted: a rank received a stop signal, and all ranks have finished the same step.
        """
        asked = self.components.stop.agreed()
        if asked is None:
            return
        if self.components.config.checkpoint.on_stop and self.progress.step > self._saved:
            self._save()
        self.components.saves.wait()
        raise Interrupted(asked, agreed=True)

    def _save(self) -> None:
        """Start a checkpoint of the steps done; training continues while it is written."""
        self.components.saves.start(self.progress)
        self._saved = self.progress.step

    def _train_step(self) -> None:
        components, clock, started = self.components, _Clock(), time.perf_counter()
        temperature = number_at(components.config.rollout.temperature, self.progress.optimizer_steps)
        components.set_temperature(temperature)
        scheduled = self._scheduled_values(temperature)
        with clock.phase("rollout"):
            rollout = self._rollout(temperature)
        self._prefetch()
        with clock.phase("score"):
            experience = self._with_log_probs(rollout.experience)
            experience, penalty = self._with_advantages(experience)
        rollout = replace(rollout, experience=experience)
        try:
            with clock.phase("update"):
                logs, rate = self._update(experience)
        except SkyrlError:
            components.journal.rollout(self.progress.step + 1, rollout)  # the batch that made it fail
            raise
        metrics = rollout.metrics | penalty | scheduled | summarise(logs, components.ranks)
        metrics |= {"grad_norm": sum(log.grad_norm for log in logs) / len(logs), "learning_rate": rate}
        self._complete_step()
        try:
            with clock.phase("rollout"):
                components.prefetcher.wait()
            with clock.phase("sync"):
                metrics |= components.sync.update(self.progress.optimizer_steps)
        except Exception:
            self._record_step(rollout, metrics, clock, started)  # the step is done although the rollout engine is lost
            raise
        self._on_rank_0(lambda: self._record_step(rollout, metrics, clock, started))

    def _complete_step(self) -> None:
        loss_state = self.components.objective.loss.state(self.progress.optimizer_steps - 1)
        progress, prompts = self.progress, self._next_position
        self.progress = replace(progress, step=progress.step + 1, prompts=prompts, loss_state=loss_state)
        self._complete = self.progress, self.components.engine.updates

    def _record_step(self, rollout: Rollout, metrics: dict[str, float], clock: _Clock, started: float) -> None:
        components, step, seconds = self.components, self.progress.step, time.perf_counter() - started
        components.journal.rollout(step, rollout)
        tokens = metrics.pop("tokens")
        times = clock.seconds | {"time/step": seconds, "tokens_per_second": tokens / seconds}
        components.journal.step(step, metrics | times)
        undisturbed = not components.saves.is_writing  # a save slows steps, too
        if components.threads is not None and undisturbed and components.threads.record_step(seconds):
            components.journal.message("a step took several times as long as the others: continuing with 1 thread")

    @property
    def _position(self) -> int:
        """The position of this step's first prompt in the data."""
        prompts, config = self.progress.prompts, self.components.config.trainer
        return self.progress.step * config.prompts_per_step if prompts is None else prompts

    @property
    def _next_position(self) -> int:
        return self._position + self.components.config.trainer.prompts_per_step

    def _rollout(self, temperature: float) -> Rollout:
        components = self.components
        pending = components.prefetcher.samples(self.progress.step, self._position, temperature)
        rollout = components.collector.reward(pending, self.progress.optimizer_steps)
        if rollout.errors:
            count, step, first = len(rollout.errors), self.progress.step + 1, rollout.errors[0]
            components.journal.message(f"{count} rewards could not be computed in step {step}; first error: {first}")
        return rollout

    def _prefetch(self) -> None:
        """Start sampling for the next step, if configured. A checkpoint never contains prefetched samples."""
        config, done = self.components.config, self.progress.step + 1
        last = done == config.trainer.steps or _due(done, config.checkpoint.every)
        if config.rollout.async_ == "one_step" and not last:
            first = self.progress.optimizer_steps + config.trainer.minibatches * config.trainer.epochs
            self.components.prefetcher.start(done, self._next_position, number_at(config.rollout.temperature, first))

    def _with_log_probs(self, experience: Experience) -> Experience:
        components, trainer = self.components, self.components.config.trainer
        several = trainer.minibatches * trainer.epochs > 1
        if (components.objective.needs_old_log_probs and several) or components.objective.old_log_probs_before_update:
            old = self._log_probs(lambda s, entropy: components.engine.forward(s, with_entropy=entropy), experience)
            experience = replace(experience, old_log_probs=old)
        if components.reference is not None:
            experience = replace(experience, ref_log_probs=self._log_probs(components.reference.log_probs, experience))
        return experience

    def _with_advantages(self, experience: Experience) -> tuple[Experience, dict[str, float]]:
        components, step = self.components, self.progress.step + 1
        coef = number_at(components.objective.kl_reward_coef, self.progress.optimizer_steps)
        experience, logged = components.advantages.estimate(experience, coef, f"step {step}")
        own = torch.tensor(float((experience.advantages.abs() > ROUNDING).any()))
        has_signal, last = bool(components.ranks.max(own)), step == components.config.trainer.steps
        message = self._signal.step(has_signal=has_signal, last=last)
        if message is not None and not components.objective.loss.loss.ignores_advantages:
            components.journal.message(message)
        return experience, logged

    def _scheduled_values(self, temperature: float) -> dict[str, float]:
        """The values of all schedules at the first optimizer step of this training step."""
        values = self.components.objective.scheduled_values(self.progress.optimizer_steps)
        scheduled = not isinstance(self.components.config.rollout.temperature, float)
        return values | ({"schedule/temperature": temperature} if scheduled else {})

    def _log_probs(self, forward: Forward, experience: Experience) -> torch.Tensor:
        ranks, size, pad_id = self.components.ranks, self.components.micro_batch_size, self.components.pad_id
        return compute_log_probs(forward, experience, micro_batch_size=size, ranks=ranks, pad_id=pad_id)[0]

    def _update(self, experience: Experience) -> tuple[list[UpdateLog], float]:
        components, trainer = self.components, self.components.config.trainer
        num_groups, count = trainer.prompts_per_step, trainer.minibatches
        number = torch.tensor(
            [minibatch_of_group(group, num_groups, count) for group in range(num_groups)],
            device=experience.groups.device,
        )[experience.groups]
        total = trainer.steps * count * trainer.epochs
        logs, rate = [], 0.0
        for _ in range(trainer.epochs):
            for minibatch in range(count):
                step = self.progress.optimizer_steps
                rate = learning_rate(trainer.optimizer, step, total)
                part = experience.select((number == minibatch).nonzero().squeeze(-1))
                logs.append(components.update.step(part, num_groups=num_groups, learning_rate=rate, step=step))
                self.progress = replace(self.progress, optimizer_steps=step + 1)
        return logs, rate


def _due(step: int, every: int) -> bool:
    return every > 0 and step % every == 0

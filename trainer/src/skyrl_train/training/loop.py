"""The training loop: collect, update, sync, log, evaluate, save."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import torch

from skyrl_core.errors import SkyrlError
from skyrl_core.parameters import number_at
from skyrl_train.checkpoints.background_save import BackgroundSave
from skyrl_train.config.schema import RunConfig
from skyrl_train.machine.threads import ThreadGuard
from skyrl_train.ranks.interruption import Interrupted
from skyrl_train.ranks.ranks import Ranks
from skyrl_train.ranks.stopping import StopRequest
from skyrl_train.record.journal import Journal
from skyrl_train.record.progress import Progress
from skyrl_train.step.advantages import AdvantagePass
from skyrl_train.step.batching import MicroBatchSize, minibatch_of_group
from skyrl_train.step.evaluation import Evaluator
from skyrl_train.step.experience import Experience
from skyrl_train.step.learning_rate import learning_rate
from skyrl_train.step.log_prob_pass import Forward, score
from skyrl_train.step.objective import Objective
from skyrl_train.step.prefetch import DrawAhead
from skyrl_train.step.rollout import Collector, Rollout
from skyrl_train.step.update import PolicyUpdate, UpdateLog, summarise
from skyrl_train.step.weight_sync import WeightSync
from skyrl_train.trainer_engine.reference_model import Reference
from skyrl_train.trainer_engine.zero import ZeroEngine


@dataclass(frozen=True, kw_only=True)
class Parts:
    """What the trainer works with. The same on every rank, but for the journal, which is silent off rank 0."""

    config: RunConfig
    ranks: Ranks
    engine: ZeroEngine
    sync: WeightSync
    objective: Objective
    update: PolicyUpdate
    collector: Collector
    ahead: DrawAhead
    advantages: AdvantagePass
    evaluator: Evaluator | None
    reference: Reference | None
    journal: Journal
    stop: StopRequest
    pad_id: int
    micro_batch_size: MicroBatchSize
    threads: ThreadGuard | None  # on a CPU, if the number of threads was measured
    saves: BackgroundSave

    def set_temperature(self, temperature: float) -> None:
        """Log-probs from now on are those of the distribution at this temperature, as the samples are."""
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

    def __init__(self, parts: Parts, progress: Progress) -> None:
        self.parts = parts
        self.progress = progress
        self._saved = progress.step  # what the latest checkpoint holds, or will

    def train(self) -> None:
        """Every remaining step, with evaluations and checkpoints when they are due."""
        parts, config = self.parts, self.parts.config
        parts.sync.start(self.progress.optimizer_steps)
        if parts.evaluator is not None and self.progress.step == 0:
            parts.journal.evaluation(0, parts.evaluator.evaluate(), final=False)
        if self.progress.step == config.trainer.steps:
            parts.journal.recall_end()
        parts.stop.wait_for_steps()
        while self.progress.step < config.trainer.steps:
            parts.saves.settle()
            self._stop_if_asked()
            metrics = self._train_step()
            self.progress = replace(self.progress, step=self.progress.step + 1, prompts=self._next_position)
            parts.journal.step(self.progress.step, metrics)
            quiet = not parts.saves.is_writing  # a step beside a thread that writes tells nothing about other work
            if parts.threads is not None and quiet and parts.threads.stepped(metrics["time/step"]):
                parts.journal.message("a step took several times as long as the others: going on with one thread")
            done = self.progress.step == config.trainer.steps
            if parts.evaluator is not None and (done or _due(self.progress.step, config.evaluation.every)):
                parts.journal.evaluation(self.progress.step, parts.evaluator.evaluate(), final=done)
            if done or _due(self.progress.step, config.checkpoint.every):
                self._save()
        parts.saves.wait()

    def _stop_if_asked(self) -> None:
        """Collective.

        Raises:
            Interrupted: one of the ranks was asked to stop, and all of them have finished the same step.
        """
        asked = self.parts.stop.agreed()
        if asked is None:
            return
        if self.parts.config.checkpoint.on_stop and self.progress.step > self._saved:
            self._save()
        self.parts.saves.wait()
        raise Interrupted(asked, agreed=True)

    def _save(self) -> None:
        """Begin a checkpoint of the steps done; training goes on while it is written."""
        loss_state = dict(self.parts.objective.loss.loss.state_dict())  # the loss may go on with its own
        self.parts.saves.start(replace(self.progress, loss_state=loss_state))
        self._saved = self.progress.step

    def _train_step(self) -> dict[str, float]:
        parts, clock, started = self.parts, _Clock(), time.perf_counter()
        parts.set_temperature(temperature := number_at(parts.config.rollout.temperature, self.progress.optimizer_steps))
        scheduled = self._numbers(temperature)
        with clock.phase("rollout"):
            rollout = self._rollout(temperature)
        self._draw_ahead()
        with clock.phase("score"):
            experience = self._scored(rollout.experience)
            experience, penalty = self._with_advantages(experience)
        drawn = replace(rollout, experience=experience)
        try:
            with clock.phase("update"):
                logs, rate = self._update(experience)
        except SkyrlError:
            parts.journal.rollout(self.progress.step + 1, drawn)  # what it failed on
            raise
        with clock.phase("rollout"):
            parts.ahead.wait()
        with clock.phase("sync"):
            probe = parts.sync.update(self.progress.optimizer_steps)
        parts.journal.rollout(self.progress.step + 1, drawn)
        metrics = dict(rollout.metrics)
        tokens = metrics.pop("tokens")
        metrics |= penalty | scheduled | summarise(logs, parts.ranks) | probe | clock.seconds
        seconds = time.perf_counter() - started
        return metrics | {
            "grad_norm": sum(log.grad_norm for log in logs) / len(logs),
            "learning_rate": rate,
            "time/step": seconds,
            "tokens_per_second": tokens / seconds,
        }

    @property
    def _position(self) -> int:
        """Of this step's first prompt in the data."""
        prompts, config = self.progress.prompts, self.parts.config.trainer
        return self.progress.step * config.prompts_per_step if prompts is None else prompts

    @property
    def _next_position(self) -> int:
        return self._position + self.parts.config.trainer.prompts_per_step

    def _rollout(self, temperature: float) -> Rollout:
        parts = self.parts
        drawn = parts.ahead.samples(self.progress.step, self._position, temperature)
        rollout = parts.collector.reward(drawn, self.progress.optimizer_steps)
        if rollout.errors:
            count = len(rollout.errors)
            parts.journal.message(f"{count} rewards of this step could not be had; the first: {rollout.errors[0]}")
        return rollout

    def _draw_ahead(self) -> None:
        """Begin with the next step's samples, if asked to. Not before a checkpoint: a resumed run must be the same."""
        config, done = self.parts.config, self.progress.step + 1
        last = done == config.trainer.steps or _due(done, config.checkpoint.every)
        if config.rollout.async_ == "one_step" and not last:
            first = self.progress.optimizer_steps + config.trainer.minibatches * config.trainer.epochs
            self.parts.ahead.start(done, self._next_position, number_at(config.rollout.temperature, first))

    def _scored(self, experience: Experience) -> Experience:
        parts, trainer = self.parts, self.parts.config.trainer
        several = trainer.minibatches * trainer.epochs > 1
        if (parts.objective.needs_old_log_probs and several) or parts.objective.old_log_probs_before_update:
            old = self._score(lambda s, entropy: parts.engine.forward(s, with_entropy=entropy), experience)
            experience = replace(experience, old_log_probs=old)
        if parts.reference is not None:
            experience = replace(experience, ref_log_probs=self._score(parts.reference.score, experience))
        return experience

    def _with_advantages(self, experience: Experience) -> tuple[Experience, dict[str, float]]:
        coef = number_at(self.parts.objective.kl_reward_coef, self.progress.optimizer_steps)
        return self.parts.advantages.estimate(experience, coef)

    def _numbers(self, temperature: float) -> dict[str, float]:
        """What schedules decide at the first optimizer step of this training step."""
        numbers = self.parts.objective.numbers(self.progress.optimizer_steps)
        scheduled = not isinstance(self.parts.config.rollout.temperature, float)
        return numbers | ({"schedule/temperature": temperature} if scheduled else {})

    def _score(self, forward: Forward, experience: Experience) -> torch.Tensor:
        parts, size = self.parts, self.parts.micro_batch_size
        return score(forward, experience, micro_batch_size=size, ranks=parts.ranks, pad_id=parts.pad_id)[0]

    def _update(self, experience: Experience) -> tuple[list[UpdateLog], float]:
        parts, trainer = self.parts, self.parts.config.trainer
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
                rows = (number == minibatch).nonzero().squeeze(-1)
                logs.append(
                    parts.update.step(experience.select(rows), num_groups=num_groups, learning_rate=rate, step=step)
                )
                self.progress = replace(self.progress, optimizer_steps=step + 1)
        return logs, rate


def _due(step: int, every: int) -> bool:
    return every > 0 and step % every == 0

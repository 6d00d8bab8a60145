"""Makes one optimizer step: token weights from the counts of all ranks, forward, backward, update."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from skyrl_core.contract import BatchCounts, Kind, LossBatch, Metric, Need, count_batch, merge, token_weights
from skyrl_core.errors import SkyrlError
from skyrl_train.ranks.ranks import Ranks
from skyrl_train.step.batch_statistics import BatchStatistics, prepare
from skyrl_train.step.batching import MicroBatch, MicroBatchSize, micro_batches
from skyrl_train.step.experience import Experience
from skyrl_train.step.log_prob_pass import compute_log_probs
from skyrl_train.step.objective import Objective
from skyrl_train.step.skip_zero_advantages import learning_rows
from skyrl_train.trainer_engine.zero import ZeroEngine

LARGEST_CHANGE = 1.25
"""Factor by which one optimizer step may change the norm of the weights. AdamW would need a learning rate above their
typical size, and would leave little of the model."""


@dataclass
class UpdateLog:
    """Measurements of one optimizer step on this rank. Totals are added over micro-batches; metrics merge."""

    totals: dict[str, Tensor] = field(default_factory=dict)
    metrics: dict[str, list[Metric]] = field(default_factory=dict)
    grad_norm: float = 0.0

    def add(self, totals: Mapping[str, Tensor], metrics: Mapping[str, Metric]) -> None:
        """Add the measurements of one micro-batch."""
        for name, value in totals.items():
            self.totals[name] = self.totals.get(name, torch.zeros_like(value)) + value
        for name, metric in metrics.items():
            self.metrics.setdefault(name, []).append(metric)


class NonFiniteError(SkyrlError):
    """Loss, gradient or update is infinite, NaN or absurd. Weights may be damaged already, so they are not saved."""


class PolicyUpdate:
    """Makes optimizer steps. The gradient does not depend on micro-batch size, ranks or ZeRO stage."""

    def __init__(
        self, engine: ZeroEngine, objective: Objective, ranks: Ranks, *, micro_batch_size: MicroBatchSize, pad_id: int
    ) -> None:
        self._engine = engine
        self._objective = objective
        self._ranks = ranks
        self._size = micro_batch_size
        self._pad_id = pad_id
        self._weight_norm: float | None = None  # after the latest step

    def step(self, minibatch: Experience, *, num_groups: int, learning_rate: float, step: int) -> UpdateLog:
        """Make one optimizer step on this rank's part of a minibatch, unless no rank has a sequence. Collective.

        Args:
            minibatch: complete groups; a rank may have none.
            num_groups: prompts in the training step; group numbers are below it.
            learning_rate: learning rate of this step.
            step: number of the optimizer step, which the loss can read.
        """
        log = UpdateLog()
        counts = self._global_counts(minibatch, num_groups)
        if not int(counts.sequences):
            return log  # no sample of this minibatch has a verdict
        weights = token_weights(
            minibatch.mask,
            self._objective.reduction,
            counts,
            groups=minibatch.groups,
            max_length=self._objective.max_length,
        )
        prepared = self._prepare(minibatch, step)
        parts = self._parts(minibatch, log)
        for number, micro in enumerate(parts):
            width = micro.experience.mask.shape[1]
            # A filler's mask is all False, so its weights must be zero.
            own = torch.zeros_like(micro.experience.advantages) if micro.is_filler else weights[micro.rows, :width]
            total = self._evaluate(micro, own, counts, prepared.part(micro), step, log)
            # DeepSpeed averages over ranks, but the weights already divide by the counts of all ranks.
            self._engine.backward(total * self._ranks.world_size, last=number == len(parts) - 1)
        self._check_finite("loss", float(self._ranks.sum(log.totals["loss/total"])), step)
        before = self._engine.weight_norm() if self._weight_norm is None else self._weight_norm
        log.grad_norm = self._engine.step(learning_rate)
        self._check_finite("gradient", log.grad_norm, step)
        self._weight_norm = self._engine.weight_norm()
        _check_weights(before, self._weight_norm, learning_rate, step)
        self._adapt_loss(log, step)
        return log

    def _parts(self, minibatch: Experience, log: UpdateLog) -> list[MicroBatch]:
        rows = None
        if self._objective.skip_zero_advantages:
            learns = learning_rows(minibatch)
            rows = learns.nonzero().squeeze(-1)
            log.add({}, {"skipped_sequences": Metric.mean(~learns, torch.ones_like(learns))})
        # If no rank has a row to train on, a filler gives the zero gradient, with which AdamW's moments still decay.
        return micro_batches(minibatch, self._size, self._ranks, pad_id=self._pad_id, rows=rows, at_least=1)

    def _adapt_loss(self, log: UpdateLog, step: int) -> None:
        """Pass the step's metrics to a loss that adapts to them. Collective for such a loss."""
        if self._objective.loss.adapts(step):
            self._objective.loss.after_step(summarise([log], self._ranks), step)

    def _check_finite(self, what: str, value: float, step: int) -> None:
        # Every rank sees the same value, so all ranks stop before a checkpoint could save the damage.
        if not math.isfinite(value):
            loss = self._objective.loss.loss
            name = loss.name or type(loss).__name__
            raise NonFiniteError(
                f"the {what} of optimizer step {step + 1} is {value}: the loss {name} gives values that are not finite "
                "on this batch, or the learning rate is too high; checkpoints are unchanged. Inspect the batch in "
                f"rollouts/ of the run folder, or run `skyrl losses check {name}` to try the loss on extreme batches"
            )

    def _evaluate(
        self,
        micro: MicroBatch,
        weights: Tensor,
        counts: BatchCounts,
        prepared: Mapping[str, Tensor],
        step: int,
        log: UpdateLog,
    ) -> Tensor:
        experience = micro.experience
        log_probs, entropy = self._engine.forward(experience.sequences, with_entropy=self._objective.needs_entropy)
        inputs = self._inputs(experience, log_probs.detach(), entropy)
        batch = LossBatch(
            log_probs=log_probs,
            advantages=experience.advantages,
            mask=experience.mask,
            inputs=inputs,
            needs=self._objective.needs,
            prepared=prepared,
            step=step,
        )
        token_share = experience.mask.sum() / counts.tokens.clamp(min=1).to(torch.float32)
        output = self._objective.evaluate(batch, inputs, weights, token_share)
        terms = {f"loss/{name}": value for name, value in output.terms.items()}
        log.add({"loss/total": output.total.detach(), **terms}, {} if micro.is_filler else output.metrics)
        return output.total

    def _inputs(self, experience: Experience, log_probs: Tensor, entropy: Tensor | None) -> dict[Need, Tensor | None]:
        # Without old log-probs this is the only optimizer step on the rollout, so the current policy is the old one.
        old = experience.old_log_probs if experience.old_log_probs is not None else log_probs
        return {
            Need.OLD_LOG_PROBS: old,
            Need.ROLLOUT_LOG_PROBS: experience.rollout_log_probs,
            Need.REF_LOG_PROBS: experience.ref_log_probs,
            Need.ENTROPY: entropy,
            Need.GROUPS: experience.groups,
        }

    def _prepare(self, minibatch: Experience, step: int) -> BatchStatistics:
        if not self._objective.needs_preparation:
            return BatchStatistics()
        log_probs, entropy = compute_log_probs(
            lambda sequences, with_entropy: self._engine.forward(sequences, with_entropy=with_entropy),
            minibatch,
            micro_batch_size=self._size,
            ranks=self._ranks,
            pad_id=self._pad_id,
            with_entropy=self._objective.needs_entropy,
        )
        inputs = self._inputs(minibatch, log_probs, entropy)
        return prepare(self._objective, minibatch, inputs, log_probs, self._ranks, step=step)

    def _global_counts(self, minibatch: Experience, num_groups: int) -> BatchCounts:
        own = count_batch(minibatch.mask, minibatch.groups, num_groups=num_groups)
        summed = self._ranks.sum(torch.cat([own.tokens[None], own.sequences[None], own.group_tokens]))
        return BatchCounts(tokens=summed[0], sequences=summed[1], group_tokens=summed[2:])


def _check_weights(before: float, after: float, learning_rate: float, step: int) -> None:
    """Stop before a checkpoint could save a model that the step destroyed; every rank sees the same norms.

    Raises:
        NonFiniteError: the norm of the weights is not finite, or a multiple or a small part of what it was.
    """
    if before and not before / LARGEST_CHANGE <= after <= before * LARGEST_CHANGE:
        raise NonFiniteError(
            f"optimizer step {step + 1} changed the norm of the trained weights from {before:.4g} to {after:.4g}, with "
            f"a learning rate of {learning_rate:g}: AdamW moves every weight by about the learning rate, and by weight "
            "decay; checkpoints are unchanged. Lower trainer.optimizer.learning_rate or "
            "trainer.optimizer.weight_decay, or set trainer.optimizer.warmup_steps"
        )


def summarise(logs: list[UpdateLog], ranks: Ranks) -> dict[str, float]:
    """The metrics of several optimizer steps over all ranks; totals are means over steps. Collective."""
    totals: dict[str, float] = {}
    metrics: dict[str, list[Metric]] = {}
    for rank_totals, rank_metrics in ranks.gather((_rank_totals(logs), _rank_metrics(logs))):
        for name, value in rank_totals.items():
            totals[name] = totals.get(name, 0.0) + value
        for name, (kind, total, count) in rank_metrics.items():
            metric = Metric(kind=kind, total=torch.tensor(total), count=torch.tensor(count))
            metrics.setdefault(name, []).append(metric)
    return totals | {name: merge(parts).result() for name, parts in sorted(metrics.items())}


def _rank_totals(logs: list[UpdateLog]) -> dict[str, float]:
    names = sorted({name for log in logs for name in log.totals})
    made = [log for log in logs if log.totals]  # a minibatch without a verdict has none, on every rank
    return {name: sum(float(log.totals[name]) for log in made if name in log.totals) / len(made) for name in names}


def _rank_metrics(logs: list[UpdateLog]) -> dict[str, tuple[Kind, float, float]]:
    metrics = {}
    for name in sorted({name for log in logs for name in log.metrics}):
        merged = merge(part for log in logs for part in log.metrics.get(name, []))
        metrics[name] = (merged.kind, float(merged.total), float(merged.count))
    return metrics

"""One optimizer step: counts of all ranks, weights, micro-batches forward and backward, the step itself."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from skyrl_core.contract import BatchCounts, Kind, LossBatch, Metric, Need, count_batch, merge, token_weights
from skyrl_core.errors import SkyrlError
from skyrl_train.ranks.ranks import Ranks
from skyrl_train.step.batch_statistics import Prepared, prepare
from skyrl_train.step.batching import MicroBatch, MicroBatchSize, micro_batches
from skyrl_train.step.experience import Experience
from skyrl_train.step.log_prob_pass import score
from skyrl_train.step.objective import Objective
from skyrl_train.step.skip_zero_advantages import learning_rows
from skyrl_train.trainer_engine.zero import ZeroEngine


@dataclass
class UpdateLog:
    """What one optimizer step measured on this rank: totals add up over micro-batches and ranks, metrics merge."""

    totals: dict[str, Tensor] = field(default_factory=dict)
    metrics: dict[str, list[Metric]] = field(default_factory=dict)
    grad_norm: float = 0.0

    def add(self, totals: Mapping[str, Tensor], metrics: Mapping[str, Metric]) -> None:
        """One micro-batch more."""
        for name, value in totals.items():
            self.totals[name] = self.totals.get(name, torch.zeros_like(value)) + value
        for name, metric in metrics.items():
            self.metrics.setdefault(name, []).append(metric)


class PolicyUpdate:
    """Makes optimizer steps on minibatches. The gradient depends on neither micro-batch size nor ranks nor stage."""

    def __init__(
        self, engine: ZeroEngine, objective: Objective, ranks: Ranks, *, micro_batch_size: MicroBatchSize, pad_id: int
    ) -> None:
        self._engine = engine
        self._objective = objective
        self._ranks = ranks
        self._size = micro_batch_size
        self._pad_id = pad_id

    def step(self, minibatch: Experience, *, num_groups: int, learning_rate: float, step: int) -> UpdateLog:
        """One optimizer step on this rank's part of a minibatch. All ranks call it together.

        Args:
            minibatch: whole groups; a rank may have none.
            num_groups: prompts in the training step; group numbers lie below it.
            learning_rate: of this step.
            step: number of the optimizer step, which the loss can read.
        """
        log = UpdateLog()
        counts = self._global_counts(minibatch, num_groups)
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
            # A filler's mask is all False: its weights are zero whatever they hold.
            own = torch.zeros_like(micro.experience.advantages) if micro.is_filler else weights[micro.rows, :width]
            total = self._evaluate(micro, own, counts, prepared.part(micro), step, log)
            # DeepSpeed averages over ranks; the weights already divide by what all of them hold.
            self._engine.backward(total * self._ranks.world_size, last=number == len(parts) - 1)
        self._check_finite("loss", float(self._ranks.sum(log.totals["loss/total"])), step)
        log.grad_norm = self._engine.step(learning_rate)
        self._check_finite("gradient", log.grad_norm, step)
        self._tell_loss(log, step)
        return log

    def _parts(self, minibatch: Experience, log: UpdateLog) -> list[MicroBatch]:
        rows = None
        if self._objective.skip_zero_advantages:
            learns = learning_rows(minibatch)
            rows = learns.nonzero().squeeze(-1)
            log.add({}, {"skipped_sequences": Metric.mean(~learns, torch.ones_like(learns))})
        # Where no rank has a row that learns, a filler brings the gradient of zero that AdamW's moments decay by.
        return micro_batches(minibatch, self._size, self._ranks, pad_id=self._pad_id, rows=rows, at_least=1)

    def _tell_loss(self, log: UpdateLog, step: int) -> None:
        """What the step measured, to a loss that adapts to it. Collective where the loss does."""
        loss = self._objective.loss.at(step)
        if loss.adapts:
            loss.after_step(summarise([log], self._ranks))

    def _check_finite(self, what: str, value: float, step: int) -> None:
        # Every rank sees the same value, so all of them stop, and before a checkpoint could keep the damage.
        if not math.isfinite(value):
            loss = self._objective.loss.loss
            name = loss.name or type(loss).__name__
            raise SkyrlError(
                f"the {what} of optimizer step {step + 1} is {value}: the loss {name} gives values that are not finite "
                "on this batch, or the learning rate is too high; checkpoints are as before. The batch is in the run "
                f"folder, in rollouts/; `skyrl losses check {name}` tries the loss on extreme ones"
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
        # One optimizer step follows the rollout: the old policy is the one that is being updated.
        old = experience.old_log_probs if experience.old_log_probs is not None else log_probs
        return {
            Need.OLD_LOG_PROBS: old,
            Need.ROLLOUT_LOG_PROBS: experience.rollout_log_probs,
            Need.REF_LOG_PROBS: experience.ref_log_probs,
            Need.ENTROPY: entropy,
            Need.GROUPS: experience.groups,
        }

    def _prepare(self, minibatch: Experience, step: int) -> Prepared:
        if not self._objective.needs_preparation:
            return Prepared()
        log_probs, entropy = score(
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


def summarise(logs: list[UpdateLog], ranks: Ranks) -> dict[str, float]:
    """The metrics of several optimizer steps over all ranks, as numbers; totals are means over steps. Collective."""
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
    return {name: sum(float(log.totals[name]) for log in logs if name in log.totals) / len(logs) for name in names}


def _rank_metrics(logs: list[UpdateLog]) -> dict[str, tuple[Kind, float, float]]:
    metrics = {}
    for name in sorted({name for log in logs for name in log.metrics}):
        merged = merge(part for log in logs for part in log.metrics.get(name, []))
        metrics[name] = (merged.kind, float(merged.total), float(merged.count))
    return metrics

"""One evaluation of a loss on an example batch, value and gradient, as a trainer does it."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from skyrl_core.conformance.batches import ExampleBatch
from skyrl_core.contract.loss_value import evaluate_loss
from skyrl_core.contract.metric import Metric, merge
from skyrl_core.contract.policy_loss import LossBatch, Need, PolicyLoss, prepared_by
from skyrl_core.contract.prepared import Prepared
from skyrl_core.contract.reduction import count_batch, token_weights

# L of sequence_sum_norm: any constant of at least the longest example.
MAX_LENGTH = 16

# float32 rounding of a sum over a few dozen tokens, with a margin; a broken rule differs by far more.
RELATIVE, ABSOLUTE = 1e-5, 1e-6

EMPTY_MICRO_BATCH = torch.zeros(0, dtype=torch.int64)
"""The rows of a micro-batch without any token, which a rank runs if it has fewer micro-batches than others."""

_NEEDS: WeakKeyDictionary[PolicyLoss, frozenset[Need]] = WeakKeyDictionary()


@dataclass(frozen=True, kw_only=True)
class Trial:
    """The loss of a batch, its gradients and its metrics."""

    total: Tensor  # scalar
    gradient: Tensor  # [B, T], of total with respect to log_probs
    entropy_gradient: Tensor  # [B, T], with respect to entropy
    metrics: Mapping[str, Metric] = field(default_factory=dict)  # merged over micro-batches

    @property
    def is_finite(self) -> bool:
        """Whether loss and gradients are finite."""
        return all(bool(t.isfinite().all()) for t in (self.total, self.gradient, self.entropy_gradient))

    def equal(self, other: "Trial") -> bool:
        """Whether loss and gradients are the same, bit for bit."""
        pairs = zip(self._tensors(), other._tensors(), strict=True)
        return all(torch.equal(mine, theirs) for mine, theirs in pairs)

    def take(self, columns: Tensor) -> "Trial":
        """Keep only the gradients of these columns, bool [T]."""
        return replace(self, gradient=self.gradient[:, columns], entropy_gradient=self.entropy_gradient[:, columns])

    def difference(self, other: "Trial", relative: float = RELATIVE) -> str | None:
        """Describe the first difference beyond rounding; None if there is none."""
        if not _same(self.total, other.total, relative):
            return f"the loss is {_number(other.total)} instead of {_number(self.total)}"
        pairs = {
            "log_probs": (self.gradient, other.gradient),
            "entropy": (self.entropy_gradient, other.entropy_gradient),
        }
        for name, (mine, theirs) in pairs.items():
            if not _same(mine, theirs, relative):
                at = divmod(int((mine - theirs).abs().nan_to_num(torch.inf).argmax()), mine.shape[1])
                return f"d loss / d {name}{list(at)} is {_number(theirs[at])} instead of {_number(mine[at])}"
        return None

    def metric_difference(self, other: "Trial") -> str | None:
        """Describe the first metric that differs beyond rounding; None if there is none."""
        for name, metric in self.metrics.items():
            mine, theirs = torch.tensor([metric.result(), other.metrics[name].result()]).nan_to_num(0.0)
            if not _same(mine, theirs, RELATIVE):
                return f"the metric {name} is {_number(theirs)} instead of {_number(mine)}"
        return None

    def logged(self) -> dict[str, float]:
        """Return the metrics that a trainer logs and passes to ``after_step``."""
        return {name: metric.result() for name, metric in self.metrics.items()} | {"loss": float(self.total)}

    def _tensors(self) -> tuple[Tensor, Tensor, Tensor]:
        return self.total, self.gradient, self.entropy_gradient


def run(
    loss: PolicyLoss,
    batch: ExampleBatch,
    parts: Sequence[Tensor] | None = None,
    *,
    seed: int = 0,
    step: int = 0,
    prepared: Prepared | None = None,
    around: Callable[[], AbstractContextManager[object]] = nullcontext,
) -> Trial:
    """Evaluate the loss on the batch, in micro-batches of these rows, each trimmed to its longest sequence.

    Args:
        loss: in either form.
        batch: an entire minibatch.
        parts: rows of each micro-batch, int64 [b]; None evaluates the batch as one, untrimmed.
        seed: of the global generator, so that random numbers in the loss are reproducible.
        step: the number of the optimizer step.
        prepared: the result of the loss's ``prepare``; None calls it.
        around: makes a context in which the loss is called.
    """
    batch = replace(batch, log_probs=_leaf(batch.log_probs), entropy=_leaf(batch.entropy))
    weights = token_weights(
        batch.mask,
        loss.default_reduction,
        count_batch(batch.mask, batch.groups),
        groups=batch.groups,
        max_length=MAX_LENGTH,
        dtype=torch.promote_types(batch.log_probs.dtype, torch.float32),
    )
    if prepared is None:
        prepared = prepare(loss, batch, step=step)
    size, width = batch.mask.shape
    total, metrics = torch.zeros(()), list[Mapping[str, Metric]]()
    for rows in parts or [torch.arange(size)]:
        is_empty = len(rows) == 0
        rows = torch.zeros(1, dtype=torch.int64) if is_empty else rows
        columns = batch.widest(rows) if parts else width
        part = batch.take(rows, columns)
        micro = loss_batch(loss, replace(part, mask=part.mask & (not is_empty)), step=step)
        micro.prepared = prepared.part(rows, columns)
        share = float(micro.mask.sum() / batch.mask.sum().clamp(min=1))
        # Not torch.manual_seed, which would also reseed accelerators, whose state is not restored.
        torch.default_generator.manual_seed(seed)
        with around():
            output = evaluate_loss(loss, micro, weights[rows, :columns], share)
        total = total + output.total
        metrics.append(output.metrics)
    gradients = torch.autograd.grad(total, [batch.log_probs, batch.entropy], allow_unused=True, materialize_grads=True)
    return Trial(
        total=total.detach(), gradient=gradients[0], entropy_gradient=gradients[1], metrics=merged_metrics(metrics)
    )


def prepare(loss: PolicyLoss, batch: ExampleBatch, *, step: int = 0) -> Prepared:
    """Return what the loss computes from the entire minibatch before the step."""
    return prepared_by(loss, loss_batch(loss, batch.floats(Tensor.detach), step=step))


def loss_batch(
    loss: PolicyLoss, batch: ExampleBatch, needs: frozenset[Need] | None = None, *, step: int = 0
) -> LossBatch:
    """Return the example as the loss receives it, with the inputs that it declares or with these."""
    return LossBatch(
        log_probs=batch.log_probs,
        advantages=batch.advantages,
        mask=batch.mask,
        inputs=batch.inputs,
        needs=needs_of(loss) if needs is None else needs,
        step=step,
    )


def needs_of(loss: PolicyLoss) -> frozenset[Need]:
    """Return the declared needs. Cached, as in a trainer: a loss composed of others may load them to answer."""
    if loss not in _NEEDS:
        _NEEDS[loss] = frozenset(loss.needs(loss.params))
    return _NEEDS[loss]


def advantage_effect(loss: PolicyLoss, batch: ExampleBatch) -> Tensor:
    """Return what the advantages add to d loss / d log_prob, [B, T]."""
    without = run(loss, batch.with_advantages(torch.zeros(len(batch.mask))))
    return torch.where(batch.mask, run(loss, batch).gradient - without.gradient, 0.0)


def first_true(tensor: Tensor) -> list[int] | None:
    """Return the index of the first true element of a bool tensor; None if there is none."""
    indices: list[list[int]] = tensor.nonzero().tolist()
    return indices[0] if indices else None


def merged_metrics(parts: Sequence[Mapping[str, Metric]]) -> dict[str, Metric]:
    """Merge the metrics of micro-batches into those of the minibatch."""
    names = dict.fromkeys(name for part in parts for name in part)
    return {name: merge(part[name] for part in parts if name in part) for name in names}


def _leaf(tensor: Tensor) -> Tensor:
    return tensor.detach().clone().requires_grad_()


def _same(one: Tensor, two: Tensor, relative: float) -> bool:
    largest = torch.cat([one.flatten(), two.flatten()]).abs().max()
    return bool(((one - two).abs() <= relative * largest + ABSOLUTE).all())


def _number(value: Tensor) -> str:
    return f"{float(value):.6g}"

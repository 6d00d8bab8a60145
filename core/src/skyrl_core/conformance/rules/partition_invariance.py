"""Rule ``partition_invariance``: micro-batches and ranks add up to the full batch."""

from torch import Tensor, arange, cat, nan

from skyrl_core.conformance.batches import ExampleBatch, equal_sizes
from skyrl_core.conformance.rule import Rule, Violation
from skyrl_core.conformance.trial import EMPTY_MICRO_BATCH, run
from skyrl_core.contract.policy_loss import PolicyLoss, is_scalar_form


def check_partition_invariance(loss: PolicyLoss, batch: ExampleBatch) -> list[str]:
    """Pad the batch, reorder its sequences, and split it into micro-batches as several ranks would.

    Also with as many tokens and groups as sequences: a loss that tells tensors apart by their size mixes them up.
    """
    notes = _check(loss, batch)
    try:
        return notes or _check(loss, equal_sizes(batch))
    except Violation as violation:
        found = f"with as many tokens and groups as sequences: {violation.found}"
        raise Violation(found, batch=violation.batch) from violation


def _check(loss: PolicyLoss, batch: ExampleBatch) -> list[str]:
    expected = run(loss, batch)
    size, width = batch.mask.shape
    padded = batch.with_masked_column(width, nan).with_masked_column(width, nan)
    if difference := expected.difference(run(loss, padded).take(arange(width + 2) < width)):
        raise Violation(f"with two more columns of padding {difference}", batch=batch)
    order = cat([arange(1, size, 2).flip(0), arange(0, size, 2)])
    if difference := expected.difference(run(loss, batch, [order])):
        raise Violation(f"with the sequences in another order {difference}", batch=batch)
    for parts in _partitions(order):
        trial = run(loss, batch, parts)
        sizes = "+".join(str(len(rows)) for rows in parts)
        difference = expected.difference(trial)
        if difference and is_scalar_form(type(loss)):
            return [
                f"not exact under micro-batches: in parts of {sizes} sequences {difference}. A scalar is weighted by "
                "its share of the tokens, which is exact only for a mean over tokens; override token_losses to be exact"
            ]
        if difference := difference or expected.metric_difference(trial):
            found = f"micro-batches of {sizes} sequences do not add up to the full batch: {difference}"
            raise Violation(found, batch=batch)
    return []


def _partitions(order: Tensor) -> list[list[Tensor]]:
    """Return two micro-batches, uneven ones for two ranks of which one gets an empty one, and one per sequence."""
    half = max(len(order) // 2, 1)
    uneven = [order[:1], *(rows for rows in order[1:].split(half) if len(rows)), EMPTY_MICRO_BATCH]
    return [list(order.split(half)), uneven, list(order.split(1))]


PARTITION_INVARIANCE = Rule(
    name="partition_invariance",
    explanation="micro-batches and ranks add up to the full batch, metrics included, in any order and with any padding",
    remedy="do not average inside the loss; compute batch statistics in prepare(minibatch), which gets the full batch",
    counterexample="dividing by the tokens of the micro-batch; whitening advantages within the micro-batch",
    check=check_partition_invariance,
    requires=("masked_tokens",),
)

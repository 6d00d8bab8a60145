"""Rule ``partition_invariance``: micro-batches and ranks add up to the full batch."""

from dataclasses import replace

from torch import Tensor, arange, cat, float64, nan

from skyrl_core.conformance.batches import ExampleBatch, equal_sizes
from skyrl_core.conformance.loss_call import result_dtype
from skyrl_core.conformance.rule import Rule, Violation
from skyrl_core.conformance.trial import EMPTY_MICRO_BATCH, Trial, run
from skyrl_core.contract.policy_loss import PolicyLoss, is_scalar_form

# The largest log-ratio at which the loss must be finite.
FAR = 50.0


def check_partition_invariance(loss: PolicyLoss, batch: ExampleBatch) -> list[str]:
    """Pad the batch, reorder its sequences, and split it into micro-batches as several ranks would."""
    expected = run(loss, batch)
    size, width = batch.mask.shape
    padded = batch.with_masked_column(width, nan).with_masked_column(width, nan)
    if difference := expected.difference(run(loss, padded).take(arange(width + 2) < width)):
        raise Violation(f"with two more columns of padding {difference}", batch=batch)
    if difference := expected.difference(run(loss, batch, [_order(size)])):
        raise Violation(f"with the sequences in another order {difference}", batch=batch)
    if (found := _not_adding_up(loss, batch, expected)) is None:
        # float64, in which even sums of ratios of e**50 are exact enough to compare.
        extreme = _extreme(batch.to(float64)) if result_dtype(loss, batch.to(float64)) == float64 else {}
        for description, rare in extreme.items():
            if (found := _not_adding_up(loss, rare, run(loss, rare))) is not None:
                found, batch = f"{description}: {found}", rare
                break
    if found is not None and is_scalar_form(type(loss)):
        return [
            f"not exact under micro-batches: {found}. A scalar is weighted by its share of the tokens, which is exact "
            "only for a mean over tokens; override token_losses to be exact"
        ]
    if found is not None:
        raise Violation(f"micro-batches do not add up to the full batch: {found}", batch=batch)
    return []


def _not_adding_up(loss: PolicyLoss, batch: ExampleBatch, expected: Trial) -> str | None:
    """Describe the first partition that differs from the full batch; None if there is none."""
    for parts in _partitions(_order(len(batch.mask))):
        trial = run(loss, batch, parts)
        difference = expected.difference(trial)
        if not is_scalar_form(type(loss)):
            difference = difference or expected.metric_difference(trial)
        if difference:
            return f"in parts of {'+'.join(str(len(rows)) for rows in parts)} sequences {difference}"
    return None


def _extreme(batch: ExampleBatch) -> dict[str, ExampleBatch]:
    """Return batches whose micro-batches differ much from each other, by description."""
    rows = arange(len(batch.mask)).unsqueeze(-1)
    anchor = batch.old_log_probs + FAR * (1.0 * (rows == 1) - 1.0 * (rows == 0))
    return {
        # A loss that tells tensors apart by their size mixes them up.
        "as many tokens and groups as sequences": equal_sizes(batch),
        "rare values": batch.spread(4.0),
        "sequences without any token": replace(batch, mask=batch.mask & (rows % 2 == 0)),
        f"two sequences with log-ratios of {FAR:g} and -{FAR:g}": replace(
            batch, old_log_probs=anchor, rollout_log_probs=anchor.clone()
        ),
        "one sequence with tokens": replace(batch, mask=batch.mask & (rows == 1)),
    }


def _order(size: int) -> Tensor:
    return cat([arange(1, size, 2).flip(0), arange(0, size, 2)])


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
    requires=("masked_tokens", "finite"),
)
